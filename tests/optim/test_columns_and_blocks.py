"""Spheres of columns and blocks are those of rows of the transposed tensor, and of tensors of their own."""

import copy
import math

import pytest
import torch
from torch import nn

import onsphere
from onsphere.optim import Brake, Floor

LABELS = (0, 2, 0, 1, 2, 1, 1)
SHAPE = (7, 5, 3)
#: Ways of stepping: a name, and an optimiser made from groups.
WAYS = {
    "sgd": lambda groups: onsphere.SphereSGD(groups, 0.05),
    "momentum": lambda groups: onsphere.SphereSGD(groups, 0.05, momentum=0.9),
    "geodesic": lambda groups: onsphere.SphereSGD(groups, 0.05, momentum=0.9, geodesic=True),
    "pure": lambda groups: onsphere.SphereSGD(groups, 0.05, momentum=0.9, foreach=False),
    "pure geodesic": lambda groups: onsphere.SphereSGD(groups, 0.05, geodesic=True, foreach=False),
    "kept": lambda groups: kept(groups),
    "angle": lambda groups: kept(groups, angle=True),
    "tangent": lambda groups: kept(groups, tangent=True),
    "brake": lambda groups: kept(groups, policy=Brake(outward=0.2)),
    "floor": lambda groups: kept(groups, policy=Floor(ratio=0.3)),
}


def kept(groups, **options):
    plain = [{"params": group["params"]} for group in groups]
    # SGD: its update of a part is the part of its update, as Adam's would be too
    return onsphere.keep_on_sphere(torch.optim.SGD(plain, 0.05, momentum=0.9), groups, **options)


def weight(shape=SHAPE, dtype=torch.float64, seed=0):
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def stepped(make, groups, gradients, steps=4):
    optimizer = make(groups)
    for step in range(steps):
        gradients(step)
        optimizer.step()
    return optimizer


def gradient(step, like):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(step + 1), dtype=torch.float64)


def blocks(dim):
    return LABELS if dim == 0 else (0, 1, 1, 0, 2)


