"""Periods under a learning-rate schedule and with augmentation: what is measured, predicted, and refused."""

from itertools import pairwise

import numpy as np
import pytest
from test_periods_analyse import FINAL, readings_of
from torch import nn

from onsphere.lab import InputError, Interrupted, Run, resume_periods, train_periods
from onsphere.lab.experiments.periods.run import EXPERIMENT
from onsphere.lab.experiments.periods.science.runs import analyse
from onsphere.lab.population import Copy
from onsphere.lab.population.copies import lr_factors
from onsphere.lab.population.course import courses
from onsphere.lab.terminal import show

pytestmark = pytest.mark.usefixtures("undrawn_module")

COPY = Copy(0, 1.0, 5e-3)
SMALL = {"train": 100, "widths": [16], "steps": 600, "evaluations": 4, "workers": 1, "seeds": 2, "weight_decay": 1e-2}
PRACTICAL = {"setup": "practical", "schedule": "cosine", "augment": True, "batch_size": 32, "lr": 0.3}
PRACTICAL |= {
    "mode": "vmap",
    "chunk": 2,
    "compiled": "no",
}  # given: two runs may choose different engines by their timings


def scheduled(kicks, steps=1000, kick=1.0, copy=COPY):
    """The norm recurrence with a cosine schedule; the norm grows at the kicks and shrinks by decay alone otherwise."""
    factors, norm2, norms, gradients = lr_factors("cosine", steps, 0, steps), 1.0, [], []
    for t, factor in enumerate(factors):
        lr = copy.lr * factor
        g2 = kick * norm2 / lr**2 if t in kicks else 0.0
        norms.append(norm2)
        gradients.append(g2)
        norm2 = (1 - lr * copy.weight_decay) ** 2 * norm2 + lr**2 * g2
    readings = readings_of(np.array(norms), np.array(gradients), np.ones(steps))
    (course,) = courses(readings, [copy], None, factors)
    return course, factors, np.array(norms)


def test_a_falling_lr_is_no_jump_and_the_elr_has_the_lr_of_the_step():
    course, factors, norms = scheduled(())
    np.testing.assert_allclose(course.elr, factors / norms, rtol=1e-14)
    assert course.elr[-1] < 1e-3 * course.elr.max()
    run = analyse(course, FINAL)
    assert run.jumps == [] and run.behaviour == "undecided"


def test_jumps_of_the_norm_are_found_and_recoveries_predicted_with_the_lr_at_the_lowest_elr():
    kicks = (150, 250, 370)
    course, factors, norms = scheduled(kicks)
    run = analyse(course, FINAL)
    assert run.jumps == list(kicks)
    predictions = []
    for a, b in pairwise(kicks):
        product = COPY.lr * factors[a + 1] * COPY.weight_decay
        predictions.append(np.log(norms[a + 1] / norms[b]) / (-2 * np.log1p(-product)))
    assert run.predicted_recovery == pytest.approx(np.median(predictions), rel=1e-9)
    assert 1 < run.recovery_ratio < 1.35  # lr falls during a recovery, so that it takes longer than predicted
    sums = [2 * COPY.lr * COPY.weight_decay * factors[a:b].sum() for a, b in pairwise(kicks)]
    assert run.period_tau == pytest.approx(np.median(sums), rel=1e-9)
    assert run.elr_drop == pytest.approx(2.0, rel=0.02)
    assert run.predicted_elr is run.rms_angular_update is run.delta_jumps is run.jumpiness is None
    mean = COPY.lr * factors[run.start :].mean()
    assert run.predicted_angular_update == pytest.approx(np.sqrt(2 * mean * COPY.weight_decay), rel=0.01)


def test_factors_of_one_change_no_bit():
    _, _, norms = scheduled((200,))
    readings = readings_of(norms, np.full_like(norms, 1e-4), np.ones_like(norms))
    (plain,), (ones,) = courses(readings, [COPY]), courses(readings, [COPY], None, np.ones(len(norms)))
    assert analyse(plain, FINAL) == analyse(ones, FINAL)
    assert ones.factors is None and np.array_equal(plain.cosine_distance, ones.cosine_distance)


@pytest.fixture(scope="module")
def practical(tmp_path_factory):
    out = tmp_path_factory.mktemp("practical") / "run"
    return train_periods(**SMALL | PRACTICAL | {"minima": True}, out=out)


def test_the_practical_setup_runs_to_its_page_and_back_from_disk(practical, capsys):
    assert (practical.spec.schedule, practical.spec.augment) == ("cosine", True)
    assert all(run.finite for run in practical.runs)
    again = resume_periods(Run(practical.run))
    assert again.runs == practical.runs
    page = EXPERIMENT.rewrite(Run(practical.run)).read_text()
    assert "--schedule cosine" in page and "--augment" in page
    show(EXPERIMENT, again)
    assert "nan" not in capsys.readouterr().out


def test_stopped_and_resumed_gives_the_same_numbers(practical, tmp_path):
    calls = iter(range(300))
    with pytest.raises(Interrupted):
        train_periods(
            **SMALL | PRACTICAL | {"minima": True}, out=tmp_path / "run", stop=lambda: next(calls, None) is None
        )
    resumed = resume_periods(Run(tmp_path / "run"))
    assert resumed.runs == practical.runs and resumed.minima == practical.minima


def test_schedules_work_in_every_setup_with_several_settings(tmp_path):
    fields = SMALL | {"weight_decay": [1e-2, 3e-2], "batch_size": "full", "schedule": "cosine", "lr": 1.0}
    result = train_periods(**fields, out=tmp_path / "run")
    assert all(run.jumps for run in result.runs)
    assert all(run.delta_jumps is None for run in result.runs)


def test_what_is_not_images_cannot_be_augmented(tmp_path):
    def net(input_shape, classes):
        return nn.Sequential(nn.Linear(20, 8, bias=False), nn.BatchNorm1d(8, affine=False), nn.Linear(8, classes))

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 20)).astype("float32"), np.arange(64) % 4
    with pytest.raises(InputError, match=r"^--augment: .* shape 20: .*height") as error:
        train_periods(net, (x, y, x, y), steps=60, batch_size=16, burn_in=10, augment=True, out=tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_the_sphere_at_fixed_elr_is_not_compared_with_a_schedule(tmp_path):
    with pytest.raises(InputError, match=r"--compare-sphere: .*--schedule cosine"):
        train_periods(**SMALL, schedule="cosine", compare_sphere=True, out=tmp_path / "run")
    with pytest.raises(InputError, match="schedule"):
        train_periods(**SMALL, schedule="step", out=tmp_path / "run")
