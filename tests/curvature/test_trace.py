"""Traces against dense matrices: inside three standard errors, exact where nothing is left to chance, by groups."""

import numpy as np
import pytest
import torch
from curvature_nets import NETS, batches_for, fingerprint, net
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.curvature.operators import hessian_operator
from onsphere.curvature.trace import Estimate, estimate_trace, trace

LOSSES = {"ce": torch.nn.functional.cross_entropy, "mse": lambda o, y: ((o - torch.eye(3).to(o)[y]) ** 2).mean()}


def symmetric(size, rank=None, seed=0):
    half = np.random.default_rng(seed).normal(size=(size, rank or size))
    signs = np.where(np.arange(half.shape[1]) % 3 == 0, -1.0, 1.0)
    return torch.from_numpy(half * signs @ half.T)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_the_standard_error_is_that_of_the_estimates(method, distribution):
    matrix = symmetric(30)
    options = {"method": method, "distribution": distribution, "probes": 60}
    found = [estimate_trace(lambda v: matrix @ v, 30, seed=s, **options) for s in range(300)]
    values, truth = np.array([e.value for e in found]), float(matrix.trace())
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(300)
    assert np.mean([e.standard_error**2 for e in found]) == pytest.approx(values.var(), rel=0.35)
    assert {e.products for e in found} == {60}


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("name", "mode"), [*((n, "train") for n in NETS), ("batch_norm", "eval")])
def test_within_three_standard_errors_in_95_of_100_trials(name, mode, loss, method):
    operator = hessian_operator(net(name), LOSSES[loss], batches_for(name, 2), mode=mode)
    dense = operator.dense()
    inside = 0
    for seed in range(100):
        found = estimate_trace(lambda v: dense @ v, operator.size, method=method, seed=seed)
        inside += abs(found.value - float(dense.trace())) <= 3 * found.standard_error
    assert inside >= 95
    # What the loop did with the dense matrix is what the function does with products.
    direct = trace(net(name), LOSSES[loss], batches_for(name, 2), mode=mode, method=method, probes=12, seed=3)
    same = estimate_trace(lambda v: dense @ v, operator.size, method=method, probes=12, seed=3)
    assert direct.value == pytest.approx(same.value, rel=1e-7, abs=1e-9)
    assert direct.standard_error == pytest.approx(same.standard_error, rel=1e-5, abs=1e-9)


