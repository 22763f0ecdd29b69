"""Shards as jobs of submitit, on the cluster that it makes of this machine: same bits, also when jobs are killed."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from onsphere.lab.data import load
from onsphere.lab.execution import InProcess, Interrupted, make_executor
from onsphere.lab.executors import on_slurm
from onsphere.lab.options import InputError
from onsphere.lab.placement import missing_package, parse
from onsphere.lab.population import Copy, Plan, Problem, Shard, ShardFolder
from onsphere.lab.preparation import prepare_model
from onsphere.lab.store.files import write_json

pytest.importorskip("submitit", reason="submitit is not installed: none of the executor on Slurm is tested")

STEPS, PLAN = 2500, Plan("loop", 1, compiled=False)
HERE = parse("slurm:cluster=local")


@pytest.fixture(scope="module")
def problem():
    asked = Problem(
        load("digits", train=40, test=20), "mlp", {"widths": (6,)}, steps=STEPS, batch_size=8, evaluations=4
    )
    return prepare_model(asked)[0]


def shards(number=2):
    return [Shard(f"part-{i}", (Copy(lr=10.0**-i, seed=0),)) for i in range(1, number + 1)]


@pytest.fixture(scope="module")
def undisturbed(problem, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert len(list(InProcess(problem, folder, lambda: False, 5.0).run(shards(), PLAN, lambda done: None))) == 2
    return folder


def assert_same(folder, expected):
    for shard in shards():
        found, wanted = ShardFolder(folder / shard.name), ShardFolder(expected / shard.name)
        for name, value in wanted.weights().items():
            assert torch.equal(found.weights()[name], value), (shard.name, name)
        assert np.array_equal(found.readings().values, wanted.readings().values, equal_nan=True), shard.name


def run(problem, folder, stop=lambda: False, progress=lambda done: None):
    with make_executor(problem, folder, 2, stop, 0.1, HERE) as executor:
        return sorted(executor.run(shards(), PLAN, progress))


def test_a_job_that_is_killed_and_a_driver_that_is_stopped_change_no_bit(problem, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(on_slurm, "TELL_SECONDS", 0.05)
    folder, killed, done = tmp_path / "shards", [], []

    def stop():
        return bool(killed) and sum(done) > killed[0][1]

    def progress(copy_steps):
        done.append(copy_steps)
        victim = next((path for path in folder.glob("*/checkpoint.safetensors")), None)
        if victim is not None and not killed:
            for pid in _processes(victim.parent.name, folder.parent):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append((pid, sum(done)))

    with pytest.raises(Interrupted):
        run(problem, folder, stop, progress)
    assert killed and 0 < sum(done) < 2 * STEPS
    assert run(problem, folder) == ["part-1", "part-2"]
    assert_same(folder, undisturbed)
    assert not (tmp_path / "jobs" / "problem").exists()


def _processes(shard, folder):
    """The process that trains, and the one that waits for it: submitit's logs have the latter's number."""
    numbers = sorted(int(path.name.split("_")[0]) for path in (folder / "jobs" / "logs").glob("*_submitted.pkl"))
    return [*children(numbers[0]), numbers[0]]


def children(parent):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def test_a_job_of_an_earlier_driver_is_taken_up_and_not_given_out_again(problem, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(on_slurm, "HEAR_SECONDS", 0.01)
    pool = on_slurm.OnSlurm(problem, tmp_path / "shards", HERE, 2, lambda: False, 5.0)
    monkeypatch.setattr(pool._executor, "submit", lambda *given: pytest.fail("given out twice"))
    write_json(pool.jobs / "part-1.told", {"begun": 3, "done": 7})  # the old job speaks
    pool.submit(shards(1), PLAN)
    assert list(pool.outcomes()) == [] and list(pool.steps()) == [("part-1", 3, True), ("part-1", 7, False)]
    (pool.folder / "part-1").mkdir(parents=True)
    (pool.folder / "part-1" / "done.json").write_text("{}")
    write_json(pool.jobs / "part-1.word", {"kind": "ended", "done": 9, "node": "n", "there": ""})
    assert [(one.name, one.kind, one.done) for one in pool.outcomes()] == [("part-1", "ended", 9)]
    # one that has fallen silent is lost, and what it said is forgotten when its shard is given out again
    pool = on_slurm.OnSlurm(problem, tmp_path / "shards", HERE, 2, lambda: False, 5.0)
    write_json(pool.jobs / "part-2.told", {"begun": 0, "done": 7})
    pool.submit(shards(2)[1:], PLAN)
    old = time.time() - 2 * on_slurm.SILENT_SECONDS
    os.utime(pool.jobs / "part-2.told", (old, old))
    assert [(one.name, one.kind) for one in pool.outcomes()] == [("part-2", "lost")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slurm:nodes=2", "'nodes=2' is no option of slurm"),
        ("slurm:time=1h", "time was '1h', and must be a whole number"),
        ("slurm:cluster=other", "cluster was 'other', and must be slurm or local"),
    ],
)
def test_a_text_that_says_no_jobs_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_what_submitit_is_told(monkeypatch):
    found = parse("slurm:partition=gpu,account=me,time=90,cpus=2,gpus=1,mem=8").parameters(32)
    assert found == {
        **{"name": "onsphere", "timeout_min": 90, "cpus_per_task": 2, "gpus_per_node": 1, "mem_gb": 8.0},
        **{"slurm_partition": "gpu", "slurm_account": "me", "slurm_array_parallelism": 32},
    }
    monkeypatch.setenv("PATH", "")
    assert "there is no sbatch on this machine" in missing_package(parse("slurm"))
    assert missing_package(HERE) is None


def test_without_slurm_it_is_one_line_and_no_folder(tmp_path, monkeypatch):
    from onsphere.lab import map_regimes

    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="--executor: there is no sbatch on this machine"):
        map_regimes(executor="slurm:partition=cpu", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
