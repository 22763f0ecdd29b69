"""A plan says what a run will be, makes no folder and trains nothing; what trains nothing has no plan."""

import json
from datetime import datetime

import pytest

from command import here
from onsphere.lab import InputError, plan
from onsphere.lab.experiment import planning
from onsphere.lab.experiment.planning import format_bytes, last_end
from onsphere.lab.population import sizing
from store_runs import FIELDS


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Short timings: no test looks at a time."""
    monkeypatch.setattr(sizing, "LONG", 1e-4)


SHORT = {**FIELDS, "elrs": 3, "refine": 3, "refine_factor": 10.0}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items() if name != "widths"] + ["--widths=8"]


def test_the_rounds_of_a_map_are_planned_from_its_grid():
    found = plan("regimes", **SHORT)
    grid, *later = found.stages
    assert (grid.title, grid.copies, grid.sure, grid.steps, grid.shards, grid.shard_copies) == (
        "grid",
        6,
        True,
        120,
        3,
        2,
    )
    assert [(s.title, s.copies, s.sure) for s in later] == [("round 1", 4, False)]  # a gap of 10^1.5 needs one middle
    assert found.seconds == pytest.approx(found.preparing_seconds + sum(s.seconds for s in found.stages))
    assert datetime.fromisoformat(found.ends).tzinfo is not None
    assert "plan of onsphere regimes" in repr(found) and "expected time" in repr(found)


def test_the_command_prints_it_and_makes_nothing(tmp_path):
    told = here("regimes", *OPTIONS, "--plan", "--out", "run", folder=tmp_path)
    assert told.returncode == 0, told.stderr
    for words in ("grid", "about 4", "a step", "memory of a worker", "disk: about", "started now it ends"):
        assert words in told.stdout
    printed = here("regimes", *OPTIONS, "--plan", "--json", folder=tmp_path)
    values = json.loads(printed.stdout.splitlines()[-1])
    assert values["command"] == "regimes" and [s["copies"] for s in values["stages"]] == [6, 4]
    assert list(tmp_path.iterdir()) == []


def test_what_trains_nothing_says_so_in_a_line(tmp_path):
    told = here("toy", "regimes", "--plan", folder=tmp_path)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "onsphere: --plan: is not allowed with onsphere toy regimes: it trains nothing\n"
    with pytest.raises(InputError, match="'bananas' is not allowed: there are regimes, "):
        plan("bananas")


def test_a_wrong_field_is_refused_as_in_a_run(tmp_path):
    told = here("regimes", "--train=60", "--batch-size=61", "--plan", folder=tmp_path)
    assert told.returncode == 2 and "--batch-size: 61 is not allowed" in told.stderr


def test_shards_go_to_whoever_is_free_first():
    assert last_end([3, 1, 1, 1], 2) == 3
    assert last_end([1, 1, 1, 3], 2) == 4
    assert last_end([1, 2, 3], 1) == 6
    assert last_end([], 4) == 0


def test_more_workers_than_processors_do_not_make_it_faster(monkeypatch):
    monkeypatch.setattr(planning, "_seconds_of_a_worker", lambda: 0.0)
    monkeypatch.setattr(planning, "measure_cost", lambda problem, copies, plan: COST)
    one, eight = (_with_workers(monkeypatch, workers, 1) for workers in (1, 8))
    assert one.stages[0].seconds == eight.stages[0].seconds
    two = _with_workers(monkeypatch, 8, 2)
    assert two.stages[0].seconds == pytest.approx(one.stages[0].seconds / 2)


COST = sizing.Cost(fixed=0.0, step=1.0, evaluation=0.0, state=8, saved=4, weights=4, kept=4, reading=2, files=10)


def _with_workers(monkeypatch, workers, processors):
    monkeypatch.setattr(planning.os, "cpu_count", lambda: processors)
    return plan("regimes", **{**SHORT, "chunk": 1, "workers": workers})


def test_bytes_in_words():
    assert [format_bytes(n) for n in (0, 999, 1000, 2_500_000, 3e9, 4e12)] == [
        *("0 B", "999 B", "1 kB", "2.5 MB", "3 GB", "4 TB")
    ]