@given(rank=st.integers(1, 6), size=st.integers(8, 25), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_hutch_plus_plus_is_exact_up_to_the_rank_of_its_sketch(rank, size, seed):
    matrix = symmetric(size, rank, seed)
    found = estimate_trace(lambda v: matrix @ v, size, method="hutch++", probes=3 * rank + 2, seed=seed)
    scale = float(matrix.norm())
    assert found.value == pytest.approx(float(matrix.trace()), abs=1e-8 * scale)
    assert found.standard_error < 1e-8 * scale
    rough = estimate_trace(lambda v: matrix @ v, size, distribution="gaussian", probes=3 * rank + 2, seed=seed)
    assert rough.standard_error > 1e-3 * scale / np.sqrt(size)


def test_a_sketch_of_the_whole_space_leaves_nothing_to_chance():
    matrix = symmetric(7)
    found = estimate_trace(lambda v: matrix @ v, 7, method="hutch++", probes=30)
    assert found.value == pytest.approx(float(matrix.trace()))
    assert (found.standard_error, found.probes, found.products) == (0.0, 0, 14)


def test_a_diagonal_matrix_needs_no_luck_with_signs():
    found = estimate_trace(lambda v: v * torch.arange(5.0, dtype=torch.float64), 5, probes=2)
    assert found == Estimate(10.0, 0.0, 2, 2, 5)
    assert float(found) == 10.0


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
@pytest.mark.parametrize("sphere", [False, True])
def test_groups_are_the_traces_of_diagonal_blocks(method, sphere):
    model, batches = net("batch_norm"), batches_for("batch_norm", 2)
    groups = {"first": "0.*", "rest": ["3.*", "6.*"]}
    chosen = ["0.weight", "3.weight", "6.weight"]
    operator = hessian_operator(model, LOSSES["ce"], batches, chosen, sphere)
    diagonal = operator.dense().diagonal()
    found = trace(
        *(model, LOSSES["ce"], batches, chosen, sphere),
        method=method,
        groups={n: [w for w in _names(operator, p)] for n, p in groups.items()},
        probes=150,
    )
    assert sum(e.value for e in found.groups.values()) == pytest.approx(found.value)
    assert sum(e.dimension for e in found.groups.values()) == operator.size
    for name, patterns in groups.items():
        truth = sum(float(diagonal[operator.slices[n]].sum()) for n in _names(operator, patterns))
        assert abs(found.groups[name].value - truth) < 4 * found.groups[name].standard_error
        assert found.groups[name].standard_error < abs(truth)
    each = trace(model, LOSSES["ce"], batches, chosen, sphere, groups="parameters", probes=4, method=method)
    assert tuple(each.groups) == tuple(operator.names)


def _names(operator, patterns):
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return [n for n in operator.names if any(n.startswith(p[:-1]) for p in patterns)]


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_on_the_sphere_against_the_dense_riemannian_hessian(method):
    operator = hessian_operator(net("batch_norm"), LOSSES["ce"], batches_for("batch_norm", 2), ["0.weight"], True)
    dense = operator.dense()
    values = [estimate_trace(lambda v: dense @ v, operator.size, method=method, seed=s) for s in range(100)]
    # Hutch++ sketches the whole space here and has no error but rounding.
    assert sum(abs(e.value - float(dense.trace())) <= 3 * e.standard_error + 1e-9 for e in values) >= 95
    found = trace(net("batch_norm"), LOSSES["ce"], batches_for("batch_norm", 2), ["0.weight"], True, method=method)
    assert found.dimension == operator.size - 1
    assert abs(found.value - float(dense.trace())) <= 4 * found.standard_error + 1e-9


def test_seeds_decide_and_nothing_else_changes():
    model, batches = net("batch_norm"), batches_for("batch_norm", 2)
    before = fingerprint(model)
    first, again, other = (trace(model, LOSSES["ce"], batches, probes=5, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.value != other.value
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "exact"}, "method is 'exact'; it must be one of hutchinson, hutch"),
        ({"distribution": "uniform"}, "distribution is 'uniform'; it must be one of rademacher, gaussian"),
        ({"probes": 1}, "probes is 1; hutchinson needs a whole number of at least 2"),
        ({"probes": 3, "method": "hutch++"}, "probes is 3; hutch.* at least 4"),
        ({"probes": 2.5}, "probes is 2.5"),
        ({"groups": "layers"}, "groups is 'layers'; it must be None, 'parameters' or a dictionary"),
        ({"groups": {"a": "6.weight"}, "parameters": ["0.weight"]}, "group 'a' holds '6.weight', which is not among"),
        ({"batches": []}, "empty"),
    ],
)
def test_errors_say_what_is_allowed(options, message):
    given_ = {"batches": batches_for("batch_norm", 2), "probes": 4} | options
    with pytest.raises(ValueError, match=message):
        trace(net("batch_norm"), LOSSES["ce"], **given_)


def test_a_product_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        estimate_trace(lambda v: v / 0, 3)


def test_an_estimate_as_text_dictionary_and_table():
    found = trace(net("layer_norm"), LOSSES["ce"], batches_for("layer_norm", 1), probes=4, groups="parameters")
    assert repr(found).startswith("Estimate(") and " ± " in repr(found) and "groups" in repr(found)
    assert found.to_dict()["groups"]["0.weight"]["value"] == found.groups["0.weight"].value
    frame = found.to_frame()
    assert list(frame.group) == [*found.groups, "total"]
    assert frame.value.iloc[-1] == found.value
