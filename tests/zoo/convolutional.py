"""Convolutional networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from zoo.entry import against, on_paper
from zoo.layers import StandardisedConv, floats


def conv(inputs: int, outputs: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **options)


def head(inputs: int, outputs: int = 3) -> list[nn.Module]:
    return [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs)]


# As in one dimension: filter by filter, the bias ahead of the norm without effect, the last pair against the head.
@on_paper(
    groups=[["0.weight"], ["3.weight"]],
    rescalings=[against("4.weight 4.bias", "8.weight")],
    without_effect=["0.bias"],
    fixed=["8.bias"],
    row_invariant=["0.weight", "3.weight"],
)
def batch_norm_2d():
    first = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()]
    return nn.Sequential(*first, conv(4, 5), nn.BatchNorm2d(5), *head(5)), floats(6, 2, 6, 6)


# Two groups of four channels: biases count there. Then groups of one channel: batch norm's picture, and the bias goes.
@on_paper(
    groups=[["0.weight", "0.bias"], ["3.weight"]],
    rescalings=[against("4.weight 4.bias", "8.weight")],
    without_effect=["3.bias"],
    fixed=["8.bias"],
    row_invariant=["3.weight"],
)
def group_norm():
    first = [nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8, affine=False), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(8, 4, 3), nn.GroupNorm(4, 4), *head(4)), floats(4, 2, 7, 7)


# Every channel of every image by itself.
@on_paper(
    groups=[["0.weight"], ["1.weight", "1.bias"], ["3.weight"]],
    without_effect=["0.bias", "3.bias"],
    fixed=["8.weight", "8.bias"],
    row_invariant=["0.weight", "3.weight"],
)
def instance_norm():
    first = [nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(4, 5, 3), nn.InstanceNorm2d(5), *head(5)), floats(4, 2, 7, 7)


# The filters are normalised before they are used; the bias is added to what they give, and cannot scale.
@on_paper(
    groups=[["0.weight"]],
    fixed=["0.bias", "4.weight", "4.bias"],
    row_invariant=["0.weight"],
)
def weight_standardised():
    return nn.Sequential(StandardisedConv(2, 4, 3), *head(4)), floats(5, 2, 6, 6)


# A filter a channel, and a transposed convolution, whose outputs lie along its second dimension: as a whole only.
@on_paper(
    groups=[["0.weight"], ["1.weight", "1.bias"], ["3.weight"], ["6.weight"]],
    without_effect=["3.bias", "6.bias"],
    fixed=["11.weight", "11.bias"],
    row_invariant=["0.weight", "3.weight"],
)
def depthwise_and_transposed():
    layers = [conv(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)]
    layers += [nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, stride=2)]
    return nn.Sequential(*layers, nn.BatchNorm2d(3, affine=False), *head(3)), floats(6, 2, 6, 6)


class PreActivation(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs)
        self.shortcut = conv(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x):
        h = F.relu(self.bn1(x))
        x = x if self.shortcut is None else self.shortcut(h)
        return x + self.conv2(F.relu(self.bn2(self.conv1(h))))


# The first stream is written by the stem and block 1: bn2 + conv2 = stem, of which conv2 holds more. bn1 meets conv1
# and then a norm. In block 2 the shortcut reads bn1's pair as well: bn1 + shortcut = bn2 + conv2, which all ones solve
# (the stream's degree is 2): two groups, the convolutions that write it and the norms ahead of them.
@on_paper(
    groups=[
        ["0.weight", "1.conv2.weight"],
        ["1.bn1.weight", "1.bn1.bias"],
        ["1.conv1.weight"],
        ["2.conv1.weight"],
        ["2.conv2.weight", "2.shortcut.weight"],
        ["2.bn1.weight", "2.bn1.bias", "2.bn2.weight", "2.bn2.bias"],
    ],
    rescalings=[
        against("1.bn2.weight 1.bn2.bias", "1.conv2.weight"),
        against("2.bn1.weight 2.bn1.bias", "2.shortcut.weight"),
        against("3.weight 3.bias", "7.weight"),
    ],
    fixed=["7.bias"],
    row_invariant=["1.conv1.weight", "2.conv1.weight"],
)
def pre_activation_resnet():
    blocks = [conv(2, 4), PreActivation(4, 4), PreActivation(4, 6), nn.BatchNorm2d(6)]
    return nn.Sequential(*blocks, *head(6)), floats(6, 2, 6, 6)


class PostNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            conv(width, width),
            nn.BatchNorm2d(width),
            conv(width, width),
            nn.BatchNorm2d(width),
        )
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


# Here norms write the stream: 1.bn and every block's bn2 scale together, against the head. Every convolution is
# followed by a norm. The bn2 start with gain zero, where conv1, bn1 and conv2 have no effect.
@on_paper(
    groups=[
        ["0.weight"],
        *([f"{i}.conv1.weight"] for i in (3, 4)),
        *([f"{i}.bn1.weight", f"{i}.bn1.bias"] for i in (3, 4)),
        *([f"{i}.conv2.weight"] for i in (3, 4)),
    ],
    rescalings=[against("1.weight 1.bias 3.bn2.weight 3.bn2.bias 4.bn2.weight 4.bn2.bias", "8.weight")],
    fixed=["8.bias"],
    row_invariant=["0.weight", *(f"{i}.{name}.weight" for i in (3, 4) for name in ("conv1", "conv2"))],
)
def post_norm_resnet_with_zero_gains():
    stem = [conv(2, 4), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*stem, PostNorm(4), PostNorm(4), *head(4)), floats(6, 2, 6, 6)


class StandardisedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm, self.conv = nn.GroupNorm(1, 4), StandardisedConv(4, 4, 3, padding=1, bias=False)
        self.gain = nn.Parameter(floats(4, 1, 1, seed=4))
        self.final, self.head = nn.GroupNorm(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.gain * self.conv(F.relu(self.norm(x)))
        return self.head(F.relu(self.final(x)).mean((2, 3)))


# conv alone (its filters are normalised). The stream: stem, and gain or the norm's pair for the branch:
# norm + gain = stem. The pair has more numbers (8 against 4), so it is in the group.
@on_paper(
    groups=[["stem.weight", "stem.bias", "norm.weight", "norm.bias"], ["conv.weight"]],
    rescalings=[against("norm.weight norm.bias", "gain"), against("final.weight final.bias", "head.weight")],
    fixed=["head.bias"],
    row_invariant=["conv.weight"],
)
def standardised_residual_block():
    return StandardisedBlock(), floats(4, 2, 6, 6)
