"""Changes of ELR from call to page: what the result holds, that a change changes, charts that hold it, bad input."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

from onsphere.lab import InputError, Run
from onsphere.lab.experiments.stabilise import charts
from onsphere.lab.experiments.stabilise.analyse import edges, loss_curves
from onsphere.lab.experiments.stabilise.run import EXPERIMENT, resume_stabilise, stabilise
from onsphere.lab.experiments.stabilise.words import answer, unexpected
from onsphere.lab.frame import repeated
from onsphere.lab.population import ShardFolder
from onsphere.lab.terminal import show

pytestmark = pytest.mark.usefixtures("undrawn_module")

SMALL = {
    "train": 80,
    "widths": [16],
    "elrs": [0.02, 0.06],
    "divergence_elrs": [0.5],
    "seeds": 2,
    "steps": 96,
    "change": 40,
    "batch_size": 16,
    "points": 3,
    "evaluations": 4,
    "workers": 1,
    "mode": "vmap",
    "chunk": 4,
    "compiled": "no",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return stabilise(**SMALL, out=tmp_path_factory.mktemp("stabilise") / "run")


def test_the_result_has_a_row_for_every_question(small):
    values = json.loads(json.dumps(small.to_dict(), allow_nan=False))
    assert values["command"] == "landscape stabilise"
    assert [(row["before"], row["after"]) for row in values["levels"]] == [(0.06, 0.02), (0.02, 0.06)]
    assert [row["elr"] for row in values["stays"]] == [0.02, 0.06, 0.5]
    assert set(values["memory"]) == {"loss", "gradient_norm"} and len(values["memory"]["loss"]["seeds"]) == 2
    assert {row["lag"] for row in values["distances"]} == {0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 56}
    assert len(values["ways"]) == 3 * 2 * 2
    starts = [row for row in small.distances if row.lag == 0]
    assert all(row.angle < 1e-7 and row.walk_cosine == 1 for row in starts) and len(starts) == 6


def test_the_first_step_of_a_stationary_phase_is_its_angular_update(small):
    """Cosine and walk agree after one step: both are that step's angle, once from weights, once from readings."""
    ones = [row for row in small.distances if row.lag == 1]
    assert ones
    for row in ones:
        assert row.cosine == pytest.approx(row.walk_cosine, abs=1e-4)


def test_runs_are_equal_until_their_elr_changes_and_differ_after(small):
    found = {}
    for folder in sorted((small.run / "shards").iterdir()):
        shard = ShardFolder(folder)
        loss = shard.readings().loss
        for k, copy in enumerate(shard.copies()):
            before = copy.phases[0].lr if copy.phases else copy.lr
            found[before, copy.lr, copy.seed] = loss[:, k]
    assert len(found) == 10
    changed, stayed = found[0.02, 0.06, 0], found[0.02, 0.02, 0]
    np.testing.assert_array_equal(
        changed[:41], stayed[:41]
    )  # step 40 is the first with the new ELR: its loss is before
    assert (changed[41:] != stayed[41:]).all()


def test_the_result_comes_back_from_disk_as_it_was(small):
    assert resume_stabilise(Run(small.run)) == small
    assert "report.html" in repr(small) and len(small.to_frame()) == 2
    assert repeated(small).startswith("onsphere landscape stabilise --train 80 ")


def test_the_terminal_says_the_answer_and_every_chart_has_its_figures(small, capsys):
    show(EXPERIMENT, small)
    said = capsys.readouterr().out
    assert "report.html" in said and all(sentence in said for sentence in (*answer(small), *unexpected(small)))
    assert "left after a change" in EXPERIMENT.one_line(Run(small.run))
    names = ("levels", "memory", "plane", "wandering", "ways", "walk")
    assert {path.name for path in (small.run / "figures").iterdir()} == {
        f"{n}.{k}" for n in names for k in ("png", "svg")
    }


def test_the_charts_hold_what_was_found(small):
    curves = loss_curves(map(ShardFolder, Run(small.run).shard_folders()), small.spec)
    assert [(curve.before, curve.after) for curve in curves] == [(0.02, 0.02), (0.02, 0.06), (0.06, 0.02), (0.06, 0.06)]
    own = [
        shard.readings().loss[40:, k]
        for shard in map(ShardFolder, Run(small.run).shard_folders())
        for k, copy in enumerate(shard.copies())
        if [phase.lr for phase in copy.phases] == [0.02, 0.06]
    ]
    bins = edges(56)
    expected = [np.mean([loss[a:b].mean() for loss in own]) for a, b in pairwise(bins)]
    lines = charts.levels_chart(small, curves).panels[0].marks
    np.testing.assert_allclose(lines[1].y, expected, rtol=1e-12)
    assert [line.look.width for line in lines] == [5, 1.5, 1.5, 5]
    band, line, *_ = charts.memory_chart(small).panels[0].marks
    rising = [row for row in small.memory_course if row.direction == "up"]
    assert list(line.y) == [100 * row.memory for row in rising]
    assert list(band.high) == pytest.approx([100 * (row.memory + 2 * row.error) for row in rising])
    spot, cross, *_ = charts.plane_chart(small).panels[0].marks
    assert (spot.x, cross.x) == ([small.stays[0].loss], [small.levels[0].loss])
    wander = charts.wander_chart(small).panels[0].marks[0]
    last = [row.angle for row in small.distances if row.elr == 0.02 and row.lag == 56]
    assert wander.y[-1] == pytest.approx(np.mean(last))
    assert wander.error[-1] == pytest.approx(abs(last[0] - last[1]))  # twice the standard error of two
    assert sum(len(mark.x) for mark in charts.ways_chart(small).panels[0].marks) == len(small.ways)
    walk, cosine = charts.walk_chart(small).panels[0].marks
    assert walk.y[0] == 1 == pytest.approx(cosine.y[0]) and list(walk.x) == list(cosine.x)


def test_elrs_in_another_regime_are_named(small):
    rows = [dataclasses.replace(row, regimes={"convergence": 1, "chaotic_equilibrium": 1}) for row in small.stays]
    warned = unexpected(dataclasses.replace(small, stays=rows))
    assert "At ELR 0.02 only 1 of 2 runs are in the chaotic equilibrium (1 in convergence)" in warned[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"elrs": [0.02, 0.02]}, "every value must be named once"),
        ({"elrs": [0.02]}, "elrs"),
        ({"divergence_elrs": [0.02]}, "--divergence-elrs: 0.02 is not allowed: it is one of --elrs"),
        ({"change": 80}, "--change: 80 is not allowed: must be at most 64"),
        ({"batch_size": 81}, "--batch-size: 81"),
        ({"seeds": 1}, "seeds"),
    ],
)
def test_bad_input_is_one_line(tmp_path, fields, message):
    with pytest.raises(InputError) as error:
        stabilise(**SMALL | fields, out=tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
