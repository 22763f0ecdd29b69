"""Fixed norms: gauge or constraint, against symmetries on paper and by rescaling the models."""

import numpy as np
import pytest
import torch
from torch import nn

import onsphere
from zoo import ZOO

ENTRIES = [entry for entry in ZOO.values() if entry.dimension]


def matrices(model, names):
    """A sphere for every tensor of two dimensions or more, as practice has it; with none, for every tensor."""
    parameters = dict(model.named_parameters())
    chosen = [name for name in names if parameters[name].dim() > 1] or list(names)
    return [{"params": [parameters[name]], "names": [name], "sphere": "joint"} for name in chosen]


def picture(entry):
    model, call = entry.make(torch.float64)
    found = onsphere.find_symmetries(model, *call.args, unused="ignore", **call.kwargs)
    return model, call, found, found.constraints(matrices(model, found.names))


@pytest.fixture(scope="module", params=ENTRIES, ids=lambda entry: entry.name)
def case(request):
    return request.param, *picture(request.param)


def test_counts_are_those_on_paper(case):
    entry, _, _, found, constraints = case
    on_paper = entry.generators(found.names)
    columns = [found.names.index(norm.names[0]) for norm in constraints.norms]
    assert constraints.count == len(columns) - np.linalg.matrix_rank(on_paper[:, columns])
    assert len(constraints.sentences) == constraints.count
    exact = {norm.names[0] for norm in constraints.norms if norm.status == "exact"}
    alone = {group[0] for group in entry.groups if len(group) == 1} | set(entry.without_effect)
    assert {name for name in exact if name in alone} == alone & {norm.names[0] for norm in constraints.norms}


def test_gauge_norms_can_be_restored_and_constraints_cannot(case):
    """Whatever the norms have become, rescalings bring them back: all but those that are constraints."""
    _, model, call, found, constraints = case
    columns = [found.names.index(norm.names[0]) for norm in constraints.norms]
    matrix = found.generators[:, columns].T
    wanted = np.random.default_rng(0).uniform(-0.3, 0.3, len(columns))
    for norm, i in zip(constraints.norms, range(len(columns)), strict=True):
        one = np.zeros(len(columns))
        one[i] = 1.0
        solution = np.linalg.lstsq(matrix, one, rcond=None)[0] if matrix.shape[1] else np.zeros(0)
        reached = np.abs(matrix @ solution - one).max() < 1e-9
        assert reached == (norm.status != "constraint"), norm
        if norm.status == "constraint":
            wanted[i] = 0.0
    amounts = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    logs = found.generators.T @ amounts
    parameters = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    probe = onsphere.symmetry.find.Probe(model, call.args, call.kwargs)
    change = probe.change_by({i: float(np.exp(x)) for i, x in enumerate(logs)})
    assert change < 1e-9
    for norm, i, x in zip(constraints.norms, columns, wanted, strict=True):
        assert logs[i] == pytest.approx(x, abs=1e-9), norm
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())


def perceptron():
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 2)
    )


def sphere(model, *names, kind="joint"):
    parameters = dict(model.named_parameters())
    return {"params": [parameters[n] for n in names], "names": list(names), "sphere": kind}


def test_a_sentence_says_what_is_fixed():
    model = perceptron()
    found = onsphere.find_symmetries(model, torch.randn(16, 4))
    last = found.constraints([sphere(model, n) for n in ("0.weight", "2.weight", "4.weight")])
    assert last.count == 1
    assert last.sentences == (
        "‖0.weight‖ · ‖2.weight‖ · ‖4.weight‖: no rescaling changes this product, so that it is fixed in the function "
        "itself",
    )
    assert [norm.status for norm in last.norms] == ["constraint"] * 3
    # the head's bias is no matter of scale: with it fixed nothing makes up for it
    bias = found.constraints([sphere(model, "4.bias")])
    assert bias.sentences == ("4.bias: nothing makes up for this norm, so that it is fixed in the function itself",)
    free = found.constraints([sphere(model, n) for n in ("0.weight", "2.weight")])
    assert (free.count, [norm.status for norm in free.norms]) == (0, ["gauge", "gauge"])
    assert "2 spheres (0 exact, 2 gauge, 0 constraint)" in repr(free)
    assert free.to_dict()["norms"][0] == {"names": ("0.weight",), "sphere": "joint", "status": "gauge"}
    assert list(free.to_frame().status) == ["gauge", "gauge"]


def test_a_joint_sphere_fixes_the_common_norm_alone():
    model = perceptron()
    found = onsphere.find_symmetries(model, torch.randn(16, 4))
    both = found.constraints([sphere(model, "0.weight", "2.weight")])
    assert (both.count, both.norms[0].status) == (0, "gauge")
    # 4.weight makes up for both together; with it on the sphere too the common norm is still free to be chosen
    with torch.no_grad():
        model[0].weight.mul_(3.0)
    everything = found.constraints([sphere(model, "0.weight", "2.weight", "4.weight")])
    assert everything.count == 0


def test_what_sphere_groups_finds_is_exact():
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
    )
    batch = torch.randn(32, 6)
    found = onsphere.find_symmetries(model, batch, rows=True)
    for spheres in ("joint", "groups", "rows"):
        constraints = found.constraints(found.groups_for(model, spheres=spheres))
        assert constraints.count == 0
        assert {norm.status for norm in constraints.norms} == {"exact"}


def test_what_cannot_be_told_is_refused():
    model = perceptron()
    found = onsphere.find_symmetries(model, torch.randn(16, 4))
    with pytest.raises(ValueError, match="search with rows=True"):
        found.constraints([sphere(model, "0.weight", kind="rows")])
    with pytest.raises(ValueError, match="give the tensor one joint sphere"):
        rows = onsphere.find_symmetries(model, torch.randn(16, 4), rows=True)
        rows.constraints([sphere(model, "0.weight", kind="rows")])
    with pytest.raises(ValueError, match='has no "names"'):
        found.constraints([{"params": [model[0].weight], "sphere": "joint"}])
    with pytest.raises(ValueError, match=r"nobody\.weight is not among the"):
        found.constraints([{"params": [model[0].weight], "names": ["nobody.weight"], "sphere": "joint"}])
    with pytest.raises(ValueError, match="on two spheres"):
        found.constraints([sphere(model, "0.weight"), sphere(model, "0.weight")])
    with pytest.raises(ValueError, match="no group has a sphere"):
        found.constraints([{"params": [model[0].weight], "names": ["0.weight"]}])
