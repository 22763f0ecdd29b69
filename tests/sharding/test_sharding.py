"""Sums over parts, rows that are held, agreement: against whole tensors, for every way in which torch cuts one."""

import itertools

import pytest
import torch
from processes import outcomes, run_on
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import onsphere
from onsphere.products import inner, row_norms, squared_norm
from onsphere.sharding import add_up, agreement, held_rows, part, rows_here

SIZES = [(5, 3), (2, 7), (1, 4), (9,), (4, 3, 2)]


def _tensors():
    random = torch.Generator().manual_seed(3)
    return [torch.randn(size, dtype=torch.float64, generator=random) for size in SIZES]


def _placements(dim):
    """All that a mesh of two dimensions can do with a tensor of so many dimensions."""
    single = [Replicate(), *map(Shard, range(dim))]
    return list(itertools.product(single, single))


def sums_of_every_layout():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    wrong = []
    for x in _tensors():
        y = x.flip(0) + 1
        for placements in _placements(x.dim()):
            spread, other = (distribute_tensor(t, mesh, placements) for t in (x, y))
            elsewhere = distribute_tensor(y, mesh, [Replicate(), Shard(0)])
            held = x[held_rows(spread)]
            found = {
                "squared norm": (squared_norm(spread), x.square().sum()),
                "inner product": (inner(spread, other), (x * y).sum()),
                "of another layout": (inner(spread, elsewhere), (x * y).sum()),
                "norms of rows": (row_norms([spread])[0], x.flatten(1).norm(dim=1) if x.dim() > 1 else x.norm()),
            }
            if x.dim() > 1:
                here = part(spread).square().flatten(1).sum(1)
                whole = held.square().flatten(1).sum(1)
                found["sums of rows held here"] = add_up([here], [spread], by_row=[True])[0], whole
                # beside a tensor that is added up over both dimensions, rows go along to all processes
                corner = distribute_tensor(x, mesh, [Shard(0), Shard(1)])
                both = [here, part(corner).sum()]
                beside = add_up(both, [spread, corner], by_row=[True, False])
                found["beside another"] = torch.cat([beside[0], beside[1][None]]), torch.cat([whole, x.sum()[None]])
                found["values of rows"] = (
                    rows_here(x[:, 0].flatten(1).sum(1) if x.dim() > 2 else x[:, 0], spread),
                    (held[:, 0].flatten(1).sum(1) if x.dim() > 2 else held[:, 0]),
                )
            for what, (value, right) in found.items():
                if value.shape != right.shape or not torch.allclose(value, right, rtol=1e-12, atol=1e-12):
                    wrong.append(f"{what} of {tuple(x.shape)} with {placements}: {value}, not {right}")
    return wrong


def test_sums_over_every_layout_are_those_of_the_whole_tensor():
    assert run_on(4, sums_of_every_layout) == [[]] * 4


def norms_on_meshes_of_three_dimensions():
    """Sums over two of three dimensions of a mesh, which have a group of processes of their own if they have names."""
    x = torch.arange(20.0, dtype=torch.float64).view(4, 5)
    meshes = [init_device_mesh("cpu", (1, 2, 2), mesh_dim_names=names) for names in (("p", "a", "b"), None)]
    cuts = [[first, Shard(0), Shard(1)] for first in (Replicate(), Shard(0))]
    return [float(squared_norm(distribute_tensor(x, mesh, cut))) for mesh in meshes for cut in cuts]


def test_sums_over_some_dimensions_of_a_mesh():
    for found in run_on(4, norms_on_meshes_of_three_dimensions):
        assert found == pytest.approx([2470.0] * 4)


