"""The search for symmetries: its parts, its options and its refusals."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onsphere
from onsphere import Symmetries, SymmetryError, find_symmetries, noether_residual, sphere_groups
from onsphere.symmetry.exact_mode import EPS, ExactMode
from onsphere.symmetry.lattice import disjoint_groups, largest_sphere, remaining_generators, row_reduced
from onsphere.symmetry.probe import Probe


def data(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def net(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*(make() for make in layers))


def layer_norm_net():
    return net(lambda: nn.Linear(6, 8), lambda: nn.LayerNorm(8), nn.ReLU, lambda: nn.Linear(8, 3))


# -- reading null spaces -----------------------------------------------------------------------------------


def test_row_reduction_shows_rationals():
    hidden = np.array([[1, 1, 0, -2], [0, 2, -1, 0]], dtype=float)
    mixed = np.random.default_rng(0).normal(size=(2, 2)) @ hidden
    reduced = row_reduced(np.linalg.qr(mixed.T)[0].T)
    assert np.allclose(reduced * 12, np.round(reduced * 12), atol=0)
    assert np.linalg.matrix_rank(np.concatenate([reduced, hidden])) == 2


def test_largest_sphere_prefers_numbers_then_later_tensors():
    constraints = np.array([[1.0, -1.0, -1.0, 0.0]])  # x0 = x1 + x2, x3 free
    assert largest_sphere(constraints, [4, 5, 2, 3], range(4)) == [0, 1, 3]
    assert largest_sphere(constraints, [4, 5, 5, 3], range(4)) == [0, 2, 3]
    assert largest_sphere(constraints, [4, 5, 5, 3], [0, 1]) == [0, 1]
    assert disjoint_groups(constraints, [0, 2, 3]) == [[0, 2], [3]]


def test_generators_are_small_whole_numbers():
    constraints = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert remaining_generators(constraints, np.zeros((0, 3)), 1, []).tolist() == [[1, -2, 0]]
    both = remaining_generators(np.zeros((0, 2)), np.array([[1.0, 1.0]]), 2, [])
    assert np.linalg.matrix_rank(np.concatenate([both, [[1, 1]]])) == 2


# -- the exact forward pass ----------------------------------------------------------------------------------


def test_the_exact_mode_widens_casts_and_drops_eps():
    x = torch.full((2, 3), 1e-8, dtype=torch.float64)
    with ExactMode() as mode:
        assert x.float().dtype == x.to(torch.bfloat16).dtype == x.type(torch.float16).dtype == torch.float64
        assert x.to(dtype=torch.float32).dtype == torch.softmax(x, 0, dtype=torch.float32).dtype == torch.float64
        assert torch.zeros(2).dtype == torch.ones(2, dtype=torch.float16).dtype == torch.float64
        assert torch.arange(3).dtype == torch.int64
        assert torch.equal(x + 1e-6, x) and torch.equal(1e-5 + x, x) and torch.equal(x.clamp(min=1e-5), x)
        assert torch.equal(torch.add(x, 0.5), x.add(0.5)) and float((x + 0.5)[0, 0]) > 0.4
        torch.testing.assert_close(F.normalize(x, dim=-1, eps=1e-3), torch.full_like(x, 3**-0.5))
        spread = F.layer_norm(x * torch.arange(1.0, 4.0), (3,), eps=1e-5)
        assert float(spread.std(dim=-1, correction=0)[0]) == pytest.approx(1)
    assert float(x.float().dtype == torch.float32) and EPS == 1e-200
    assert any("1e-06" in note for note in mode.notes) and any("casts" in note for note in mode.notes)


class HandMade(nn.Module):
    """Weight standardisation and an RMS norm with eps written out, in float32 inside."""

    def __init__(self):
        super().__init__()
        self.w, self.v, self.gain = (nn.Parameter(data(*s)) for s in ((8, 6), (3, 8), (8,)))

    def forward(self, x):
        w = (self.w - self.w.mean(1, keepdim=True)) / (self.w.var(1, keepdim=True) + 1e-5).sqrt()
        h = F.linear(x, w).float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return F.linear(h.to(x.dtype) * self.gain, self.v)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_handwritten_norms_are_seen_through_in_any_precision(dtype):
    found = find_symmetries(HandMade().to(dtype), data(16, 6).to(dtype), rows=True)
    assert found.groups == [("w",)] and found.rescalings == [{"v": 1, "gain": -1}]
    assert found.row_invariant == ("w",) and found.dimension == 2 and found.gap > 1e6
    assert 1e-8 < found.broken_by_eps[0] < 1e-2
    assert any("1e-05" in note for note in found.notes)


# -- options ---------------------------------------------------------------------------------------------------


def test_the_result_reads_as_a_table_and_as_json():
    found = find_symmetries(layer_norm_net(), data(16, 6))
    assert found.groups == [("0.weight", "0.bias")] and found.invariant == ("0.weight", "0.bias")
    assert found.fixed == ("3.bias",) and found.without_effect == ()
    assert found.rescalings == [{"1.weight": 1, "1.bias": 1, "3.weight": -1}]
    assert found.generators.tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, -1, 0]] and found.dimension == 2
    text = repr(found)
    assert "2 symmetries" in text and "0.weight and 0.bias together are scale-invariant" in text
    assert "scaling 1.weight by a, 1.bias by a and 3.weight by a^-1 changes nothing" in text
    assert json.loads(json.dumps(found.to_dict()))["groups"] == [["0.weight", "0.bias"]]
    frame = found.to_frame()
    assert list(frame["role"]) == ["group 1"] * 2 + ["rescaling"] * 3 + ["fixed"] and frame["numbers"].sum() == 99


def test_symmetries_come_back_from_plain_values():
    found = find_symmetries(layer_norm_net(), data(16, 6), rows=True)
    values = json.loads(json.dumps(found.to_dict()))
    again = Symmetries.from_dict(values)
    assert again.to_dict() == found.to_dict() and repr(again) == repr(found)
    np.testing.assert_array_equal(again.generators, found.generators)
    missing = Symmetries.from_dict(values | {"gap": None, "broken_by_eps": [None]})
    assert missing.gap == math.inf and math.isnan(missing.broken_by_eps[0])
    with pytest.raises(ValueError, match="of tensors that the model does not have"):
        Symmetries.from_dict(values | {"groups": [["0.weight", "nobody"]]})
    with pytest.raises(ValueError, match="of tensors that the model does not have"):
        Symmetries.from_dict(values | {"groups": [[]]})
    with pytest.raises(ValueError, match="reshape"):
        Symmetries.from_dict(values | {"generators": [[1.0]]})
    with pytest.raises(KeyError, match="notes"):
        Symmetries.from_dict({name: value for name, value in values.items() if name != "notes"})


def test_rows_tell_batch_norm_from_layer_norm():
    norms = {"batch": nn.BatchNorm1d(8, affine=False), "layer": nn.LayerNorm(8, elementwise_affine=False)}
    for kind, norm in norms.items():
        model = net(lambda: nn.Linear(6, 8, bias=False), lambda norm=norm: norm, lambda: nn.Linear(8, 3))
        found = find_symmetries(model, data(16, 6), rows=True)
        assert found.groups == [("0.weight",)]
        assert found.row_invariant == (("0.weight",) if kind == "batch" else ())
    assert find_symmetries(model, data(16, 6)).row_invariant is None


def test_spheres_of_three_kinds():
    model = net(
        *(lambda: nn.Linear(6, 8, bias=False), lambda: nn.BatchNorm1d(8), nn.ReLU),
        *(lambda: nn.Linear(8, 8, bias=False), lambda: nn.LayerNorm(8), lambda: nn.Linear(8, 3)),
    )
    kinds = {s: [(g["sphere"], g["names"]) for g in sphere_groups(model, data(16, 6), spheres=s)] for s in
             ("joint", "groups", "rows")}  # fmt: skip
    rest = (None, ["4.weight", "4.bias", "5.weight", "5.bias"])
    assert kinds["joint"] == [("joint", ["0.weight", "1.weight", "1.bias", "3.weight"]), rest]
    singles = [("joint", ["0.weight"]), ("joint", ["1.weight", "1.bias"]), ("joint", ["3.weight"])]
    assert kinds["groups"] == [*singles, rest]
    assert kinds["rows"] == [("rows", ["0.weight"]), ("joint", ["1.weight", "1.bias", "3.weight"]), rest]
    with pytest.raises(ValueError, match="spheres is 'all'"):
        sphere_groups(model, data(16, 6), spheres="all")
    optimizer = onsphere.SphereSGD(sphere_groups(model, data(16, 6), spheres="rows"), lr=1e-2)
    before = model[0].weight.detach().norm(dim=1)
    model(data(16, 6)).square().mean().backward()
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach().norm(dim=1), before)


def test_what_to_look_at_can_be_picked():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.aside = layer_norm_net(), nn.Linear(6, 2, bias=False)

        def forward(self, x):
            return {"logits": self.body(x), "aside": self.aside(x)}

    model = Two()
    assert "aside.weight" in find_symmetries(model, data(16, 6)).fixed
    with pytest.raises(SymmetryError, match=r"does not depend on aside\.weight.*Freeze them.*unused='ignore'"):
        find_symmetries(model, data(16, 6), output=lambda y: y["logits"])
    found = find_symmetries(model, data(16, 6), output=lambda y: y["logits"], unused="ignore")
    assert found.without_effect == ("aside.weight",) and found.dimension == 3
    with pytest.raises(ValueError, match="unused is 'x'"):
        find_symmetries(model, data(16, 6), unused="x")


def test_few_outputs_are_made_up_for_by_more_points():
    """One output number an example, one pair of examples: less than there are tensors."""
    model = net(
        *(lambda: nn.Linear(6, 8), nn.Tanh, lambda: nn.Linear(8, 8), nn.Tanh, lambda: nn.Linear(8, 8)),
        *(lambda: nn.LayerNorm(8), lambda: nn.Linear(8, 1)),
    )
    found = find_symmetries(model, data(2, 6))
    assert found.groups == [("4.weight", "4.bias")] and found.dimension == 2
    assert found.fixed == ("0.weight", "0.bias", "2.weight", "2.bias", "6.bias")


def test_randomness_inside_is_part_of_the_function():
    class Augmenting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = layer_norm_net()

        def forward(self, x):
            return F.dropout(self.body(x + 0.1 * torch.randn_like(x)), 0.3, self.training)

    state = torch.get_rng_state()
    assert find_symmetries(Augmenting(), data(16, 6)).dimension == 2
    layer_norm_net()
    torch.set_rng_state(state)
    find_symmetries(Augmenting(), data(16, 6))


def test_the_users_state_stays():
    model = net(lambda: nn.Linear(6, 8), lambda: nn.BatchNorm1d(8), nn.ReLU, lambda: nn.Linear(8, 3)).eval()
    model[0].weight.grad = torch.ones(8, 6)
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    with torch.no_grad():
        find_symmetries(model, data(16, 6), rows=True)
    assert not calls and not model.training and all(p.requires_grad for p in model.parameters())
    assert torch.equal(model[0].weight.grad, torch.ones(8, 6)) and model[3].weight.grad is None
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()


# -- refusals ----------------------------------------------------------------------------------------------------


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x * 2**20).round() / 2**20

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Coarse(nn.Module):
    """Weak noise that no mode can lift: the norm's input is rounded to a grid."""

    def __init__(self):
        super().__init__()
        self.body = layer_norm_net()

    def forward(self, x):
        return self.body[1:](Rounded.apply(self.body[0](x)))


