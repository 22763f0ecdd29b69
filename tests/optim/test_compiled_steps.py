"""Steps under torch.compile: as many graphs as without spheres, and the same numbers."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import onsphere

PLAIN = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.1),
}


def parameters():
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(4, 3, generator=random)) for _ in range(3)]


def groups(params, sphere):
    blocks = {"blocks": [(0, 1, 1, 0)] * 2} if sphere == "blocks" else {}
    return [{"params": params[:2], "sphere": sphere, **blocks}, {"params": params[2:], "sphere": None}]


def steps(make, *, compiled, scheduled=False, fullgraph=False):
    """Weights after five steps, and how many graphs they took."""
    torch._dynamo.reset()
    params, counter, random = parameters(), CompileCounter(), torch.Generator().manual_seed(1)
    optimizer = make(params)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) if scheduled else None
    step = optimizer.step
    if compiled:
        step = torch.compile(lambda: optimizer.step(), backend=counter, fullgraph=fullgraph)
    for _ in range(5):
        for p in params:
            p.grad = torch.randn(p.shape, generator=random)
        step()
        if scheduler is not None:
            scheduler.step()
    return params, counter.frame_count


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("sphere", ["joint", "rows"])
@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_a_kept_optimiser_takes_no_more_graphs(make, sphere, scheduled):
    def kept(params):
        return onsphere.keep_on_sphere(make(params), groups(params, sphere))

    _, bare = steps(make, compiled=True, scheduled=scheduled)
    found, mine = steps(kept, compiled=True, scheduled=scheduled)
    expected, _ = steps(kept, compiled=False, scheduled=scheduled)
    assert mine == bare
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("sphere", "options"),
    [
        *((sphere, options) for sphere in ("joint", "rows") for options in ({}, {"momentum": 0.9}, {"geodesic": True})),
        ("columns", {"momentum": 0.9}),
        ("blocks", {"momentum": 0.9}),
    ],
)
def test_the_step_of_sphere_sgd_is_one_graph(sphere, options):
    def make(params):
        return onsphere.SphereSGD(groups(params, sphere), lr=torch.tensor(0.1), **options)

    found, graphs = steps(make, compiled=True, fullgraph=True)
    expected, _ = steps(make, compiled=False)
    assert graphs == 1 + ("momentum" in options)  # the first step makes the buffers
    torch.testing.assert_close(found, expected)
