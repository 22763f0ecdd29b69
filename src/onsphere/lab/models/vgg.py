"""VGG-16 for small images, without norms: one of the two families of the memory-split experiments.

    3x3 convolutions with bias and ReLU of k, k | 2k, 2k | 4k, 4k, 4k | 8k, 8k, 8k | 8k, 8k, 8k channels, max-pooling
    after every group, then [dropout, Linear, ReLU] twice with 8k units, and the last layer

Its number of parameters for RGB images is a quadratic in the width, 3719 k² + (109 + 8 C) k + C with C classes:
15,291,300 for k = 64 and C = 100 (Lobacheva, Chirkova et al., "On Power Laws in Deep Ensembles", NeurIPS 2020). There
is no norm, so it has no scale-invariant weights, and all of it is trained.

The convolutions start as published, with weights from N(0, 2 / (9 out_channels)) and zero biases (the fan-out of a 3x3
kernel); with PyTorch's default the signal shrinks more than twofold a layer, thirteen layers hide the input, and the
network does not train. The linear layers have PyTorch's default.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import sqrt

from torch import nn

from onsphere.lab.models.blocks import check_common, positive_integer, probability, square_image

#: Channels of the convolutions in units of the width, a group between two poolings each.
_GROUPS = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


def vgg16(input_shape: Sequence[int], classes: int, *, width: int = 64, dropout: float = 0.0) -> nn.Sequential:
    """Build the network, with the published initial weights.

    Args:
        input_shape: (channels, side, side), side at least 8; 32 for CIFAR. The last pooling takes what is left, and
            images smaller than 32 skip poolings once the side is 1, so that the number of parameters does not depend
            on the side.
        classes: number of outputs, one for each class.
        width: channels k of the first convolution; 64 is the standard network.
        dropout: probability of dropping a unit before the first two linear layers; the paper uses 0 to 0.5.

    Returns:
        A model [N, channels, side, side] -> [N, classes] whose last layer is ``head``; everything is trained.

    Raises:
        ModelError: for an input that is not a square image of side 8 or more, or arguments out of range.
    """
    check_common(input_shape, classes)
    channels, side = square_image("vgg16", input_shape, smallest=8)
    positive_integer("width", width)
    probability("dropout", dropout)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for group, multiples in enumerate(_GROUPS, 1):
        for i, multiple in enumerate(multiples, 1):
            convolution = nn.Conv2d(channels, multiple * width, 3, padding=1)
            nn.init.normal_(convolution.weight, std=sqrt(2 / (9 * multiple * width)))
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers[f"conv{group}_{i}"] = convolution
            layers[f"relu{group}_{i}"] = nn.ReLU()
            channels = multiple * width
        pooled = side if group == len(_GROUPS) else min(side, 2)
        if pooled > 1:
            layers[f"pool{group}"] = nn.MaxPool2d(pooled)
            side //= pooled
    layers["flatten"] = nn.Flatten()
    for i in (1, 2):
        layers[f"dropout{i}"] = nn.Dropout(dropout)
        layers[f"linear{i}"] = nn.Linear(channels, channels)
        layers[f"relu_linear{i}"] = nn.ReLU()
    layers["head"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)