def test_no_clear_answer_is_an_error():
    with pytest.raises(SymmetryError, match=r"no clear gap|not smooth in the scale"):
        find_symmetries(Coarse(), data(16, 6))


def test_a_wrong_generator_would_be_refuted():
    from onsphere.symmetry.find import Analysis

    analysis = Analysis(Probe(layer_norm_net(), (data(16, 6),), {}))
    analysis.certify({0: 1, 1: 1})
    with pytest.raises(SymmetryError, match=r"scaling 0\.weight\^1 changes nothing, but a factor of 2"):
        analysis.certify({0: 1})


# -- the law on gradients ----------------------------------------------------------------------------------------


def test_the_noether_residual():
    model = layer_norm_net().double()
    groups = sphere_groups(model, data(16, 6).double())
    assert noether_residual(groups[0]) == 0  # no gradient yet
    model(data(16, 6).double()).square().mean().backward()
    assert noether_residual(groups[0]) < 1e-4  # eps 1e-5
    assert noether_residual([model[0].weight]) > 1e-3
    exact = find_symmetries(model, data(16, 6).double()).rescalings[0]
    named = dict(model.named_parameters())
    assert noether_residual([named[n] for n in exact], list(exact.values())) < 1e-12
    weights, gradients = [torch.tensor([3.0]), torch.tensor([4.0])], [torch.tensor([4.0]), torch.tensor([-3.0])]
    assert noether_residual(weights, gradients=gradients) == 0
    assert noether_residual(weights, [1, -1], gradients) == pytest.approx(24 / 25)
    assert np.isnan(noether_residual(weights, gradients=[torch.tensor([np.nan]), gradients[1]]))
    with pytest.raises(ValueError, match="1 exponents for 2 tensors"):
        noether_residual(weights, [1], gradients)
    with pytest.raises(ValueError, match="no tensor"):
        noether_residual([])
