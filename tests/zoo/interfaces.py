"""Models that are called or answer in their own way: frozen tensors, several inputs, nests of outputs, random draws."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.entry import Call, against, on_paper
from zoo.layers import floats, linear, rms, tokens


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.bn, self.second = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.ln, self.third, self.fourth = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.bn2, self.head = nn.BatchNorm1d(8, affine=False), nn.Linear(8, 3)
        for tensor in (self.first.weight, self.third.bias, *self.ln.parameters(), *self.head.parameters()):
            tensor.requires_grad_(False)

    def forward(self, x):
        x = F.relu(self.bn(self.first(x)))
        x = F.relu(self.ln(self.second(x)))
        x = self.third(x)
        return self.head(self.bn2(self.fourth(F.relu(x))))


# first.bias: no effect (batch norm). bn (a) and second.weight (b) with second.bias a + b before the layer norm, of
# which b = 1 holds more. third.bias is frozen, so third.weight cannot scale: ReLU sees the sum. fourth.weight is
# followed by a batch norm, which takes its bias away. Frozen tensors appear nowhere.
@on_paper(
    groups=[["second.weight", "second.bias"], ["fourth.weight"]],
    rescalings=[against("bn.weight bn.bias", "second.weight")],
    without_effect=["first.bias", "fourth.bias"],
    fixed=["third.weight"],
    row_invariant=["fourth.weight"],
)
def frozen_parameters():
    return Frozen(), floats(16, 6)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.numbers = nn.Embedding(11, 8), nn.Linear(6, 8)
        self.norm, self.head = nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3)

    def forward(self, category, numbers, *, weight):
        return self.head(self.norm(self.embedding(category) + self.numbers(numbers))) * weight


# One stream, written by the embedding of an integer input and by the layer of a floating one.
@on_paper(
    groups=[["embedding.weight", "numbers.weight", "numbers.bias"]],
    fixed=["head.weight", "head.bias"],
)
def several_inputs():
    return TwoInputs(), Call((tokens(9), floats(9, 6)), {"weight": floats(9, 1, seed=2)})


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.classes, self.project = nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, x):
        h = F.relu(self.norm(self.trunk(x)))
        return {"logits": self.classes(h), "features": F.normalize(self.project(h), dim=-1), "chosen": h.argmax(-1)}


# The trunk as ever. (norm.weight, norm.bias) reach both heads; classes.weight must undo them, project.weight may (then
# its bias is fixed), or project.bias goes with them.
@on_paper(
    groups=[["trunk.weight"], ["project.weight", "project.bias"]],
    rescalings=[against("norm.weight norm.bias", "classes.weight project.weight")],
    without_effect=["trunk.bias"],
    fixed=["classes.bias"],
    row_invariant=["trunk.weight"],
)
def dictionary_of_outputs():
    return TwoHeads(), floats(16, 6)


class Moments(NamedTuple):
    mean: Tensor
    deviation: Tensor


class Gaussian(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.mean, self.deviation = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        h = self.norm(self.body(x))
        return Moments(self.mean(h), self.deviation(h).exp())


# The norm's pair reaches two heads, whose weights undo it together.
@on_paper(
    groups=[["body.weight", "body.bias"]],
    rescalings=[against("norm.weight norm.bias", "mean.weight deviation.weight")],
    fixed=["mean.bias", "deviation.bias"],
)
def tuple_of_outputs():
    return Gaussian(), floats(5, 6)


# Dropout passes degrees on. norms' pair 1 (a), 4.weight (b), 4.bias a + b, then a norm.
@on_paper(
    groups=[["0.weight", "0.bias"], ["4.weight", "4.bias"]],
    rescalings=[against("1.weight 1.bias", "4.weight"), against("5.weight 5.bias", "6.weight")],
    fixed=["6.bias"],
)
def dropout():
    layers = [nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.LayerNorm(8)]
    return nn.Sequential(*layers, nn.Linear(8, 3)), floats(5, 6)


class RandomInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second, self.head = linear(6, 8), nn.LayerNorm(8), linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = x + 0.1 * torch.randn_like(x)
        if torch.rand(()) < 0.5:
            x = x.flip(-1)
        h = F.dropout(F.relu(self.norm(self.first(x))), 0.2, self.training)
        return self.head(rms(self.second(h)))


# Given what is drawn (noise on the input, a flip, a mask) the function is an ordinary one.
@on_paper(
    groups=[["first.weight"], ["norm.weight", "norm.bias"], ["second.weight"]],
    fixed=["head.weight", "head.bias"],
)
def random_inside():
    return RandomInside(), floats(8, 6)


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(6, 3) for _ in range(3))
        self.mix = nn.Parameter(torch.ones(3))

    def forward(self, x):
        shares = self.mix / self.mix.sum()
        return torch.stack([expert(x) for expert in self.experts], -1) @ shares


# Shares that sum to one, without any norm layer. Nothing else is free: the experts are added up.
@on_paper(
    groups=[["mix"]],
    fixed=[f"experts.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")],
)
def mixture_by_shares():
    return Mixture(), floats(5, 6)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.head = linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(2):
            x = F.relu(self.shared(x))
        return self.head(F.layer_norm(x, (8,), eps=1e-9))


# stem (a), then twice shared.weight (b) with shared.bias: degree a + b after the first use, a + 2 b after the second.
# One bias for both: b = 0, so the weight is fixed, and the bias goes with the stem.
@on_paper(
    groups=[["stem.weight", "shared.bias"]],
    fixed=["shared.weight", "head.weight", "head.bias"],
)
def layer_used_twice():
    return Shared(), floats(12, 6)
