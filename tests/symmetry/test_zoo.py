"""Every symmetry of the zoo is found and none is invented; its spheres train with gradients tangent to them."""

import contextlib
import random
from itertools import chain

import numpy as np
import pytest
import torch

from onsphere import SphereSGD, SymmetryError, find_symmetries, noether_residual, sphere_groups
from zoo import ZOO, loss_of, with_tiny_eps

with_groups = [entry for entry in ZOO.values() if entry.groups]
without_groups = [entry for entry in ZOO.values() if not entry.groups]


def each(entries):
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.name)


def rank(rows) -> int:
    return int(np.linalg.matrix_rank(rows, tol=1e-9)) if len(rows) else 0


def sets(groups) -> set[frozenset[str]]:
    return {frozenset(group) for group in groups}


@contextlib.contextmanager
def nothing_changes(model, call):
    """The model's and the inputs' numbers, gradients, versions, flags, hooks, and all random states stay."""
    tensors = [*model.parameters(), *model.buffers()]
    given = [t for t in chain(call.args, call.kwargs.values()) if isinstance(t, torch.Tensor)]
    ran = []
    handles = [module.register_forward_hook(lambda *_: ran.append("forward")) for module in model.modules()]
    handles += [p.register_hook(lambda g: ran.append("gradient")) for p in model.parameters() if p.requires_grad]
    for i, module in enumerate(model.modules()):
        module.training = i % 2 == 0
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5) if p.requires_grad else None

    def state():
        every = [*tensors, *given]
        versions = [t._version for t in every]
        bits = [t.detach().clone() for t in every], [None if t.grad is None else t.grad.clone() for t in every]
        flags = [
            (id(module), module.training, getattr(module, "eps", None), len(module._forward_hooks))
            for module in model.modules()
        ]
        named = [(name, id(p), p.requires_grad) for name, p in model.named_parameters()]
        generators = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()
        return bits, (versions, flags, named, generators, [t.dtype for t in every])

    before, rest = state()
    yield
    after, other_rest = state()
    for old, new in zip(chain(*before), chain(*after), strict=True):
        assert (old is None and new is None) or torch.equal(old, new)
    assert rest == other_rest
    assert ran == []
    for handle in handles:
        handle.remove()


def test_the_zoo_is_large_and_its_paper_is_consistent():
    assert len(ZOO) >= 25
    for entry in ZOO.values():
        model, _ = entry.make()
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        on_paper = entry.generators(names)
        assert rank(on_paper) == entry.dimension
        assert {n for n, column in zip(names, on_paper.T, strict=True) if not column.any()} == set(entry.fixed)
        assert len(entry.invariant) == sum(map(len, entry.groups))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["float64", "float32", "bf16"])
@each(ZOO.values())
def test_all_are_found_and_none_is_invented(entry, dtype):
    model, call = entry.make(dtype)
    found = find_symmetries(model, *call.args, rows=True, **call.kwargs)
    assert list(found.names) == [name for name, p in model.named_parameters() if p.requires_grad]
    assert sets(found.groups) == sets(entry.groups)
    assert set(found.invariant) == entry.invariant
    assert set(found.without_effect) == set(entry.without_effect)
    assert set(found.fixed) == set(entry.fixed)
    assert set(found.row_invariant) == set(entry.row_invariant)
    assert found.dimension == len(found.generators) == entry.dimension
    # one space: as many directions as each of its two bases has
    on_paper = entry.generators(found.names)
    assert rank(found.generators) == rank(np.concatenate([found.generators, on_paper])) == entry.dimension
    assert found.gap > 1e10
    assert all(isinstance(c, int) and c != 0 for exponents in found.rescalings for c in exponents.values())
    assert len(found.broken_by_eps) == len(found.groups)
    assert all(0 <= broken < 0.01 for broken in found.broken_by_eps)


@each(ZOO.values())
def test_nothing_of_the_users_is_touched(entry):
    model, call = entry.make()
    with nothing_changes(model, call):
        find_symmetries(model, *call.args, rows=True, **call.kwargs)
    if entry.groups:
        with nothing_changes(model, call), torch.no_grad():
            groups = sphere_groups(model, *call.args, **call.kwargs)
        # the user's own tensors, not copies
        assert {id(p) for group in groups for p in group["params"]} == {
            id(p) for p in model.parameters() if p.requires_grad
        }


@each(with_groups)
def test_the_joint_sphere_trains_with_tangent_gradients(entry):
    """The norms' eps is 1e-12 here: their own 1e-5 alone puts up to 2e-3 into the residual of these small models."""
    model, call = entry.make()
    with_tiny_eps(model)
    groups = sphere_groups(model, *call.args, **call.kwargs)
    assert groups[0]["sphere"] == "joint"
    assert set(groups[0]["names"]) == entry.invariant
    optimizer = SphereSGD(groups, lr=3e-3, other_lr=1e-2)
    group = optimizer.param_groups[0]
    residuals, losses = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(50):
            optimizer.zero_grad()
            loss = loss_of(model(*call.args, **call.kwargs))
            loss.backward()
            losses.append(float(loss.detach()))
            residuals.append(noether_residual(group))
            assert any(p.grad is not None and p.grad.any() for p in group["params"])
            optimizer.step()
    assert max(residuals) < 1e-5
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    norm = float(torch.cat([p.detach().double().flatten() for p in group["params"]]).norm())
    assert norm == pytest.approx(group["radius"], rel=1e-6)


@each([entry for entry in with_groups if entry.fixed])
def test_the_residual_sees_what_is_not_a_symmetry(entry):
    model, call = entry.make(torch.float64)
    with_tiny_eps(model)
    found = find_symmetries(model, *call.args, **call.kwargs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss_of(model(*call.args, **call.kwargs)).backward()
    named = dict(model.named_parameters())
    for exponents in [*(dict.fromkeys(group, 1) for group in found.groups), *found.rescalings]:
        assert noether_residual([named[name] for name in exponents], list(exponents.values())) < 1e-6
    moved = [named[name] for name in found.fixed if named[name].detach().any()]
    assert not moved or max(noether_residual([p]) for p in moved) > 1e-3


@each(without_groups)
def test_no_sphere_where_there_is_none(entry):
    model, call = entry.make()
    with pytest.raises(SymmetryError, match=r"none of the \d+ trainable parameters is scale-invariant"):
        sphere_groups(model, *call.args, **call.kwargs)
