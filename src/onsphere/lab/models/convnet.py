"""The four-layer scale-invariant ConvNet of Kodryan et al. (2022).

    [3x3 convolution without bias, BatchNorm2d without affine, ReLU] with k, 2k, 4k, 8k channels,
    2x2 max-pooling after the second, third and fourth, max-pooling of what is left, frozen head with bias

The four convolutions are scale-invariant. With PyTorch's default initialisation ``E‖W‖² = out_channels /
3`` for each, so the joint norm starts near ``sqrt(5 k)``: 12.65 for k = 32.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from onsphere.lab.models.blocks import check_common, frozen, positive_integer, square_image


def convnet(
    input_shape: Sequence[int], classes: int, *, width: int = 32, head_norm: float = 10.0, eps: float = 1e-12
) -> nn.Sequential:
    """Build the ConvNet, with PyTorch's default initialisation.

    Args:
        input_shape: (channels, side, side), side at least 8: 28 for Fashion-MNIST, 32 for CIFAR.
        classes: number of outputs, one for each class.
        width: channels k of the first convolution; the papers use 32, 64 and 128.
        head_norm: Frobenius norm of the frozen last layer's weight. Its bias keeps its random initial
            values and is frozen too, as in the published code.
        eps: eps of the batch norms; the published code has 1e-5.

    Returns:
        A model [N, channels, side, side] -> [N, classes] with layers ``conv1``, ``bn1``, ``relu1``, ... and ``head``.

    Raises:
        ModelError: for an input that is not a square image of side 8 or more, or arguments that are not positive.
    """
    check_common(input_shape, classes, head_norm, eps)
    channels, side = square_image("convnet", input_shape, smallest=8)
    positive_integer("width", width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, out_channels in enumerate((width, 2 * width, 4 * width, 8 * width), 1):
        layers[f"conv{i}"] = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        layers[f"bn{i}"] = nn.BatchNorm2d(out_channels, eps=eps, affine=False)
        layers[f"relu{i}"] = nn.ReLU()
        if i > 1:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            side //= 2
        channels = out_channels
    layers["global_pool"] = nn.MaxPool2d(side)
    layers["flatten"] = nn.Flatten()
    layers["head"] = frozen(nn.Linear(channels, classes), head_norm)
    return nn.Sequential(layers)
