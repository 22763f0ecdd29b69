"""The drop from call to page: the control without a drop, interruption, files, the command line."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import nn

from command import flags
from onsphere.lab import InputError, Interrupted
from onsphere.lab.cli import run_command
from onsphere.lab.experiments.drop import terminal
from onsphere.lab.experiments.drop.page import command
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.experiments.drop.run import drop_elr, resume_drop
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.population import Copy, Plan, Shard, ShardFolder, run_shard
from onsphere.lab.store import Run

SMALL = {
    **{"train": 60, "label_noise": 0.0, "widths": [8], "starts": [1e-2, 0.1], "ends": [1e-3, 1e-2], "steps": 40},
    **{"drop_steps": 24, "batch_size": 16, "evaluations": 2, "seeds": 2, "averaged": 3, "points": 5, "workers": 1},
    **{"mode": "vmap", "chunk": 6, "compiled": "no"},
}
FEW = ("averages", "cells", "continuations", "paths", "matrix", "best", "classes", "threshold", "snapshots")


@pytest.fixture
def undrawn(monkeypatch):
    """No printed figures, which take longer than all the rest."""
    monkeypatch.setattr("onsphere.lab.experiments.drop.page.figures_of", lambda result, subtitle: {})


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    """Three starts, two final ELRs, two seeds, with everything that can be measured."""
    return drop_elr(**SMALL, sharpness=True, out=tmp_path_factory.mktemp("drop") / "run")


def test_the_json_has_what_programs_read(dropped):
    values = json.loads((dropped.run / "result.json").read_text())
    assert values["command"] == "landscape drop"
    pairs = {(r["start"], r["end"], r["seed"]) for r in values["continuations"]}
    assert pairs == {(s, e, seed) for s in (1e-3, 1e-2, 0.1) for e in (1e-3, 1e-2) for seed in (0, 1)}
    assert values["snapshots"] == [32, 36, 40]  # an epoch of 60 images is 4 steps of 16
    for row in values["continuations"]:
        assert row["finite"] and row["sharpness"] > 0 and 0 < row["angle"] < np.pi
        assert row["gradient_norm"] > 0 and 0 <= row["test_error"] <= 1
    assert len(values["averages"]) == 6 and len(values["paths"]) == 18
    assert {"start", "end", "test_error", "test_error_se"} <= values["matrix"][0].keys()
    assert [best["end"] for best in values["best"]] == [1e-3, 1e-2]
    assert values["threshold"].keys() >= {"low", "high", "value", "fitted", "divergence"}


def test_the_mean_of_the_matrix_is_that_of_the_rows(dropped):
    cell = dropped.analysis.at(0.1, 1e-3)
    errors = [r.test_error for r in dropped.continuations if (r.start, r.end) == (0.1, 1e-3)]
    assert cell.test_error == pytest.approx(np.mean(errors))
    assert cell.test_error_se == pytest.approx(abs(errors[0] - errors[1]) / 2)


def test_going_on_at_the_same_elr_is_not_stopping_at_all(dropped, tmp_path):
    """The control without a drop has the bits of one uninterrupted run of all steps."""
    from onsphere.lab.experiments.drop.run import _Work
    from onsphere.lab.progress import Progress

    spec = DropSpec(**SMALL)
    problem = _Work(spec, "mlp", "digits", Progress(), lambda: False).problem
    whole = type(problem)(**{**vars(problem), "steps": 64, "snapshots": ()})
    assert run_shard(Shard("whole", (Copy(1, 1e-2), Copy(0, 1e-2))), whole, Plan("vmap", 6), tmp_path / "whole")
    expected = ShardFolder(tmp_path / "whole").weights()["linear1.weight"][0]
    found = [
        shard.weights()["linear1.weight"][row]
        for shard in map(ShardFolder, (dropped.run / "shards").glob("drop-*"))
        for row, copy in enumerate(shard.copies())
        if (copy.lr, copy.seed, copy.start) == (1e-2, 1, 3)  # rows of starts: 1e-3 seeds 0 1, 1e-2 seeds 0 1, ...
    ]
    assert len(found) == 1 and found[0].equal(expected)


def test_an_average_lies_amid_its_snapshots(dropped):
    wild = {one.start: one.spread for one in dropped.averages if one.seed == 0}
    assert 0 < wild[1e-3] < wild[1e-2] < wild[0.1] < np.pi / 2


@pytest.mark.parametrize("calls", [60, 99])
def test_interrupted_anywhere_and_resumed_gives_the_same(dropped, tmp_path, undrawn, calls):
    """In the second round, and between measurements."""
    asked = []

    def stop():
        asked.append(1)
        return len(asked) >= calls

    with pytest.raises(Interrupted):
        drop_elr(**SMALL, sharpness=True, out=tmp_path / "run", stop=stop)
    assert not (tmp_path / "run" / "result.json").exists()
    again = resume_drop(Run(tmp_path / "run"))
    assert {k: again.to_dict()[k] for k in FEW} == {k: dropped.to_dict()[k] for k in FEW}
    for path in dropped.run.glob("shards/*/weights.safetensors"):
        other = load_file(tmp_path / "run" / path.relative_to(dropped.run))
        assert all(tensor.equal(other[name]) for name, tensor in load_file(path).items())


def test_the_result_and_the_page_come_back_from_disk(dropped, capsys):
    again = DropResult.load(Run(dropped.run))
    assert {k: again.to_dict()[k] for k in FEW} == {k: dropped.to_dict()[k] for k in FEW}
    before = dropped.report.read_text()
    assert terminal.rewrite_report(Run(dropped.run)) == dropped.report
    after = dropped.report.read_text()
    assert len(after) == pytest.approx(len(before), abs=200)  # seconds are rounded on disk
    for chart in ("error-chart", "matrix-chart", "after-chart", "barrier-chart"):
        assert chart in after
    assert {p.name for p in (dropped.run / "figures").glob("*.png")} == {
        f"{n}.png" for n in ("error", "matrix", "after", "barriers")
    }
    terminal.show(dropped)
    shown = capsys.readouterr().out
    assert terminal.one_line(Run(dropped.run)) in shown and str(dropped.report) in shown
    assert len(dropped.to_frame()) == 12 and "best start" in repr(dropped)


def test_the_command_repeats_the_run(dropped):
    words = shlex.split(command(dropped.spec))
    assert words[:3] == ["onsphere", "landscape", "drop"]
    assert words[words.index("--starts") + 1] == "0.01,0.1" and "--sharpness" in words


def test_the_command_line_prints_one_json_object_last(undrawn, capfd):
    fields = {**SMALL, "ends": [1e-3], "starts": [0.1], "averaged": 0, "points": 3, "chunk": 8}
    assert run_command(["landscape", "drop", *flags(**fields), "--no-barriers", "--out", "run", "--json"]) == 0
    values = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert values["averages"] == [] == values["paths"] and len(values["continuations"]) == 4
    assert {one["label"] for one in values["classes"]} <= {"1", "2", "3"}
    assert "barrier-chart" not in (Path(values["run"]) / "report.html").read_text()


BAD = {
    "a start twice": ("--starts 1e-3,1e-3", "--starts"),
    "a start of zero": ("--starts 0", "--starts"),
    "no end": ("--ends ,", "--ends"),
    "one snapshot": ("--averaged 1", "--averaged"),
    "snapshots that do not fit": ("--steps 100 --averaged 5 --every 25", "--every"),
    "less than two epochs": ("--steps 8", "--averaged"),
    "one seed": ("--seeds 1", "--seeds"),
    "two points": ("--points 2", "--points"),
    "batch larger than the data": ("--train 20 --batch-size 30", "--batch-size"),
    "no such field": ("--refine 2", "refine"),
}


@pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_status_2(line, said, capfd):
    assert run_command(["landscape", "drop", *line.split()]) == 2
    error = capfd.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0], error


def test_own_arrays_and_modules(undrawn, tmp_path):
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 120)
    x = (generator.standard_normal((120, 5)) + 2 * y[:, None]).astype("float32")

    def net():
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))

    arrays = (x[:80], y[:80], x[80:], y[80:])
    own = {k: v for k, v in SMALL.items() if k not in ("train", "widths", "label_noise")} | {
        "starts": 0.1,
        "ends": 1e-2,
    }
    result = drop_elr(net, arrays, **own, out=tmp_path / "own")
    assert {row.pair for row in result.paths} == {"average-low"}
    assert "own arrays" in command(result.spec)
    with pytest.raises(InputError, match="onsphere resume"):
        drop_elr(net, arrays, **own, out=tmp_path / "own")
