"""The second pass that keeps the minima: the same bits as the first, right distances."""

import math

import numpy as np
import pytest
from safetensors.torch import load_file

from onsphere.lab import Interrupted, Run, resume_periods, train_periods
from onsphere.lab.engine_file import Execution, write_execution
from onsphere.lab.experiment import Session, never
from onsphere.lab.experiments.periods.run import read_runs
from onsphere.lab.experiments.periods.science.minima import MOST, find_minima, minima_steps, pair_angles
from onsphere.lab.experiments.periods.science.setups import Ready
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.population import Copy, Plan, Problem, Shard, ShardFolder, run_shard
from onsphere.lab.population.course import Course
from onsphere.lab.preparation import prepare_model
from onsphere.lab.progress import Progress

pytestmark = pytest.mark.usefixtures("undrawn_module")


def course_of(loss, product=3e-3):
    ones = np.ones_like(loss)
    return Course(Copy(0, 1.0, product), loss, ones, ones, ones, None, True)


def test_the_minimum_of_each_period_is_found_through_noise():
    steps = np.arange(1000)
    loss = 1e-2 * (1 + 3 * np.abs(steps % 250 - 100) / 100) * np.exp(0.05 * np.random.default_rng(0).normal(size=1000))
    found = minima_steps(course_of(loss), [0, 250, 500, 750, 999])
    assert len(found) == 4
    for i, step in enumerate(found):
        assert abs(step - (250 * i + 100)) < 15


def test_many_periods_are_thinned_out_and_few_give_nothing():
    loss = np.ones(3000)
    found = minima_steps(course_of(loss), list(range(0, 3000, 30)))
    assert len(found) == MOST and found[0] < 30 and found[-1] >= 2930
    assert minima_steps(course_of(loss), [5]) == []


def test_angles_are_exact_for_near_and_for_orthogonal_weights():
    tiny = 1e-9
    vectors = np.array([[1.0, 0.0, 0.0], [7.0, 7.0 * tiny, 0.0], [0.0, 0.0, 3.0], [-2.0, 0.0, 0.0]])
    angles = pair_angles(vectors)
    assert angles[0, 1] == pytest.approx(tiny, rel=1e-6)
    assert angles[0, 2] == pytest.approx(math.pi / 2) and angles[0, 3] == pytest.approx(math.pi)
    assert (np.diag(angles) == 0).all() and (angles == angles.T).all()


@pytest.fixture
def trained(tmp_path):
    from dataclasses import replace

    from onsphere.lab import data

    problem = Problem(
        data=data.load("digits", seed=0, train=100, label_noise=0.0),
        model="mlp",
        model_options={"widths": (16,), "head_norm": 10.0, "eps": 1e-12},
        geometry="space",
        radius=None,
        steps=600,
        batch_size=100,
        evaluations=1,
    )
    problem, _ = prepare_model(problem)
    shard = Shard("space-000", (Copy(0, 1.0, 1e-2), Copy(1, 1.0, 1e-2)))
    assert run_shard(shard, problem, Plan("vmap", 2), tmp_path / shard.name)
    return problem, ShardFolder(tmp_path / shard.name), replace


def test_the_kept_weights_are_those_of_the_first_pass(trained):
    problem, shard, replace = trained
    runs = read_runs(shard, None)
    assert all(len(run.jumps) > 2 for run in runs)
    # a first pass that ends at the step of a minimum has exactly these weights
    run = Run(shard.folder.parent)
    write_execution(run, Execution(Plan("vmap", 2), 1, {}, problem.data.fingerprint()))
    session = Session(PeriodsSpec(), Ready(problem, problem.trained), run, Progress(), never)
    minima = find_minima(session, [shard], runs)
    assert [m.seed for m in minima] == [0, 1]
    kept = load_file(shard.folder / "minima.safetensors")
    step = minima[0].steps[1]
    short = shard.folder.parent / "short"
    assert run_shard(Shard("short", tuple(shard.copies())), replace(problem, steps=step), Plan("vmap", 2), short)
    for name in problem.trained:
        assert kept[f"0/{step}/{name}"].equal(ShardFolder(short).weights()[name][0])
    steps, evaluations = ShardFolder(short).evaluations()
    assert steps[-1] == step
    assert minima[0].train_loss[1] == pytest.approx(evaluations[-1, 0, 0], rel=1e-5)
    assert minima[0].test_error[1] == pytest.approx(evaluations[-1, 0, 3], abs=1e-9)
    for one in minima:
        assert one.ensemble_error[0] == one.test_error[-1] and len(one.ensemble_error) == len(one.steps)


def test_an_interrupted_second_pass_is_resumed(tmp_path):
    fields = dict(train=100, widths=[16], weight_decay=1e-2, seeds=2, steps=600, evaluations=1, workers=1)
    fields |= {"batch_size": "full", "mode": "vmap", "chunk": 2, "compiled": "no"}
    whole = train_periods(**fields, minima=True, out=tmp_path / "whole")
    assert len(whole.minima) == 2
    asked = 0

    class Stopper(Progress):
        second = False

        def begin(self, title, copy_steps):
            self.second = "minima" in title

    stopper = Stopper()

    def stop():
        nonlocal asked
        asked += stopper.second
        return asked > 1

    with pytest.raises(Interrupted):
        train_periods(**fields, minima=True, out=tmp_path / "cut", progress=stopper, stop=stop)
    resumed = resume_periods(Run(tmp_path / "cut"))
    assert resumed.minima == whole.minima and resumed.runs == whole.runs
