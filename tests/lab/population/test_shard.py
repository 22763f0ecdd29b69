"""A shard stopped anywhere and continued gives the bits of one that was never stopped."""

import dataclasses

import numpy as np
import pytest
import torch
from test_engine import COPIES, problem

from onsphere.lab.population import Copy, Plan, Shard, ShardFolder, run_shard


def train(folder, this, plan, copies, stops=()):
    """Run a shard, stopping it after the given numbers of engine steps."""
    shard, sittings = Shard("s", copies), 0
    for limit in [*stops, None]:
        seen = 0

        def stop(limit=limit):
            nonlocal seen
            seen += 1
            return limit is not None and seen > limit

        sittings += 1
        if run_shard(shard, this, plan, folder, stop=stop):
            break
    return ShardFolder(folder), sittings


@pytest.mark.parametrize("plan", [Plan("vmap", 3), Plan("loop", 1)], ids=["vmap", "loop"])
@pytest.mark.parametrize("space", [False, True], ids=["sphere", "space with momentum"])
def test_stopped_and_continued_equals_uninterrupted_bit_for_bit(tmp_path, plan, space):
    this = dataclasses.replace(problem(), steps=600, evaluations=4, dtype=torch.float32)
    copies = COPIES
    if space:
        this = dataclasses.replace(this, geometry="space")
        copies = tuple(Copy(c.seed, 0.05, 1e-3, 0.9) for c in COPIES)
    whole, once = train(tmp_path / "whole", this, plan, copies)
    pieces, sittings = train(tmp_path / "pieces", this, plan, copies, stops=(3, 140, 260))
    assert once == 1 and sittings == 4
    assert whole.done and pieces.done
    for name, value in whole.weights().items():
        assert torch.equal(value, pieces.weights()[name]), name
    np.testing.assert_array_equal(whole.readings().values, pieces.readings().values)
    np.testing.assert_array_equal(whole.evaluations()[0], pieces.evaluations()[0])
    np.testing.assert_array_equal(whole.evaluations()[1], pieces.evaluations()[1])
    assert len(whole.readings().values) == 600
    assert whole.evaluations()[0].tolist() == [0, 150, 300, 450, 600]


def test_readings_after_the_last_checkpoint_are_dropped_not_doubled(tmp_path):
    this = dataclasses.replace(problem(), steps=100, evaluations=1)
    folder, _ = tmp_path / "s", None
    run_shard(Shard("s", COPIES), this, Plan("vmap", 3), folder, stop=lambda: True)
    stale = folder / "readings-00009.parquet"
    stale.write_bytes((folder / "readings-00000.parquet").read_bytes())
    shard, _ = train(folder, this, Plan("vmap", 3), COPIES)
    assert not stale.exists()
    assert len(shard.readings().values) == 100


def test_a_done_shard_is_not_run_again(tmp_path):
    this = dataclasses.replace(problem(), steps=20, evaluations=1)
    shard, _ = train(tmp_path / "s", this, Plan("vmap", 3), COPIES)
    before = (shard.folder / "weights.safetensors").stat().st_mtime_ns
    done = []
    assert run_shard(Shard("s", COPIES), this, Plan("vmap", 3), shard.folder, progress=done.append)
    assert (shard.folder / "weights.safetensors").stat().st_mtime_ns == before
    assert sum(done) == 20 * len(COPIES)


def test_evaluation_uses_statistics_of_the_training_set(tmp_path):
    """The last evaluation equals a plain network given the final weights and full-batch statistics."""
    this = dataclasses.replace(problem(), steps=20, evaluations=1)
    shard, _ = train(tmp_path / "s", this, Plan("vmap", 3), COPIES)
    weights, (_, values) = shard.weights(), shard.evaluations()
    for k, copy in enumerate(COPIES):
        network = this.build(copy.seed).double()
        for name, parameter in network.named_parameters():
            parameter.data.copy_(weights[name][k])
        network.train()
        with torch.no_grad():
            outputs = network(this.data.x_train.double())
        loss = torch.nn.functional.cross_entropy(outputs, this.data.y_train)
        # running variances are unbiased, batch variances are not: a factor 96/95
        assert values[-1, k, 0] == pytest.approx(loss.item(), rel=0.02)
        assert values[-1, k, 1] == pytest.approx(
            (outputs.argmax(-1) != this.data.y_train).double().mean().item(), abs=0.02
        )
