"""WideResNet-28: one of the two families of the memory-split experiments.

    stem convolution with k channels, three stages of four pre-activation blocks with k, 2k, 4k channels and strides
    1, 2, 2, BatchNorm, ReLU, average pooling of what is left, last layer

    block(x) = conv2(relu(bn2(dropout(conv1(h))))) + s(x),    h = relu(bn1(x)),
    s(x) = x, or conv1x1(x) where the block changes the shape

As in the published experiments, and unlike the textbook network, the stem has k channels (not 16), every convolution
has a bias, a block's stride sits on its second 3x3 convolution, and the last norm has momentum 0.9. With 100 classes it
has 36,755,940 parameters at k = 160 (WRN-28-10) and 2,315,460 at k = 40 (Lobacheva, Chirkova et al., "On Power Laws in
Deep Ensembles", NeurIPS 2020; Chirkova et al., "Deep Ensembles on a Fixed Memory Budget", 2020). The norms have
parameters and the last layer is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onsphere.lab.models.blocks import check_common, positive_integer, probability, square_image

_BLOCKS = 4  # a stage: 3 stages of 4 blocks of 2 convolutions, a stem, two shortcuts and the last layer are 28


class _Block(nn.Module):
    """Two 3x3 convolutions, each after a norm and a ReLU, added to the block's input or its shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1)
        changes = stride != 1 or inputs != outputs
        self.shortcut: nn.Module | None = nn.Conv2d(inputs, outputs, 1, stride=stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(self.conv1(torch.relu(self.bn1(x))))
        skipped = x if self.shortcut is None else self.shortcut(x)
        return self.conv2(torch.relu(self.bn2(h))) + skipped  # type: ignore[no-any-return]


class WideResNet28(nn.Module):
    """The network itself; :func:`wrn28` checks the arguments and builds it."""

    def __init__(self, channels: int, side: int, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        stages: list[nn.Module] = []
        inputs = width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            blocks = [_Block(inputs, outputs, stride, dropout)]
            blocks += [_Block(outputs, outputs, 1, dropout) for _ in range(_BLOCKS - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
            side = (side + stride - 1) // stride
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(inputs, momentum=0.9)
        self.pool = nn.AvgPool2d(side)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images ``x`` [N, channels, side, side]."""
        x = torch.relu(self.bn(self.stages(self.stem(x))))
        return self.head(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def wrn28(input_shape: Sequence[int], classes: int, *, width: int = 160, dropout: float = 0.0) -> WideResNet28:
    """Build the network, with PyTorch's default initialisation.

    Args:
        input_shape: (channels, side, side), side at least 8; 32 for CIFAR.
        classes: number of outputs, one for each class.
        width: channels k of the stem and the first stage; 160 is WRN-28-10.
        dropout: probability of dropping an activation after each block's first convolution; the paper uses 0.

    Returns:
        A model [N, channels, side, side] -> [N, classes] whose last layer is ``head``; everything is trained.

    Raises:
        ModelError: for an input that is not a square image of side 8 or more, or arguments out of range.
    """
    check_common(input_shape, classes)
    channels, side = square_image("wrn28", input_shape, smallest=8)
    return WideResNet28(channels, side, classes, positive_integer("width", width), probability("dropout", dropout))
