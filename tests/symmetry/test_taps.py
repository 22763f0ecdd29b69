"""Rows of the Jacobian from taps are those from whole gradients, up to a factor."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere import find_symmetries
from onsphere.symmetry.null_space import _Rows
from onsphere.symmetry.probe import Probe


class Uses(nn.Module):
    """Every use of a weight that is tapped, some twice, and one that is not."""

    def __init__(self):
        super().__init__()
        self.w, self.b, self.m = (nn.Parameter(torch.randn(*shape)) for shape in ((4, 8), (8,), (8, 8)))
        self.conv, self.embedding, self.head = nn.Conv1d(2, 3, 3, padding=1), nn.Embedding(5, 4), nn.Linear(24, 24)
        self.norm = nn.LayerNorm(24)

    def forward(self, x):
        z = torch.addmm(self.b, x + self.embedding(torch.arange(len(x)) % 5), self.w) @ self.m
        z = F.relu(self.conv(torch.stack([z, z @ self.m.T], 1)), inplace=True)
        return self.norm(self.head(self.head(z.flatten(1))))


class Differentiates(nn.Module):
    """A forward pass that takes gradients: weights must not be constants in them."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second, self.third, self.how = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1), how

    def energy(self, x):
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x))))).sum()

    def forward(self, x):
        if self.how == "func":
            return torch.func.vmap(torch.func.grad(self.energy))(x)
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.energy(x), x, create_graph=True)
        return gradient


def rows(model, *, tapped):
    probe = Probe(model, (torch.randn(10, 4, generator=torch.Generator().manual_seed(0)),), {})
    source = _Rows(probe, row_products=False)
    assert (source._taps is not None) == tapped
    state = probe._generator.get_state()
    found = source.take(5)
    source._plain = True
    source.at_point()
    probe._generator.set_state(state)
    return found, source.take(5)


def test_taps_give_the_rows_that_gradients_give():
    torch.manual_seed(0)
    found, plain = rows(Uses(), tapped=True)
    factors = (found * plain).sum(1, keepdims=True) / (plain * plain).sum(1, keepdims=True)
    np.testing.assert_allclose(found, factors * plain, atol=1e-12 * np.abs(found).max())
    assert ((factors > 0.1) & (factors < 10)).all()


@pytest.mark.parametrize("how", ["autograd", "func"])
def test_a_forward_pass_that_differentiates_is_not_tapped(how):
    torch.manual_seed(0)
    found, plain = rows(Differentiates(how), tapped=False)
    np.testing.assert_array_equal(found, plain)
    torch.manual_seed(0)
    symmetries = find_symmetries(Differentiates(how), torch.randn(10, 4), unused="ignore")
    assert symmetries.fixed == ("first.weight", "first.bias", "second.weight", "second.bias", "third.weight")
    assert symmetries.without_effect == ("third.bias",)
