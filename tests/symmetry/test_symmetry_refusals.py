"""When the search cannot know it says so: what it saw and what to try."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere import SymmetryError, find_symmetries

CLASSES = 3


def data(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


class NarrowKernel(torch.autograd.Function):
    """A matrix product out of torch's sight that computes in a narrow type, forward and backward."""

    @staticmethod
    def forward(ctx, x, weight, narrow):
        ctx.save_for_backward(x, weight)
        ctx.narrow = narrow
        return torch.from_numpy((x.numpy().astype(narrow) @ weight.numpy().T.astype(narrow)).astype(float))

    @staticmethod
    def backward(ctx, gradient):
        x, weight, g = (t.numpy().astype(ctx.narrow) for t in (*ctx.saved_tensors, gradient))
        return torch.from_numpy((g @ weight).astype(float)), torch.from_numpy((g.T @ x).astype(float)), None


class LowPrecision(nn.Module):
    def __init__(self, narrow):
        super().__init__()
        self.weight, self.head, self.narrow = nn.Parameter(torch.randn(5, 4)), nn.Linear(5, CLASSES), narrow

    def forward(self, x):
        return self.head(F.layer_norm(NarrowKernel.apply(x, self.weight, self.narrow), (5,)))


class OwnGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.rng = nn.Linear(4, CLASSES), np.random.default_rng(0)

    def forward(self, x):
        return self.linear(x + 0.1 * torch.from_numpy(self.rng.standard_normal(x.shape)).to(x))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(4, CLASSES), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x) * self.calls


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.spare = nn.Linear(4, CLASSES), nn.Linear(2, 2, bias=False)

    def forward(self, x):
        return self.linear(x)


@pytest.mark.parametrize(
    ("make", "shape", "seen", "advice"),
    [
        (lambda: LowPrecision(np.float32), (8, 4), r"no clear gap.*singular value", "low precision.*probe a part"),
        (lambda: LowPrecision(np.float16), (8, 4), r"no clear gap.*singular value", "low precision.*probe a part"),
        (
            OwnGenerator,
            (8, 4),
            r"not deterministic: two runs .* differ by \d",
            "Switch off what draws from a generator",
        ),
        (Counting, (8, 4), r"not deterministic: two runs .* differ by \d", "changes from call to call"),
        (Unused, (8, 4), r"does not depend on spare\.weight", r"Freeze them .*unused='ignore'"),
        (Unused, (8, 5), r"forward pass failed .*RuntimeError: .*shapes cannot be multiplied", "Give the arguments of"),
        (lambda: nn.BatchNorm1d(4), (1, 4), "forward pass failed .*more than 1 value", "more than one example"),
    ],
)
def test_what_cannot_be_known_is_an_error_with_advice(make, shape, seen, advice):
    with pytest.raises(SymmetryError, match=rf"(?s){seen}.*{advice}") as caught:
        find_symmetries(seeded(make), data(*shape))
    assert isinstance(caught.value, ValueError)


def test_an_unused_parameter_can_be_accepted():
    found = find_symmetries(seeded(Unused), data(8, 4), unused="ignore")
    assert found.without_effect == ("spare.weight",)
    assert found.groups == []
    assert found.fixed == ("linear.weight", "linear.bias")


def test_no_pair_of_a_plain_linear_layer_is_a_symmetry():
    """The smallest case by brute force: every 0/1 and -1/0/1 vector moves the output."""
    found = find_symmetries(seeded(lambda: nn.Linear(4, CLASSES)), data(8, 4))
    assert found.dimension == 0
    assert found.generators.shape == (0, 2)
    model, x = seeded(lambda: nn.Linear(4, CLASSES)), data(8, 4)
    for a, b in combinations([0.5, 1.0, 2.0], 2):
        moved = F.linear(x, a * model.weight, b * model.bias)
        assert float((moved - model(x)).detach().norm()) > 0.1
