"""The scale-invariant pre-activation ResNet-18 of Kodryan et al. (2022).

    stem convolution, four stages of two blocks with k, 2k, 4k, 8k channels and strides 1, 2, 2, 2,
    BatchNorm, ReLU, average pooling of what is left, frozen head without bias

    block(x) = conv2(relu(bn2(conv1(h)))) + s(x),    h = relu(bn1(x)),
    s(x) = x, or conv1x1(bn(h)) where the block changes the shape

No norm has parameters. Each block's first convolution is scale-invariant by itself; the stem, the second convolutions
and the shortcuts write one residual stream that only norms read, so they are scale-invariant jointly. The norm before
the shortcut is the extra one of Li and Arora ("An Exponential Learning Rate Schedule for Deep Learning", 2019). With
PyTorch's default initialisation the joint norm starts near ``sqrt(25 k)``: 28.28 for k = 32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onsphere.lab.models.blocks import check_common, frozen, positive_integer, square_image


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _norm(channels: int, eps: float) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=eps, affine=False)


class _Block(nn.Module):
    """Two 3x3 convolutions, each after a norm and a ReLU, added to the block's input or its shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, eps: float) -> None:
        super().__init__()
        self.bn1 = _norm(inputs, eps)
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn2 = _norm(outputs, eps)
        self.conv2 = _conv3x3(outputs, outputs)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(_norm(inputs, eps), projection)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(x))
        skipped = x if self.shortcut is None else self.shortcut(h)
        return self.conv2(torch.relu(self.bn2(self.conv1(h)))) + skipped  # type: ignore[no-any-return]


class ResNet18(nn.Module):
    """The network itself; :func:`resnet18` checks the arguments and builds it."""

    def __init__(self, channels: int, side: int, classes: int, width: int, head_norm: float, eps: float) -> None:
        super().__init__()
        self.stem = _conv3x3(channels, width)
        stages: list[nn.Module] = []
        inputs = width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            stages.append(nn.Sequential(_Block(inputs, outputs, stride, eps), _Block(outputs, outputs, 1, eps)))
            inputs = outputs
            side = (side + stride - 1) // stride
        self.stages = nn.Sequential(*stages)
        self.bn = _norm(inputs, eps)
        self.pool = nn.AvgPool2d(side)
        self.head = frozen(nn.Linear(inputs, classes, bias=False), head_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images ``x`` [N, channels, side, side]."""
        x = torch.relu(self.bn(self.stages(self.stem(x))))
        return self.head(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def resnet18(
    input_shape: Sequence[int], classes: int, *, width: int = 32, head_norm: float = 10.0, eps: float = 1e-12
) -> ResNet18:
    """Build the ResNet, with PyTorch's default initialisation.

    Args:
        input_shape: (channels, side, side), side at least 8: 28 for Fashion-MNIST, 32 for CIFAR.
        classes: number of outputs, one for each class.
        width: channels k of the stem; 64 is the standard ResNet-18, the papers use 32.
        head_norm: Frobenius norm of the frozen last layer, which has no bias.
        eps: eps of the batch norms; the published code has 1e-5.

    Returns:
        A model [N, channels, side, side] -> [N, classes] whose last layer is ``head``.

    Raises:
        ModelError: for an input that is not a square image of side 8 or more, or arguments that are not positive.
    """
    check_common(input_shape, classes, head_norm, eps)
    channels, side = square_image("resnet18", input_shape, smallest=8)
    return ResNet18(channels, side, classes, positive_integer("width", width), head_norm, eps)
