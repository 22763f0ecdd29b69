"""The experiment from call to page: what it holds, that a change changes, resuming to the same bits, bad input."""

import dataclasses
import json

import numpy as np
import pytest

from browser import attribute, needs_browser, open_page
from command import flags, here, last_json
from onsphere.lab import InputError, Interrupted, Run
from onsphere.lab.experiments.stabilise import terminal
from onsphere.lab.experiments.stabilise.answer import answer, unexpected
from onsphere.lab.experiments.stabilise.page import command
from onsphere.lab.experiments.stabilise.run import resume_stabilise, stabilise
from onsphere.lab.population import ShardFolder
from onsphere.lab.progress import Progress

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
    again = resume_stabilise(Run(small.run))
    assert again == dataclasses.replace(small, spec=again.spec)
    assert "report.html" in repr(small) and len(small.to_frame()) == 2
    assert command(small.spec).startswith("onsphere landscape stabilise --train 80 ")


def test_report_terminal_and_answer(small, capsys):
    before = small.report.read_text()
    assert terminal.rewrite_report(Run(small.run)) == small.report
    assert small.report.read_text() == before
    terminal.show(small)
    said = capsys.readouterr().out
    assert "report.html" in said and all(sentence in said for sentence in answer(small))
    assert "left after a change" in terminal.one_line(Run(small.run))
    assert {path.name for path in (small.run / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("memory", "wandering") for kind in ("png", "svg")
    }


def test_elrs_in_another_regime_are_named(small):
    rows = [dataclasses.replace(row, regimes={"convergence": 1, "chaotic_equilibrium": 1}) for row in small.stays]
    warned = unexpected(dataclasses.replace(small, stays=rows))
    assert "At ELR 0.02 only 1 of 2 runs are in the chaotic equilibrium (1 in convergence)" in warned[0]


@needs_browser
def test_the_page_opens_without_an_error_and_draws_every_chart(small):
    document, console = open_page(small.report)
    assert console == []
    assert attribute(document, "data-charts") == str(document.count('<figure class="chart"')) == "6"
    assert not attribute(document, "data-errors")


@pytest.mark.parametrize("after", [0, 100, 600, 965])
def test_interrupted_anywhere_and_resumed_gives_the_same(small, tmp_path, after):
    class Stopper(Progress):
        done = 0

        def advance(self, copy_steps):
            Stopper.done += copy_steps

    with pytest.raises(Interrupted):
        stabilise(**SMALL, out=tmp_path / "cut", progress=Stopper(), stop=lambda: Stopper.done > after)
    assert not (tmp_path / "cut" / "result.json").exists()
    again = resume_stabilise(Run(tmp_path / "cut"))
    kept = {"run": small.run, "report": small.report, "seconds": small.seconds, "cpu_seconds": small.cpu_seconds}
    assert dataclasses.replace(again, **kept, engine=small.engine) == dataclasses.replace(small, spec=again.spec)


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


def test_the_command_prints_json_last_and_refuses_with_two(tmp_path):
    words = ["landscape", "stabilise", *flags(**SMALL | {"steps": 72})]
    done = here(*words, "--out", "run", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last_json(done)["levels"]
    refused = here(*words, "--elrs", "0.02,0.02", folder=tmp_path)
    assert refused.returncode == 2 and "--elrs" in refused.stderr
