"""The ensemble as one module: equal to the loop, exported to a file that runs alone, errors."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from onsphere.ensembles import Ensemble
from onsphere.lab.models import build


def members(name="mlp", count=3, **size):
    size = size or {"widths": (6, 5)}
    found = [build(name, input_shape=(3, 8, 8), classes=4, seed=s, **size) for s in range(count)]
    generator = torch.Generator().manual_seed(0)
    for m in found:  # running statistics of its own
        m(torch.randn(16, 3, 8, 8, generator=generator))
    return found


def loop(networks, x):
    """The plain way: one after another, in evaluation mode."""
    with torch.no_grad():
        probabilities = torch.stack([n.eval()(x).softmax(-1) for n in networks])
    return probabilities.mean(0).log()


@pytest.fixture
def x():
    return torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mlp", {"widths": (6, 5)}),
        ("convnet", {"width": 2}),
        ("resnet18", {"width": 2}),
        (
            "vgg16",
            {
                "width": 1,
            },
        ),
        ("wrn28", {"width": 1}),
    ],
)
def test_equals_the_loop_over_members(name, size, x):
    networks = members(name, **size)
    ensemble = Ensemble.from_members(networks)
    assert all(n.training for n in networks)  # they stay as they are
    with torch.no_grad():
        found, each = ensemble(x), ensemble.member_log_probabilities(x)
    assert found.shape == (9, 4)
    assert (found - loop(networks, x)).abs().max() < 1e-6
    assert each.shape == (3, 9, 4)
    assert (each[1] - networks[1](x).log_softmax(-1)).abs().max() < 1e-6
    assert (found.exp().sum(-1) - 1).abs().max() < 1e-6


def test_norms_with_parameters_and_with_any_number_of_dimensions():
    torch.manual_seed(0)
    for norm, shape in ((nn.BatchNorm1d, (5, 3)), (nn.BatchNorm1d, (5, 3, 4)), (nn.BatchNorm3d, (5, 3, 2, 2, 2))):
        networks = [nn.Sequential(norm(3), nn.Flatten(), nn.LazyLinear(2)) for _ in range(2)]
        x = torch.randn(shape)
        for n in networks:
            n(x)
            nn.init.normal_(n[0].weight)
            nn.init.normal_(n[0].bias)
        assert (Ensemble.from_members(networks)(x) - loop(networks, x)).abs().max() < 1e-6


def test_members_stay_in_evaluation_mode(x):
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))]
    networks[0](x)
    ensemble = Ensemble.from_members(networks).train()
    before = {k: v.clone() for k, v in ensemble.state_dict().items()}
    assert torch.equal(ensemble(x), ensemble(x))
    assert all(torch.equal(before[k], v) for k, v in ensemble.state_dict().items())
    assert not any(m.training for m in ensemble.stacked.modules())


def test_is_a_module_like_any_other(x):
    networks = members()
    ensemble = Ensemble.from_members(networks)
    assert "members=3" in repr(ensemble)
    assert sum(p.numel() for p in ensemble.parameters()) == 3 * sum(p.numel() for p in networks[0].parameters())
    other = Ensemble.from_members(members(count=4)[1:])
    assert not torch.equal(other(x), ensemble(x))
    other.load_state_dict(ensemble.state_dict())
    assert torch.equal(other(x), ensemble(x))
    assert ensemble.double()(x.double()).dtype == torch.float64
    again = Ensemble.from_stacked(networks[0], ensemble.float().tensors())
    assert torch.equal(again(x), other(x))


ALONE = """
import sys
sys.modules["onsphere"] = None  # import onsphere fails
import torch
try:
    import onsphere
except ImportError:
    pass
else:
    raise SystemExit("onsphere was imported")
folder = sys.argv[1]
module = torch.export.load(folder + "/ensemble.pt2").module()
data = torch.load(folder + "/expected.pt")
for count in (1, 2, 9):
    assert (module(data["x"][:count]) - data["y"][:count]).abs().max() < 1e-6, count
