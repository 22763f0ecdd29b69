"""A decoupled model that ``fully_shard`` spreads trains as it does on one process, and fuses once it is gathered."""

import pytest
import torch
from processes import run_on
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import onsphere

pytestmark = pytest.mark.slow

WAYS = {
    "kept": lambda g: onsphere.keep_on_sphere(torch.optim.AdamW(g, 0.01), g),
    "angle": lambda g: onsphere.keep_on_sphere(torch.optim.AdamW(g, 0.01), g, angle=True),
    "SphereSGD": lambda g: onsphere.SphereSGD(g, 0.01, other_lr=0.1),
}


def train(way, world=0):
    """All tensors after four steps, on ``world`` processes or without any."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    model.double()
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    groups = onsphere.decouple(model, onsphere.norm_groups(model, x), "both")
    if world:
        mesh = init_device_mesh("cpu", (world,))
        for unit in (model[0], model[2], model):
            fully_shard(unit, mesh=mesh)
        groups = onsphere.regroup(groups, model)
    optimizer = WAYS[way](groups)
    for _ in range(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    refused = ""
    if world:
        try:
            onsphere.fuse(model)
        except TypeError as error:
            refused = str(error)
    return {name: p.full_tensor() if world else p for name, p in model.state_dict().items()}, refused


def every(world):
    return {way: train(way, world) for way in WAYS}


def test_steps_are_those_of_one_process():
    alone = {way: train(way)[0] for way in WAYS}
    for rank in run_on(2, every, 2):
        for way, (tensors, refused) in rank.items():
            assert tensors.keys() == alone[way].keys() and any(name.endswith("0.columns") for name in tensors)
            for name, tensor in tensors.items():
                torch.testing.assert_close(tensor, alone[way][name], rtol=0, atol=1e-10)
            assert "is split over processes; gather the model, then fuse it" in refused