def spheres_of_parts():
    """What a Sphere of DTensors on two meshes says and does, beside one of the whole tensors."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    cuts = [
        (mesh, [Shard(0), Shard(1)]),
        (mesh["a"], [Shard(0)]),
        (mesh, [Replicate(), Shard(0)]),
        (mesh["b"], [Shard(0)]),
    ]
    found = []
    for rows in (False, True):
        xs = _tensors()[:4]
        vs = [x.flip(0) + 1 for x in xs]
        whole = onsphere.Sphere([x.clone() for x in xs], rows=rows)
        spread, moved = ([distribute_tensor(t, *cut) for t, cut in zip(ts, cuts, strict=True)] for ts in (xs, vs))
        sphere = onsphere.Sphere(spread, rows=rows)
        residuals = (onsphere.noether_residual(ts, gradients=gs) for ts, gs in ((spread, moved), (whole.tensors, vs)))
        pairs = [
            tuple(residuals),
            (sphere.radius, whole.radius),
            (sphere.shares(), whole.shares()),
            (sphere.angle_to(moved), whole.angle_to(vs)),
            ([t.full_tensor() for t in sphere.tangent(moved)], whole.tangent(vs)),
            (
                [t.full_tensor() for t in sphere.tangent_(moved)],
                [t.clone() for t in whole.tangent_([v.clone() for v in vs])],
            ),
            (sphere.project_(2.0).norm(), whole.project_(2.0).norm()),
            ([t.full_tensor() for t in sphere.tensors], [t.clone() for t in whole.tensors]),
        ]
        if rows:
            radii = [torch.arange(1.0, 1 + len(r)) if r.dim() else r for r in whole.radius]
            pairs.append((sphere.project_(radii).norm(), whole.project_(radii).norm()))
            pairs.append(([t.full_tensor() for t in sphere.tensors], [t.clone() for t in whole.tensors]))
        found += pairs
    return found


def test_a_sphere_of_parts_is_that_of_the_whole_tensors():
    for pairs in run_on(4, spheres_of_parts):
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def collectives():
    """All-reduces, and everything else that is sent, in a step of spheres on two meshes and on none."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    x, y, z, w, plain = _tensors()[0], torch.eye(4, 6), torch.ones(3, 4), torch.randn(6, 5), torch.ones(3)
    spread = [
        distribute_tensor(x, mesh, [Shard(0), Shard(1)]),
        distribute_tensor(y, mesh, [Replicate(), Shard(1)]),
        distribute_tensor(z, mesh["a"], [Shard(0)]),
        distribute_tensor(w, mesh, [Shard(0), Shard(0)]),
    ]
    x, y, z, w, plain = (nn.Parameter(t) for t in (*spread, plain))
    groups = [
        {"params": [x, z, plain], "sphere": "joint"},
        {"params": [y], "sphere": "rows"},
        {"params": [w], "sphere": "rows"},
    ]
    counts = []
    for optimizer in (
        onsphere.SphereSGD(groups, 0.1, momentum=0.9, geodesic=True),
        onsphere.keep_on_sphere(torch.optim.SGD([p for g in groups for p in g["params"]], 0.1), groups),
        onsphere.SphereSGD([groups[2]], 0.1, momentum=0.9),
    ):
        for p in (x, y, z, w, plain):
            p.grad = torch.ones_like(p)
        with CommDebugMode() as sent:
            optimizer.step()
        counts.append({str(operation).rsplit(".", 1)[-1]: n for operation, n in sent.get_comm_counts().items()})
    return counts


def test_one_all_reduce_a_mesh_and_step_and_none_for_rows_that_are_whole():
    (both, kept, rows), *_ = run_on(4, collectives)
    assert sum(both.values()) == sum(kept.values()) == 2
    assert rows == {}


def refusals():
    mesh = init_device_mesh("cpu", (2,))
    partial = nn.Parameter(torch.ones(2))
    said = []
    sharded = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
    summed = torch.distributed.tensor.DTensor.from_local(torch.ones(4, 3), mesh, [Partial()])
    for call in (
        lambda: onsphere.Sphere([summed]),
        lambda: onsphere.SphereSGD([{"params": [nn.Parameter(summed)], "sphere": "joint"}], 0.1),
        lambda: onsphere.noether_residual([sharded], gradients=[summed]),
        lambda: onsphere.noether_residual([sharded], gradients=[torch.ones(4, 3)]),
        lambda: onsphere.Sphere([sharded]).tangent([torch.ones(4, 3)]),
        lambda: onsphere.Sphere([partial]).angle_to([nn.Parameter(distribute_tensor(torch.ones(2), mesh, [Shard(0)]))]),
    ):
        try:
            call()
            said.append("nothing")
        except TypeError as error:
            said.append(str(error))
    return said


def test_parts_that_do_not_add_up_are_refused():
    for said in run_on(2, refusals):
        assert all("placement Partial(sum), whose parts do not add up" in text for text in said[:3]), said
        assert all("give both in the same form" in text for text in said[3:]), said


def different_groups(what):
    mesh, rank = init_device_mesh("cpu", (2,)), torch.distributed.get_rank()
    a, b = (nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])) for _ in range(2))
    if what == "none on one":
        if rank == 1:
            return
        agreement._PATIENCE = 3.0
        groups = [{"params": [a], "sphere": "joint"}]
    elif what == "one tensor less":
        groups = [{"params": [a, b][: 2 - rank], "names": ["a", "b"][: 2 - rank], "sphere": "joint"}]
    else:
        groups = [{"params": [a], "names": ["a"], "sphere": ["joint", "rows"][rank]}]
    onsphere.SphereSGD(groups, 0.1)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("one tensor less", "rank 0 has parameter 'b' (4, 3) (joint), rank 1 no more"),
        ("another kind", "rank 0 has parameter 'a' (4, 3) (joint), rank 1 parameter 'a' (4, 3) (rows)"),
        ("none on one", "rank 1 has not made a sphere group of the same sharded tensors within 3 s"),
    ],
)
def test_other_groups_on_another_rank_are_named(what, said):
    results = outcomes(2, different_groups, what)
    assert said in results[0][1]
    if what != "none on one":
        assert said in results[1][1]
