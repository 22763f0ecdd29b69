"""The engine chooses by a timing, obeys when told, and falls back where a model cannot be traced or batched."""

import dataclasses

import pytest
import torch
from test_engine import COPIES, plain_loop, problem
from torch import nn

from onsphere.lab.population import Engine, Plan, choose_plan
from onsphere.tracing import trace


class LooksAtItsInput(nn.Module):
    """Branches on data: neither vmap nor tracing can follow."""

    def __init__(self, classes):
        super().__init__()
        self.first = nn.Linear(64, 8, bias=False)
        self.norm = nn.BatchNorm1d(8, affine=False, eps=1e-12)
        self.head = nn.Linear(8, classes, bias=False).requires_grad_(False)

    def forward(self, x):
        x = self.norm(self.first(x.flatten(1)))
        return self.head(x.relu() if x.sum() < 1e9 else x)


def branching(input_shape, classes):
    return LooksAtItsInput(classes)


def test_a_small_mlp_is_batched_and_a_convnet_is_not():
    plan, timings = choose_plan(problem(), 60, 2)
    assert (plan.mode, plan.chunk, plan.traced, plan.compiled) == ("vmap", 30, True, False)
    assert timings.keys() == {"vmap", "loop"} and all(t > 0 for t in timings.values())
    options = {"width": 8, "head_norm": 10.0, "eps": 1e-12}
    from test_engine import images

    conv = problem(
        model="convnet", model_options=options, data=images(160, (3, 32, 32)), batch_size=128, dtype=torch.float32
    )
    plan, _ = choose_plan(conv, 10, 2)
    assert (plan.mode, plan.chunk, plan.channels_last) == ("loop", 1, True)


def test_wishes_are_obeyed():
    plan, timings = choose_plan(problem(), 60, 2, mode="loop", chunk=7)
    assert (plan.mode, plan.chunk) == ("loop", 7) and timings == {}, "there was nothing to choose"
    _, timings = choose_plan(problem(), 60, 2, mode="vmap", chunk=7)
    assert timings.keys() == {"vmap"}, "whether compiling pays"
    plan, _ = choose_plan(problem(), 3, 1, mode="vmap", compiled="yes")
    assert plan.compiled and plan.chunk == 3


def test_a_model_that_branches_on_data_runs_untraced_one_by_one():
    this = problem(model=branching, model_options={"head_norm": 10.0, "eps": 1e-12})
    plan, _ = choose_plan(this, 60, 2)
    assert (plan.mode, plan.traced) == ("loop", False)
    engine = Engine(this, COPIES[:1], plan)
    state = engine.advance(engine.initial_state(), 10, torch.empty(10, 1, engine.columns, dtype=this.dtype))
    expected, _ = plain_loop(this, COPIES[0], 10)
    for name, value in zip(this.trained, state.params, strict=True):
        torch.testing.assert_close(value[0], expected[name].detach(), rtol=0, atol=1e-9)
    with pytest.raises(RuntimeError, match="mode vmap"):
        choose_plan(this, 60, 2, mode="vmap")


def test_dropping_reshapes_changes_no_number():
    def step(x):
        return (x.view(4, 3).view(4, 3).transpose(0, 1).transpose(1, 0).expand(4, 3) * 2).transpose(0, 1).sum(0)

    x = torch.arange(12.0)
    traced = trace(step, x)
    assert torch.equal(traced(x), step(x))
    called = [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]
    assert called.count("aten.view.default") == 1 and called.count("aten.transpose.int") <= 1


def test_compiling_is_tried_only_where_it_pays():
    this = dataclasses.replace(problem(), steps=100)
    _, timings = choose_plan(this, 4, 1)
    assert "compiled" not in timings
    assert Plan(**dataclasses.asdict(Plan("vmap", 3))) == Plan("vmap", 3)
