"""Multilayer perceptrons: one idea each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from zoo.entry import against, on_paper
from zoo.layers import Function, floats, linear, rms, squared_relu


# Batch norm divides each row of 0.weight by its own size, and subtracts 0.bias. The head is read as it is.
@on_paper(
    groups=[["0.weight"]],
    without_effect=["0.bias"],
    fixed=["3.weight", "3.bias"],
    row_invariant=["0.weight"],
)
def batch_norm():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 3))
    return model, floats(16, 6)


# The pair (1.weight, 1.bias) has degree 1 through ReLU and layer 3, where the second norm takes it away. The last
# pair goes through layer 5 to the output, which 5.weight can make good; 5.bias is added after that.
@on_paper(
    groups=[["0.weight"], ["1.weight", "1.bias"], ["3.weight"]],
    rescalings=[against("4.weight 4.bias", "5.weight")],
    without_effect=["0.bias"],
    fixed=["5.bias"],
    row_invariant=["0.weight", "3.weight"],
)
def batch_norm_affine():
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)]
    return nn.Sequential(*layers), floats(16, 6)


# Layer norm looks at all channels at once, so the bias ahead of it counts, and scales with the weight.
@on_paper(
    groups=[["0.weight", "0.bias"]],
    rescalings=[against("1.weight 1.bias", "3.weight")],
    fixed=["3.bias"],
)
def layer_norm():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)), floats(5, 6)


# The first gain meets a linear layer and then a norm, so it is invariant by itself, and so is that layer.
@on_paper(groups=[["0.weight", "0.bias"], ["1.weight"], ["2.weight"]], fixed=["4.weight"])
def rms_norm():
    layers = [nn.Linear(6, 8), nn.RMSNorm(8), linear(8, 8), nn.RMSNorm(8, elementwise_affine=False), linear(8, 3)]
    return nn.Sequential(*layers), floats(5, 6)


# Weight norm: original0 is the size g of each row, original1 the row that gives the direction.
@on_paper(
    groups=[["0.parametrizations.weight.original1"]],
    fixed=["0.bias", "0.parametrizations.weight.original0", "2.weight", "2.bias"],
    row_invariant=["0.parametrizations.weight.original1"],
)
def weight_normalised():
    return nn.Sequential(weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3)), floats(6, 6)


# Spectral norm divides the matrix by its largest singular value: as a whole, not row by row. The bias of layer 0
# cannot be scaled with it, so that ReLU passes no factor on.
@on_paper(
    groups=[["0.parametrizations.weight.original"]],
    fixed=["0.bias", "2.weight", "2.bias"],
)
def spectrally_normalised():
    return nn.Sequential(spectral_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 3)), floats(6, 6)


# No norm: ReLU passes the degree a of (0.weight, 0.bias) on, 2.weight adds b, 2.bias must have a + b and 4.weight
# -(a + b). The last bias is fixed.
@on_paper(
    rescalings=[against("0.weight 0.bias", "2.weight"), against("2.weight 2.bias", "4.weight")],
    fixed=["4.bias"],
)
def relu_mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)), floats(6, 6)


# Tanh has no degree.
@on_paper(fixed=["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"])
def tanh_mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)), floats(6, 6)


# Weights of degrees a, b, c, biases a, a + b, a + b + c, and the normalised output takes it all away. The largest 0/1
# vector is b = 1 (64 + 8 + 4 numbers; a = 1 has 48 + 8 + 8 + 4). a = b = c = 1 is the degree-weighted one, biases
# 1, 2, 3.
@on_paper(
    groups=[["2.weight", "2.bias", "4.bias"]],
    rescalings=[
        {"0.weight": 1, "0.bias": 1, "2.weight": 1, "2.bias": 2, "4.weight": 1, "4.bias": 3},
        against("2.weight 2.bias", "4.weight"),
    ],
)
def homogeneous_with_biases():
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), Function(F.normalize)]
    return nn.Sequential(*layers), floats(8, 6)


class CosineHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Linear(6, 8)
        self.classes = nn.Parameter(floats(3, 8, seed=5))
        self.temperature = nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        return self.temperature * F.cosine_similarity(self.features(x)[:, None], self.classes[None], dim=-1)


# Cosines forget both norms: of the features (weight and bias together) and of each class. The temperature stays.
@on_paper(
    groups=[["features.weight", "features.bias"], ["classes"]],
    fixed=["temperature"],
    row_invariant=["classes"],
)
def cosine_head():
    return CosineHead(), floats(5, 6)


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.body, self.norm, self.head = linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.body(x))) * self.scale


# A factor on the output stands against the head's weight and bias, and the last norm against the head's weight.
@on_paper(
    groups=[["body.weight"]],
    rescalings=[against("head.weight head.bias", "scale"), against("norm.weight norm.bias", "head.weight")],
)
def temperature():
    return Temperature(), floats(5, 6)


class SquaredReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down, self.head = nn.Linear(6, 8), linear(8, 12), linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(rms(x + self.down(squared_relu(self.up(rms(x))))))


# The stream x has one degree; the branch has 2 up + down.
@on_paper(
    groups=[["stem.weight", "stem.bias", "down.weight"]],
    rescalings=[{"up.weight": 1, "down.weight": -2}],
    fixed=["head.weight", "head.bias"],
)
def squared_relu_mlp():
    return SquaredReLU(), floats(5, 6)


class GatedMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = linear(6, 8), nn.RMSNorm(8)
        self.gate, self.up, self.down = linear(8, 12), linear(8, 12), linear(12, 8)
        self.final, self.head = nn.RMSNorm(8, elementwise_affine=False), linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        h = self.norm(x)
        return self.head(self.final(x + self.down(F.silu(self.gate(h)) * self.up(h))))


# SiLU has no degree, so norm + gate = 0; the branch has the degree norm + up + down, that of the stem. Up and down
# have as many numbers: the later one stands in the group.
@on_paper(
    groups=[["stem.weight", "down.weight"]],
    rescalings=[against("up.weight", "down.weight"), against("norm.weight", "gate.weight up.weight")],
    fixed=["head.weight"],
)
def gated_mlp():
    return GatedMLP(), floats(5, 6)


class ZeroBranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down, self.head = linear(6, 8), linear(8, 12), linear(12, 8), nn.Linear(8, 3)
        self.gain = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        x = self.stem(x)
        return self.head(rms(x + self.gain * self.down(F.relu(self.up(rms(x))))))


# The branch has degree gain + up + down = stem. At the start its gain is zero: up and down have no effect, the gain
# and the head's bias are not changed by doubling, and nothing of that is a symmetry.
@on_paper(
    groups=[["stem.weight", "down.weight"]],
    rescalings=[against("gain", "down.weight"), against("up.weight", "down.weight")],
    fixed=["head.weight", "head.bias"],
)
def zero_initialised_branch():
    return ZeroBranch(), floats(5, 6)


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.head = nn.Linear(6, 8).requires_grad_(False), nn.Linear(8, 3).requires_grad_(False)
        self.a, self.b = nn.Parameter(floats(2, 6, seed=3)), nn.Parameter(torch.zeros(8, 2))

    def forward(self, x):
        return self.head(rms(self.base(x) + x @ self.a.mT @ self.b.mT))


# Adaptation of low rank: only the product counts, and it is added to what is frozen. b starts at zero.
@on_paper(rescalings=[against("a", "b")])
def low_rank_adaptation():
    return LowRank(), floats(5, 6)
