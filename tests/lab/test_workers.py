"""Worker processes that are killed: replaced, and what they trained ends with the same bits."""

import os
import signal

import numpy as np
import pytest
import torch

from onsphere.lab.data import load
from onsphere.lab.execution import InProcess
from onsphere.lab.population import Copy, Plan, Problem, Shard, ShardFolder
from onsphere.lab.preparation import prepare_model
from onsphere.lab.store import Damaged
from onsphere.lab.workers import DEATHS, WorkerDied, Workers

STEPS, COPIES = 150, 2
PLAN = Plan("vmap", COPIES, compiled=False)


@pytest.fixture(scope="module")
def problem():
    data = load("digits", train=40, test=20)
    asked = Problem(data, "mlp", {"widths": (6,)}, steps=STEPS, batch_size=8, evaluations=4)
    return prepare_model(asked)[0]


def shards(number):
    return [Shard(f"part-{i}", tuple(Copy(lr=10.0**-i, seed=s) for s in range(COPIES))) for i in range(1, number + 1)]


def pool(problem, folder, workers=2, checkpoint_seconds=0.0):
    return Workers(problem, folder / "shards", workers, lambda: False, checkpoint_seconds)


def kill(worker):
    os.kill(worker.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(problem, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert len(list(InProcess(problem, folder, lambda: False, 5.0).run(shards(3), PLAN, lambda done: None))) == 3
    return folder


def assert_same(folder, expected):
    for shard in shards(3):
        found, wanted = ShardFolder(folder / shard.name), ShardFolder(expected / shard.name)
        for name, value in wanted.weights().items():
            assert torch.equal(found.weights()[name], value), (shard.name, name)
        assert np.array_equal(found.readings().values, wanted.readings().values, equal_nan=True), shard.name


@pytest.mark.parametrize("seed", range(3))
def test_five_workers_killed_at_random_change_no_bit(problem, undisturbed, tmp_path, seed):
    rng = np.random.default_rng(seed)
    moments = sorted(rng.integers(0, 3 * STEPS * COPIES, 5).tolist())
    workers, done, killed = pool(problem, tmp_path), 0, []

    def progress(copy_steps):
        nonlocal done
        done += copy_steps
        while moments and done >= moments[0]:
            moments.pop(0)
            victim = rng.choice(workers._workers)
            killed.append(victim.process.pid)
            kill(victim)

    try:
        ended = list(workers.run(shards(3), PLAN, progress))
    finally:
        workers.close()
    assert sorted(ended) == ["part-1", "part-2", "part-3"] and len(killed) == 5 and done == 3 * STEPS * COPIES
    assert_same(tmp_path / "shards", undisturbed)
    assert not list(tmp_path.glob(".problem*"))


def test_a_shard_that_gets_no_further_is_named_when_all_others_have_ended(problem, undisturbed, tmp_path):
    workers, ended, deaths = pool(problem, tmp_path, checkpoint_seconds=1e9), [], 0

    def progress(copy_steps):
        nonlocal deaths
        for worker in workers._workers:
            if worker.task is not None and worker.task.shard.name == "part-2" and worker.process.is_alive():
                deaths += 1
                kill(worker)
                worker.process.join()

    try:
        with pytest.raises(WorkerDied, match=f"{DEATHS} times in a row while it trained part-2, without") as caught:
            ended.extend(workers.run(shards(3), PLAN, progress))
        assert "all other shards have ended" in str(caught.value)
        assert sorted(ended) == ["part-1", "part-3"] and deaths == DEATHS
        # Nothing of it stays: the same workers end the shard when nobody kills them.
        assert list(workers.run(shards(3)[1:2], PLAN, lambda done: None)) == ["part-2"]
    finally:
        workers.close()
    assert_same(tmp_path / "shards", undisturbed)


def test_idle_workers_that_die_are_replaced(problem, tmp_path):
    workers = pool(problem, tmp_path)
    try:
        assert list(workers.run(shards(1), PLAN, lambda done: None)) == ["part-1"]
        for worker in workers._workers:
            kill(worker)
            worker.process.join()
        assert sorted(workers.run(shards(3), PLAN, lambda done: None)) == ["part-1", "part-2", "part-3"]
    finally:
        workers.close()


def test_an_error_in_a_worker_is_raised_here_with_its_traceback(problem, undisturbed, tmp_path):
    workers = pool(problem, tmp_path)
    (tmp_path / "shards" / "part-1").mkdir(parents=True)
    (tmp_path / "shards" / "part-1" / "done.json").write_text("{}")
    try:
        with pytest.raises(Damaged, match=r"shard\.json") as caught:
            list(workers.run(shards(1), PLAN, lambda done: None))
        assert "run_shard" in str(caught.value.__cause__)
        assert sorted(workers.run(shards(3)[1:], PLAN, lambda done: None)) == ["part-2", "part-3"]
    finally:
        workers.close()


def test_workers_that_cannot_begin_are_not_replaced_for_ever(problem, tmp_path):
    workers = pool(problem, tmp_path)
    workers._handed.file.unlink()
    for worker in workers._workers:
        kill(worker)
    try:
        with pytest.raises(WorkerDied, match="ended before they could begin"):
            list(workers.run(shards(1), PLAN, lambda done: None))
    finally:
        workers.close()