print("alone")
"""


@pytest.mark.parametrize(("name", "size"), [("mlp", {"widths": (6, 5)}), ("convnet", {"width": 1})])
def test_the_exported_file_runs_without_onsphere_at_any_batch_size(name, size, x, tmp_path):
    networks = members(name, **size)
    Ensemble.from_members(networks).export(tmp_path / "ensemble.pt2", x[:1])
    torch.save({"x": x, "y": loop(networks, x)}, tmp_path / "expected.pt")
    command = [sys.executable, "-c", ALONE, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "alone"


def test_export_errors(x, tmp_path):
    class FixedBatch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(192, 4)

        def forward(self, x):
            return self.linear(x.flatten(1)) + torch.zeros(9, 1)

    ensemble = Ensemble.from_members([FixedBatch(), FixedBatch()])
    with pytest.raises(ValueError, match=r"cannot be exported: .*dynamic_batch=False fixes the example's"):
        ensemble.export(tmp_path / "a.pt2", x)
    with pytest.raises(ValueError, match="with a batch above 0"):
        ensemble.export(tmp_path / "a.pt2", x[:0])
    for taken in (tmp_path, "/dev/null"):
        with pytest.raises(ValueError, match="no regular file"):
            ensemble.export(taken, x)


def changed(change):
    found = members()
    found[2] = change(found[2])
    return found


def poisoned(network):
    with torch.no_grad():
        network.linear1.weight[0, 0] = torch.nan
    return network


@pytest.mark.parametrize(
    ("networks", "error", "message"),
    [
        (list, ValueError, "an ensemble needs at least one"),
        (lambda: changed(lambda m: 3), TypeError, "member 2 is a int"),
        (
            lambda: changed(lambda m: members(widths=(6, 4))[0]),
            ValueError,
            "member 2 differs from member 0: linear2 is",
        ),
        (
            lambda: changed(lambda m: m.double()),
            ValueError,
            "linear1.weight is .* torch.float64 on cpu, not .* torch.flo",
        ),
        (lambda: changed(lambda m: nn.Linear(192, 4)), ValueError, "the network is Linear"),
        (lambda: changed(poisoned), ValueError, "member 2 failed to train: linear1.weight is not finite; leave such"),
        (lambda: [nn.Flatten()], ValueError, "has no parameters"),
    ],
)
def test_members_that_make_no_ensemble(networks, error, message):
    with pytest.raises(error, match=message):
        Ensemble.from_members(networks())


def test_tensors_that_do_not_fit():
    template = nn.Linear(3, 2)
    good = {"weight": torch.zeros(4, 2, 3), "bias": torch.zeros(4, 2)}
    for tensors, message in (
        ({"weight": good["weight"]}, "no tensor 'bias' is given"),
        ({**good, "scale": torch.zeros(4)}, "tensor 'scale' is given, which"),
        ({**good, "bias": torch.zeros(3, 2)}, r"'bias' has shape \(3, 2\); it must be \[members, 2\]"),
        ({k: v[:0] for k, v in good.items()}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Ensemble.from_stacked(template, tensors)


def test_a_network_without_logits():
    with pytest.raises(ValueError, match=r"a member returns \[5\]; it must return one tensor of logits"):
        Ensemble.from_members([nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))])(torch.zeros(5, 3))


def test_a_shape_that_comes_again_is_replayed_and_gives_the_same(monkeypatch):
    from onsphere.ensembles import module as where

    traced = []
    monkeypatch.setattr(where, "trace", lambda *a, original=where.trace: traced.append(1) or original(*a))
    torch.manual_seed(3)
    members = [nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval() for _ in range(4)]
    ensemble = Ensemble.from_members(members)
    x, other = torch.randn(7, 6), torch.randn(7, 6)
    loop = lambda x: torch.stack([m(x).softmax(-1) for m in members]).mean(0).log()  # noqa: E731
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(ensemble(x), loop(x), rtol=0, atol=1e-6)
        assert traced == [1]
        torch.testing.assert_close(ensemble(other), loop(other), rtol=0, atol=1e-6)
        for tensor in ensemble.tensors().values():  # new values are seen
            tensor.zero_()
        torch.testing.assert_close(ensemble(x), torch.full((7, 3), -math.log(3)))
        ensemble.double()  # a new type is traced anew
        for _ in range(3):
            assert ensemble(x.double()).dtype == torch.float64
        assert traced == [1, 1]
    ensemble(x.double()).sum().backward()  # and gradients still flow when they are wanted
    assert all(p.grad is not None for p in ensemble.parameters())


def test_log_probabilities_of_minus_infinity_and_tiny_ones_average_well():
    from onsphere.ensembles.module import averaged

    logs = torch.tensor([[-math.inf, -200.0, -0.0], [-math.inf, -201.0, -0.0]])
    torch.testing.assert_close(averaged(logs), torch.logsumexp(logs, 0) - math.log(2))


def test_no_program_stands_for_a_call_that_means_something_else(tmp_path):
    torch.manual_seed(4)
    ensemble = Ensemble.from_members([nn.Linear(6, 3) for _ in range(3)])
    x = torch.randn(7, 6)
    with torch.no_grad():
        expected = ensemble(x)
        assert ensemble(x).equal(ensemble(x))  # traced from here on
        each = torch.func.vmap(lambda row: ensemble(row[None])[0])(x)
        torch.testing.assert_close(each, expected)
        with torch.autocast("cpu", torch.bfloat16):
            found = [ensemble(x) for _ in range(3)]
        assert all(torch.equal(f, found[0]) for f in found) and not torch.equal(found[0], ensemble(x))
        other = copy.deepcopy(ensemble)
        torch.save(ensemble, tmp_path / "whole.pt")
        for tensor in ensemble.tensors().values():
            tensor.zero_()
        for again in (other, torch.load(tmp_path / "whole.pt", weights_only=False)):
            for _ in range(3):
                torch.testing.assert_close(again(x), expected)
