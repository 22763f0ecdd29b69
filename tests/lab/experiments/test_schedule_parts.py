"""The parts of a comparison of schedules: courses, intervals, tuning, verdict, maps, validation images."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from onsphere.lab import InputError
from onsphere.lab.data import load
from onsphere.lab.experiments.schedule.methods import copies_of, proposal, settings_of, with_map
from onsphere.lab.experiments.schedule.result import Boundaries, Method, Proposal, ScheduleResult, choose, verdict
from onsphere.lab.experiments.schedule.run import validation_set
from onsphere.lab.experiments.schedule.spec import NAMES, ScheduleSpec
from onsphere.lab.experiments.schedule.words import answer
from onsphere.lab.intervals import difference, interval
from onsphere.lab.population.phases import phase_lrs
from onsphere.lab.result import Engine
from onsphere.optim import RegimeSchedule, propose_elrs

pytestmark = pytest.mark.usefixtures("undrawn_module")

PROPOSED = propose_elrs((4e-3, 9e-3), start_factor=3, end_factor=0.1)


@pytest.mark.parametrize("shape", ["geometric", "cosine", "linear"])
@pytest.mark.parametrize(("hold", "tail"), [(0.5, 0.0), (0.25, 0.25), (0.0, 0.0), (0.4, 0.6), (1.0, 0.0), (0.0, 1.0)])
def test_the_trained_course_is_that_of_the_scheduler(shape, hold, tail):
    spec = ScheduleSpec(steps=40, hold=hold, tail=tail, shape=shape)
    setting = proposal(spec, PROPOSED)
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = RegimeSchedule(optimizer, PROPOSED.start, PROPOSED.end, 40, hold=hold, tail=tail, shape=shape)
    expected = [schedule.elr_at(step) for step in range(40)]
    assert phase_lrs(setting.phases, 40, 0, 40) == pytest.approx(expected, rel=1e-12)


def test_every_method_is_there_with_every_seed():
    spec = ScheduleSpec(constant=(0.5, 1.0), peaks=(2.0,), lr=(1.0, 0.1), weight_decay=(1e-3,), seeds=3)
    settings = settings_of(spec, PROPOSED)
    assert [s.family for s in settings] == [
        *("proposed", "constant", "constant", "cosine"),
        *("space-constant", "space-constant", "space-cosine", "space-cosine"),
    ]
    assert [s.lr for s in settings] == pytest.approx([1.8e-2, 3e-3, 6e-3, 1.2e-2, 0.1, 1.0, 0.1, 1.0])
    assert [s.weight_decay for s in settings] == [0, 0, 0, 0, 1e-3, 1e-3, 1e-3, 1e-3]
    copies = copies_of(settings, 3)
    assert [copy.seed for copy in copies] == [0, 1, 2] * 8
    cosine = phase_lrs(settings[3].phases, 10, 0, 10)
    assert cosine == pytest.approx(1.2e-2 * (1 + np.cos(np.pi * np.arange(10) / 10)) / 2)


def test_intervals_are_students():
    values = [0.2, 0.25, 0.21, 0.3]
    found = interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.standard_error == pytest.approx(stats.sem(values))
    paired = difference(values, [0.1, 0.2, 0.2, 0.1])
    assert paired.mean == pytest.approx(0.09)
    assert all(map(math.isnan, vars(interval([0.1, math.nan])).values()))


def method(family, lr, errors, validation=None):
    errors = tuple(errors)
    return Method(
        family=family,
        lr=lr,
        end_lr=lr,
        weight_decay=0.0,
        tuned=False,
        test_error=errors,
        test_loss=errors,
        train_error=errors,
        train_loss=errors,
        validation_error=() if validation is None else tuple(validation),
    )


def methods(own, rival, validation=None):
    found = [method("proposed", 1e-2, own, validation), method("constant", 1e-3, rival, validation)]
    worse = [e + 0.2 for e in rival]
    return found + [method(family, 1.0, worse, validation) for family in list(NAMES)[2:]]


def test_methods_are_tuned_on_validation_images_where_there_are_any():
    fine, poor = [0.1, 0.12], [0.2, 0.22]
    rows = methods(fine, poor, validation=[0.3, 0.3])
    rows.append(method("constant", 2e-3, [0.15, 0.15], validation=[0.4, 0.4]))
    rows.append(method("constant", 3e-3, [math.nan, 0.01], validation=[math.nan, 0.01]))
    chosen, where = choose(rows)
    assert where == "validation"
    assert [m.lr for m in chosen if m.tuned and m.family == "constant"] == [1e-3]
    chosen, where = choose([replace(m, validation_error=()) for m in rows])
    assert where == "test"
    assert [m.lr for m in chosen if m.tuned and m.family == "constant"] == [2e-3]
    assert sorted(m.family for m in chosen if m.tuned) == sorted(NAMES)


@pytest.mark.parametrize(
    ("own", "not_worse", "better"),
    [
        ([0.20, 0.22, 0.21], True, False),
        ([0.23, 0.22, 0.21], True, False),  # worse by 0.67 points, one standard error
        ([0.24, 0.25, 0.24], False, False),
        ([0.10, 0.11, 0.12], True, True),
    ],
)
def test_the_verdict_is_about_one_paired_standard_error(own, not_worse, better):
    rows, _ = choose(methods(own, [0.21, 0.22, 0.21]))
    found = verdict(rows)
    gap = np.array(own) - [0.21, 0.22, 0.21]
    assert found.family == "constant"
    assert found.difference == pytest.approx(gap.mean())
    assert found.standard_error == pytest.approx(stats.sem(gap))
    assert (found.not_worse, found.better) == (not_worse, better)
    assert found.differences["cosine"].mean == pytest.approx(gap.mean() - 0.2)


def test_a_run_that_became_non_finite_never_wins():
    rows, _ = choose(methods([math.nan, 0.1], [0.3, 0.3]))
    assert not verdict(rows).not_worse
    rows, _ = choose(methods([0.3, 0.3], [math.nan, 0.1]))
    assert verdict(rows).not_worse


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([0.10, 0.11, 0.12], "it is better"),
        ([0.20, 0.22, 0.21], "not worse by more than one standard error"),
        ([0.30, 0.32, 0.31], "it is worse, paired"),
        ([0.22, 0.22, 0.235], "worse by more than one standard error, though the interval holds zero"),
    ],
)
def test_the_answer_says_it_plainly(tmp_path, own, words):
    rows, where = choose(methods(own, [0.21, 0.22, 0.215]))
    result = ScheduleResult(
        run=tmp_path,
        report=tmp_path,
        spec=ScheduleSpec(seeds=3),
        engine=Engine("vmap", 64, False, 1),
        seconds=1.0,
        cpu_seconds=1.0,
        proposal=Proposal(1e-2, 1e-3, 5e-3, 0.5, 0.0, "linear", False, "labels"),
        boundaries=Boundaries((4e-3, 6e-3), None),
        verdict=verdict(rows),
        tuned_on=where,
        methods=rows,
    )
    sentences = answer(result)
    assert words in sentences[0] and "constant ELR" in sentences[0]
    assert any("on the test set itself" in sentence for sentence in sentences)
    assert any("No run of the map interpolates" in sentence for sentence in sentences)


# ------------------------------------------------------------------------------------------------------- maps


def map_run(folder, **changes):
    """The files of an ended map, as far as they are read."""
    folder.mkdir()
    spec = {"data": "digits", "train": 300, "label_noise": 0.1, "model": "mlp", "widths": [16], "steps": 70} | changes
    boundaries = {
        "convergence": {"low": 4e-3, "high": 9e-3, "resolved": True, "reason": "", "per_seed": []},
        "divergence": {"low": 6e-2, "high": 8e-2, "resolved": True, "reason": "", "per_seed": []},
    }
    (folder / "run.json").write_text(json.dumps({"command": "regimes", "created": "", "spec": spec, "environment": {}}))
    (folder / "result.json").write_text(json.dumps({"spec": spec, "boundaries": boundaries, "cells": []}))
    return str(folder)


def test_a_map_hands_down_its_data_network_and_boundaries(tmp_path):
    folder = map_run(tmp_path / "map")
    spec = ScheduleSpec(**with_map({"map": folder, "steps": 90}))
    assert (spec.train, spec.label_noise, spec.widths, spec.steps) == (300, 0.1, (16,), 90)
    assert (spec.convergence, spec.divergence, spec.basis) == ((4e-3, 9e-3), 6e-2, "boundary")
    assert ScheduleSpec(**with_map({"map": folder, "divergence": 0.5})).divergence == 0.5


@pytest.mark.parametrize("what", ["nothing", "another command", "not ended", "arrays", "no boundary"])
def test_maps_that_are_none(tmp_path, what):
    folder = map_run(tmp_path / "map", **({"data": "arrays"} if what == "arrays" else {}))
    message = {
        "nothing": "is not a folder",
        "another command": "is a run of onsphere periods",
        "not ended": "has no result yet",
        "arrays": "was made of arrays in Python",
        "no boundary": "does not say where convergence ends",
    }[what]
    if what == "nothing":
        folder = str(tmp_path / "elsewhere")
    if what == "another command":
        (tmp_path / "map" / "run.json").write_text(json.dumps({"command": "periods", "spec": {}}))
    if what == "not ended":
        (tmp_path / "map" / "result.json").unlink()
    if what == "no boundary":
        result = json.loads((tmp_path / "map" / "result.json").read_text())
        result["boundaries"] = {name: {"low": None, "high": None} for name in ("convergence", "divergence")}
        (tmp_path / "map" / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match=message):
        with_map({"map": folder})


# ------------------------------------------------------------------------------------------ validation images


def test_validation_images_are_the_training_images_left_over():
    spec = ScheduleSpec(train=500, label_noise=0.2)
    found = validation_set(spec, "digits")
    trained = load("digits", train=500, label_noise=0.2, seed=spec.seed)
    assert found.x_train.equal(trained.x_train) and found.y_train.equal(trained.y_train)
    assert len(found.x_test) == 937
    everything = load("digits", seed=0)
    assert found.y_test.equal(everything.y_train[500:])  # true labels, none of them trained on
    # the same images on the trained images' scale: an affine map of those on their own
    own, there = found.x_test.flatten().double(), everything.x_train[500:].flatten().double()
    slope, offset = np.polyfit(there, own, 1)
    assert torch.allclose(own, slope * there + offset, atol=1e-5)
    assert abs(slope - 1) > 1e-4  # and not simply those


@pytest.mark.parametrize(("train", "data"), [(None, "digits"), (1400, "digits"), (500, ("own", "arrays"))])
def test_without_images_left_over_there_are_none(train, data):
    assert validation_set(ScheduleSpec(train=train), data) is None
