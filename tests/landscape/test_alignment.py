"""Permutations that keep the function, and weight matching that finds them."""

import copy

import pytest
import torch
from landscape_nets import digits, trained
from torch import nn

from onsphere.lab.models.convnet import convnet
from onsphere.lab.models.mlp import mlp
from onsphere.lab.models.resnet import resnet18
from onsphere.landscape import align, barrier, permutation_groups, permute


def _plain():
    return nn.Sequential(
        *(
            nn.Conv2d(1, 6, 3),
            nn.GroupNorm(1, 6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.BatchNorm2d(6),
            nn.GELU(),
        ),
        *(nn.Flatten(), nn.Linear(96, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3)),
    )


class _Loop(nn.Module):
    """A block whose layer leads from the residual stream into itself."""

    def __init__(self, width):
        super().__init__()
        self.layer, self.norm = nn.Linear(width, width), nn.BatchNorm1d(width)

    def forward(self, x):
        return x + torch.relu(self.norm(self.layer(x)))


NETWORKS = {
    "mlp": lambda: mlp((1, 8, 8), 3, widths=(16, 12)),
    "convnet": lambda: convnet((1, 8, 8), 3, width=4),
    "resnet18": lambda: resnet18((1, 8, 8), 3, width=4),
    "plain": _plain,
    "loops": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 12), _Loop(12), _Loop(12), nn.Linear(12, 3)),
}


def _network(name, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[name]().double()
        x = torch.randn(16, 1, 8, 8, dtype=torch.float64)
        with torch.no_grad():
            for parameter in model.parameters():  # gains and biases that are not all alike
                parameter.add_(0.1 * torch.randn_like(parameter))
        model(x)  # nor are running statistics
        return model.eval(), x


def _shuffled(model, seed=1):
    groups = permutation_groups(model)
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    orders = {
        g: torch.randperm(state[axes[0].name].shape[axes[0].dim] // axes[0].block, generator=generator)
        for g, axes in groups.items()
    }
    return permute(state, groups, orders), orders


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_network_computes_the_same_function(name):
    model, x = _network(name)
    before = model(x)
    state, orders = _shuffled(model)
    assert orders
    assert any(not torch.equal(state[n], t) for n, t in model.state_dict().items())
    model.load_state_dict(state)
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_copy_is_recovered_exactly(name):
    model, x = _network(name)
    shuffled, _ = _shuffled(model)
    found = align(model, model, shuffled)
    assert found.angle_before > 0.1
    assert found.angle == 0
    for key, tensor in model.state_dict().items():
        assert torch.equal(found.state[key], tensor)
    y = torch.arange(16) % 3
    aligned, raw = (
        barrier(model, model, b, nn.functional.cross_entropy, (x, y), 5, parameters=["*weight"])
        for b in (found.state, shuffled)
    )
    assert aligned.loss_barrier < 1e-12
    # Without alignment the function on the way is another one, better or worse.
    assert abs(raw.losses - raw.losses[0]).max() > 1e-4
    assert abs(aligned.losses - raw.losses[0]).max() < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_alignment_brings_independent_networks_nearer_and_keeps_the_function(name):
    (a, x), (b, _) = _network(name, 0), _network(name, 5)
    before = b(x)
    found = align(a, a, b, starts=2)
    assert found.angle < found.angle_before
    b.load_state_dict(found.state)
    torch.testing.assert_close(b(x), before, rtol=1e-10, atol=1e-10)


def test_what_leads_from_a_group_into_itself_never_loses():
    (a, _), (b, _) = _network("loops", 0), _network("loops", 5)
    few, many = (align(a, a, b, rounds=rounds) for rounds in (1, 100))
    assert many.angle <= few.angle < few.angle_before
    assert many.rounds < 100


def test_between_trained_networks_alignment_takes_most_of_the_barrier_away():
    x, y = digits()
    for pair in ((0, 1), (0, 2), (1, 2)):
        a, b = (trained(seed) for seed in pair)
        found = align(a, a, b)
        path = {"points": 11, "parameters": ["linear*"], "statistics": (x[:1300], y[:1300])}
        test = (x[1300:], y[1300:])
        raw = barrier(a, a, b, nn.functional.cross_entropy, test, **path)
        aligned = barrier(a, a, found.state, nn.functional.cross_entropy, test, **path)
        assert found.angle < found.angle_before - 0.05
        assert raw.loss_barrier > 0.1
        assert aligned.loss_barrier < 0.7 * raw.loss_barrier
        same = copy.deepcopy(b)
        same.load_state_dict(found.state)
        torch.testing.assert_close(same(x).detach(), b(x).detach(), rtol=1e-3, atol=1e-3)


def test_what_is_read_otherwise_is_left_in_order():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.second(self.first(x).T)

    assert permutation_groups(Transposed()) == {}


def test_what_cannot_be_followed_is_left_in_order():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.third(torch.relu(self.second(torch.cumsum(self.first(x), 1))))

    assert [axes[0].name for axes in permutation_groups(Odd()).values()] == ["second.weight"]


def test_groups_can_be_given_and_are_checked():
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2))
    shuffled, _ = _shuffled(model)
    given = {"hidden": [("0.weight", 0), ("2.weight", 1)]}
    assert align(model, model, shuffled, groups=given).angle == 0
    with pytest.raises(ValueError, match="does not exist"):
        align(model, model, model, groups={"hidden": [("0.weight", 7)]})
    with pytest.raises(ValueError, match="can be reordered"):
        align(nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="rounds is 0"):
        align(model, model, model, rounds=0)
    with pytest.raises(ValueError, match="NaN"):
        align(model, model, {n: t * float("nan") for n, t in model.state_dict().items()})
    with pytest.raises(ValueError, match="in the model"):
        align(model, model, nn.Sequential(nn.Linear(4, 7, bias=False), nn.ReLU(), nn.Linear(7, 2)))
    with pytest.raises(ValueError, match="no permutation"):
        permute(model.state_dict(), permutation_groups(model), {"0.weight": torch.zeros(6, dtype=torch.long)})
    with pytest.raises(ValueError, match="no permutation group"):
        permute(model.state_dict(), permutation_groups(model), {"other": torch.arange(6)})
