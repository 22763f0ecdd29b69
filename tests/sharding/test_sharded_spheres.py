"""Training on spheres with weights spread over processes gives what one process gives."""

import math

import pytest
import torch
from networks import NETWORKS, RECIPES, named_groups, network, trained_network
from processes import run_on

pytestmark = pytest.mark.slow

#: Few recipes where another layout has shown the rest: each costs 20 steps of two or four processes.
SOME = ["SphereSGD with momentum", "AdamW, kept", "SphereSGD, rows"]
LAYOUTS = {
    2: {("layer norm", "fsdp"): RECIPES, ("transformer", "tp"): RECIPES, ("layer norm", "ddp"): SOME},
    4: {("transformer", "fsdp x tp"): RECIPES, ("transformer", "hsdp"): SOME, ("layer norm", "fsdp"): SOME},
}
CASES = [
    (world, name, how, recipe, dtype)
    for world, layouts in LAYOUTS.items()
    for (name, how), recipes in layouts.items()
    for recipe in recipes
    for dtype in (
        [torch.float64, torch.float32] if recipe in SOME and how in ("fsdp", "fsdp x tp") else [torch.float64]
    )
]
#: Weights differ by less after 20 steps, and radii relatively.
CLOSE = {torch.float64: (1e-10, 1e-12), torch.float32: (1e-5, 1e-6)}


def every(scenarios):
    return {key: trained_network(name, how, recipe, named, dtype) for key, name, how, recipe, named, dtype in scenarios}


@pytest.fixture(scope="module")
def named():
    kinds = {spheres for spheres, _, _ in RECIPES.values()}
    return {(name, spheres): named_groups(name, spheres) for name in NETWORKS for spheres in kinds}


@pytest.fixture(scope="module")
def together(named):
    def scenarios(world):
        for at, name, how, recipe, dtype in CASES:
            if at == world:
                yield (name, how, recipe, dtype), name, how, recipe, named[name, RECIPES[recipe][0]], dtype

    return {world: run_on(world, every, list(scenarios(world))) for world in LAYOUTS}


@pytest.mark.parametrize(("world", "name", "how", "recipe", "dtype"), CASES, ids=str)
def test_twenty_steps_are_those_of_one_process(named, together, world, name, how, recipe, dtype):
    ranks = [rank[name, how, recipe, dtype] for rank in together[world]]
    groups, (close, same_radius) = named[name, RECIPES[recipe][0]], CLOSE[dtype]
    begun = dict(network(name, dtype).named_parameters())
    for key, weight in trained_network(name, None, recipe, groups, dtype).items():
        torch.testing.assert_close(ranks[0][key], weight, rtol=0, atol=close)
        assert all(torch.equal(rank[key], ranks[0][key]) for rank in ranks), f"{key} differs between ranks"
    for names, kind in groups:
        assert any(not torch.allclose(ranks[0][n], begun[n], rtol=1e-3) for n in names), "nothing was trained"
        if "policy" in RECIPES[recipe][2].get("kept", {}):
            continue  # under a policy the norms are free
        for sphere in {None: [], "joint": [names], "rows": [[n] for n in names]}[kind]:
            radius, norm = (_norms([of[n].double() for n in sphere], kind) for of in (begun, ranks[0]))
            torch.testing.assert_close(norm, radius, rtol=same_radius, atol=0)


def _norms(tensors, kind):
    if kind == "rows" and tensors[0].dim() > 1:
        return tensors[0].detach().flatten(1).norm(dim=1)
    return torch.tensor(math.sqrt(sum(float(t.detach().square().sum()) for t in tensors)))
