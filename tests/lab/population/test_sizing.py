"""What a shard costs: bytes against those that are there, and the parts of a cost put together."""

from dataclasses import replace

import pytest
from test_engine import COPIES, problem

from onsphere.lab.population import Plan, Shard, measure_cost, run_shard, same_cost, sizing


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Short timings: no test looks at a time."""
    monkeypatch.setattr(sizing, "LONG", 1e-4)


@pytest.mark.parametrize("plan", [Plan("vmap", 3), Plan("loop", 3)], ids=["vmap", "loop"])
def test_the_disk_is_what_a_shard_leaves(plan, tmp_path):
    this = replace(problem(), steps=300, snapshots=(0, 100))
    cost = measure_cost(this, COPIES[:3], plan)
    run_shard(Shard("one", tuple(COPIES[:3])), this, plan, tmp_path / "one")
    there = sum(path.stat().st_size for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert cost.disk(this, 3) == pytest.approx(there, rel=0.1)


def test_the_memory_of_a_copy_is_that_of_its_tensors():
    this = problem()
    cost = measure_cost(this, COPIES[:2], Plan("loop", 2))
    network, size = this.build(0), this.dtype.itemsize
    trained = sum(p.numel() for name, p in network.named_parameters() if name in this.trained) * size
    everything = sum(t.numel() for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()) * size
    assert cost.weights == trained
    assert cost.kept <= everything + 64 and cost.state >= 2 * trained
    wide = measure_cost(replace(this, batch_size=2 * this.batch_size), COPIES[:2], Plan("loop", 2))
    assert wide.saved == pytest.approx(2 * cost.saved, rel=0.2)
    adam = measure_cost(replace(this, geometry="space", radius=None, optimizer="adam"), COPIES[:2], Plan("loop", 2))
    assert adam.state == cost.state + 2 * trained


def test_a_shard_is_its_parts():
    cost = sizing.Cost(fixed=7.0, step=2.0, evaluation=3.0, state=0, saved=0, weights=5, kept=9, reading=4, files=100)
    this = replace(problem(), steps=10, evaluations=2, snapshots=(0, 5, 99))
    assert cost.seconds(this, 3) == 7 + 3 * (10 * 2 + 3 * 3)
    assert cost.disk(this, 3) == 100 + 3 * (10 * 4 + 2 * 5 + 9)


def test_problems_of_other_lengths_cost_the_same_a_step():
    this = problem()
    assert same_cost(this) == same_cost(replace(this, steps=5, snapshots=(1,), evaluations=1))
    assert same_cost(this) != same_cost(replace(this, batch_size=7))


def test_a_start_that_is_not_there_yet_is_not_needed(tmp_path):
    this = replace(problem(), starts=tmp_path / "none.safetensors")
    copies = [replace(copy, start=3) for copy in COPIES[:1]]
    assert measure_cost(this, copies, Plan("loop", 1)).step > 0
