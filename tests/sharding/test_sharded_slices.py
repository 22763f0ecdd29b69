"""Spheres of columns and blocks of tensors that are spread over processes are those of the whole tensors."""

import pytest
import torch
from processes import run_on
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import onsphere

pytestmark = pytest.mark.slow

LABELS = (0, 2, 0, 1, 2, 1, 1)
KINDS = {
    "rows": {"sphere": "rows"},
    "columns": {"sphere": "columns"},
    "blocks of rows": {"sphere": "blocks", "blocks": [LABELS]},
    "blocks of columns": {"sphere": "blocks", "blocks": [(0, 1, 1, 0, 2)], "dim": 1},
}
LAYOUTS = {
    2: {"fsdp": [Shard(0)], "tp": [Shard(1)], "ddp": [Replicate()]},
    4: {"tp x fsdp": [Shard(1), Shard(0)], "hsdp": [Replicate(), Shard(0)]},
}
WAYS = ["momentum", "geodesic", "kept", "angle", "tangent"]


def train(kind, way, spread=None):
    """The tensor after four steps, and the largest number of all-reduces that a step took."""
    start = torch.randn(7, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = nn.Parameter(start if spread is None else distribute_tensor(start, *spread))
    groups = [{"params": [weight], **KINDS[kind]}]
    if way in ("momentum", "geodesic"):
        optimizer = onsphere.SphereSGD(groups, 0.05, momentum=0.9, geodesic=way == "geodesic")
    else:
        optimizer = onsphere.keep_on_sphere(
            torch.optim.AdamW([weight], 0.05), groups, angle=way == "angle", tangent=way == "tangent"
        )
    most = 0
    for step in range(4):
        grad = torch.randn(7, 5, 2, generator=torch.Generator().manual_seed(step + 1), dtype=torch.float64)
        weight.grad = grad if spread is None else distribute_tensor(grad, *spread)
        calls, whole = [], torch.distributed.all_reduce
        torch.distributed.all_reduce = lambda *a, whole=whole, calls=calls, **k: (calls.append(1), whole(*a, **k))[1]
        try:
            optimizer.step()
        finally:
            torch.distributed.all_reduce = whole
        most = max(most, len(calls))
    return (weight if spread is None else weight.full_tensor()).detach(), most


def every(world):
    names = ("a",) if world == 2 else ("a", "b")
    mesh = init_device_mesh("cpu", (2,) * len(names), mesh_dim_names=names)
    return {
        (how, kind, way): train(kind, way, (mesh, placements))
        for how, placements in LAYOUTS[world].items()
        for kind in KINDS
        for way in WAYS
    }


@pytest.mark.parametrize("world", LAYOUTS)
def test_steps_are_those_of_one_process(world):
    alone = {(kind, way): train(kind, way)[0] for kind in KINDS for way in WAYS}
    for rank in run_on(world, every, world):
        for (how, kind, way), (weight, calls) in rank.items():
            torch.testing.assert_close(
                weight, alone[kind, way], rtol=0, atol=1e-12, msg=lambda m, at=(how, kind, way): f"{at}: {m}"
            )
            # A turn measures its update once more; tangent gradients are another sum before the step.
            assert calls <= (1 if way in ("momentum", "geodesic", "kept") else 2), (how, kind, way)