@pytest.mark.parametrize("way", WAYS)
def test_columns_step_as_rows_of_the_transposed_tensor(way):
    columns, rows = weight(), nn.Parameter(weight().detach().transpose(0, 1).contiguous())

    def gradients(step):
        columns.grad = gradient(step, columns)
        rows.grad = columns.grad.transpose(0, 1).contiguous()

    stepped(WAYS[way], [{"params": [columns], "sphere": "columns"}], gradients)
    stepped(WAYS[way], [{"params": [rows], "sphere": "rows"}], gradients)
    assert not torch.allclose(columns, weight(), atol=1e-2)
    torch.testing.assert_close(columns.transpose(0, 1), rows, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_blocks_step_as_tensors_of_their_own(way, dim):
    whole, labels = weight(), torch.tensor(blocks(dim))
    members = [(labels == label).nonzero().flatten() for label in range(3)]
    parts = [nn.Parameter(whole.detach().index_select(dim, some)) for some in members]

    def gradients(step):
        whole.grad = gradient(step, whole)
        for part, some in zip(parts, members, strict=True):
            part.grad = gradient(step, whole).index_select(dim, some)

    stepped(WAYS[way], [{"params": [whole], "sphere": "blocks", "blocks": [blocks(dim)], "dim": dim}], gradients)
    stepped(WAYS[way], [{"params": [part], "sphere": "joint"} for part in parts], gradients)
    for part, some in zip(parts, members, strict=True):
        torch.testing.assert_close(whole.index_select(dim, some), part, rtol=0, atol=1e-13)


@pytest.mark.parametrize("way", WAYS)
def test_blocks_of_one_row_are_rows(way):
    one, other = weight(), weight()

    def gradients(step):
        one.grad, other.grad = gradient(step, one), gradient(step, one)

    stepped(WAYS[way], [{"params": [one], "sphere": "blocks", "blocks": [tuple(range(7))]}], gradients)
    stepped(WAYS[way], [{"params": [other], "sphere": "rows"}], gradients)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["columns", "blocks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_stay_where_they_were(kind, dtype):
    w, v = weight((48, 64), dtype), weight((64,), dtype, 1)
    group = {"params": [w], "sphere": kind} | (
        {"blocks": [tuple(i // 16 for i in range(48))]} if kind == "blocks" else {}
    )
    if kind == "columns":
        group["params"].append(v)  # fewer than two dimensions: one sphere

    def norms():
        parts = [w.detach().double().view(3, -1).norm(dim=1)] if kind == "blocks" else [w.detach().double().norm(dim=0)]
        return torch.cat([*parts, v.detach().double().norm().view(1)])

    before = norms()
    for name in ("momentum", "geodesic", "kept"):

        def gradients(step):
            w.grad, v.grad = gradient(step, w).to(dtype), gradient(step, v).to(dtype)

        stepped(WAYS[name], [dict(group)], gradients)
        torch.testing.assert_close(norms(), before, rtol=2e-7 if dtype == torch.float32 else 3e-3, atol=0)


@pytest.mark.parametrize("name", ["momentum", "kept"])
@pytest.mark.parametrize("kind", ["columns", "blocks"])
def test_a_checkpoint_brings_the_radii_back(name, kind):
    extra = {"blocks": [LABELS]} if kind == "blocks" else {}
    first, second = weight(), nn.Parameter(3 * weight(seed=5).detach())
    saved = WAYS[name]([{"params": [first], "sphere": kind, **extra}])
    state = copy.deepcopy(saved.state_dict())
    loaded = WAYS[name]([{"params": [second], "sphere": kind, **extra}])
    loaded.load_state_dict(state)
    second.grad = gradient(0, second)
    loaded.step()
    sphere = {"rows": True, "dim": 1} if kind == "columns" else {"blocks": [LABELS]}
    (norms,), (wanted,) = onsphere.Sphere(second, **sphere).norm(), onsphere.Sphere(first, **sphere).norm()
    torch.testing.assert_close(norms, wanted, rtol=1e-12, atol=0)
    assert len(norms) == (5 if kind == "columns" else 3)


def test_a_checkpoint_of_other_blocks_is_refused():
    groups = [{"params": [weight()], "sphere": "blocks", "blocks": [labels]} for labels in (LABELS, LABELS[::-1])]
    first, second = (onsphere.SphereSGD([group], 0.1) for group in groups)
    with pytest.raises(ValueError, match="load the state of a SphereSGD that was made with the same groups"):
        second.load_state_dict(first.state_dict())


def test_a_sphere_measures_projects_splits_and_turns():
    w, labels = weight().detach(), torch.tensor(LABELS)
    sphere = onsphere.Sphere(w.clone(), blocks=[LABELS])
    expected = torch.stack([w[labels == label].norm() for label in range(3)])
    torch.testing.assert_close(sphere.radius[0], expected)
    moved = sphere.project_([torch.tensor([1.0, 2.0, 3.0])]).tensors[0]
    torch.testing.assert_close(moved, w * (torch.tensor([1.0, 2.0, 3.0]).double() / expected)[labels].view(-1, 1, 1))
    v = gradient(0, w)
    (tangent,) = sphere.tangent(v)
    for label in range(3):
        inside = labels == label
        assert abs(float((tangent[inside] * moved[inside]).sum())) < 1e-13
    turned = moved * 2 + 0.5 * tangent
    (angles,) = sphere.angle_to(turned)
    for label, angle in enumerate(angles.tolist()):
        inside = labels == label
        assert math.isclose(math.tan(angle), float(0.25 * tangent[inside].norm() / moved[inside].norm()), rel_tol=1e-12)
    (columns,) = onsphere.Sphere(w, rows=True, dim=1).tangent(v)
    (rows,) = onsphere.Sphere(w.transpose(0, 1).contiguous(), rows=True).tangent(v.transpose(0, 1).contiguous())
    torch.testing.assert_close(columns.transpose(0, 1), rows)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, 'a group with "sphere": "blocks" has "blocks": None; give a list'),
        ({"blocks": [LABELS, LABELS]}, "blocks has 2 entries for 1 tensors"),
        ({"blocks": [LABELS[:5]]}, "blocks has 5 labels for the 7 slices of tensor 0 along dimension 0"),
        ({"blocks": [LABELS], "dim": 1}, "blocks has 7 labels for the 5 slices of tensor 0 along dimension 1"),
        ({"blocks": [LABELS], "dim": 2}, "dim is 2; it must be 0"),
        (
            {"blocks": [(0, 2, 0, 3, 2, 3, 3)]},
            r"the labels of tensor 0 are \[0, 2, 3\]; they must be the whole numbers",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(extra, words):
    for use in (lambda groups: onsphere.SphereSGD(groups, 0.1), lambda groups: kept(groups)):
        with pytest.raises(ValueError, match=words):
            use([{"params": [weight()], "sphere": "blocks", **extra}])


def test_a_block_of_zeros_is_refused():
    w = weight().detach()
    w[torch.tensor(LABELS) == 1] = 0
    with pytest.raises(ValueError, match=r"blocks that are zero and so have no direction \(blocks \[1\]\)"):
        onsphere.SphereSGD([{"params": [nn.Parameter(w)], "sphere": "blocks", "blocks": [LABELS]}], 0.1)
    with pytest.raises(ValueError, match="at least two dimensions"):
        onsphere.Sphere(torch.ones(3), blocks=[(0, 1, 2)])
