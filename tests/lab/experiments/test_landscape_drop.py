"""The drop from call to page: the control without a drop, interruption, files, the command line."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import nn

from command import flags
from onsphere.lab import InputError, Interrupted
from onsphere.lab.chart.arrange import arranged
from onsphere.lab.cli import run_command
from onsphere.lab.experiments.drop.charts import after_chart, barrier_chart, error_chart, matrix_chart
from onsphere.lab.experiments.drop.page import printed
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.experiments.drop.run import drop_elr, prepare, resume_drop
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.frame import repeated
from onsphere.lab.population import Copy, Plan, Shard, ShardFolder, run_shard
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run

SMALL = {
    **{"train": 60, "label_noise": 0.0, "widths": [8], "starts": [1e-2, 0.1], "ends": [1e-3, 1e-2], "steps": 40},
    **{"drop_steps": 24, "batch_size": 16, "evaluations": 2, "seeds": 2, "averaged": 3, "points": 5, "workers": 1},
    **{"mode": "vmap", "chunk": 6, "compiled": "no"},
}
FEW = ("averages", "cells", "continuations", "paths", "matrix", "best", "classes", "threshold", "snapshots")


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
    problem = prepare(DropSpec(**SMALL), "mlp", "digits", Progress()).problem
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


@pytest.mark.parametrize("stage", ["after the drop", "averages and paths"])
def test_interrupted_and_resumed_the_weights_and_rows_are_the_same(dropped, tmp_path, undrawn, stage):
    class Stopper(Progress):
        here, asked = False, 0

        def begin(self, title, copy_steps):
            self.here = title == stage

    def stop():
        stopper.asked += stopper.here
        return stopper.asked > 3

    stopper = Stopper()
    with pytest.raises(Interrupted):
        drop_elr(**SMALL, sharpness=True, out=tmp_path / "run", progress=stopper, stop=stop)
    assert not (tmp_path / "run" / "result.json").exists()
    assert (tmp_path / "run" / "measured" / "00000.json").exists() == (stage == "averages and paths")
    again = resume_drop(Run(tmp_path / "run"))
    assert {k: again.to_dict()[k] for k in FEW} == {k: dropped.to_dict()[k] for k in FEW}
    for path in dropped.run.glob("shards/*/weights.safetensors"):
        other = load_file(tmp_path / "run" / path.relative_to(dropped.run))
        assert all(tensor.equal(other[name]) for name, tensor in load_file(path).items())


def test_what_is_on_disk_and_what_is_printed(dropped):
    again = DropResult.load(Run(dropped.run))
    assert again == dropped
    assert {p.name for p in (dropped.run / "figures").glob("*.png")} == {
        f"{n}.png" for n in ("error", "matrix", "after", "barriers")
    }
    _, table = printed(dropped)
    assert [heading for heading, _ in table.columns] == [
        *("from ELR", "class", "to 1e-3", "gradient", "to 0.01", "gradient", "average")
    ]
    cell = dropped.at(0.1, 1e-3)
    assert table.cells[2][2].text == f"{100 * cell.test_error:.2f} ± {100 * cell.test_error_se:.2f}"
    assert len(dropped.to_frame()) == 12 and "best start" in repr(dropped)


def with_averages(result, *errors):
    """The result with other test errors of the averages of each start, the same for both seeds."""
    known = dict(zip(result.starts, errors, strict=True))
    return replace(result, averages=[replace(one, test_error=known[one.start]) for one in result.averages])


def test_the_axis_of_the_first_chart_holds_the_best_average(dropped):
    """However far below the continuations it lies; of averages far above nothing but a remark is left."""
    highest = max(cell.test_error + cell.test_error_se for cell in dropped.matrix)
    for lowest in (0.0, 0.01, 0.5 * min(cell.test_error for cell in dropped.matrix)):
        (place,) = arranged(error_chart(with_averages(dropped, 0.99, 0.2, lowest)))
        assert place.y_limits.low <= 100 * lowest and 100 * highest < place.y_limits.high
        assert place.y_limits.cut == (place.y_limits.high < 99)
    (place,) = arranged(error_chart(with_averages(dropped, highest, highest, highest)))
    assert not place.y_limits.cut


def test_the_first_chart_has_a_curve_and_a_level_a_final_elr_and_the_averages(dropped):
    (panel,) = error_chart(dropped).panels
    down, level, _, _, average = panel.marks
    assert (down.entry, level.entry, average.entry) == ("down to 1e-3", "1e-3 throughout", "average of 3, no drop")
    assert list(down.y) == [100 * dropped.at(start, 1e-3).test_error for start in (1e-3, 1e-2, 0.1)]
    assert list(level.y) == [100 * dropped.at(1e-3, 1e-3).test_error] * 2
    assert list(average.y) == [100 * np.mean(errors) for errors in dropped.average_errors().values()]
    (heat,) = matrix_chart(dropped).panels[0].marks
    assert heat.z[1][2] == 100 * dropped.at(0.1, 1e-2).test_error


def test_sharpness_and_barriers_are_drawn_where_they_were_measured(dropped):
    assert len(after_chart(dropped).panels) == 2
    blunt = replace(dropped, matrix=[replace(cell, sharpness=None, sharpness_se=None) for cell in dropped.matrix])
    assert len(after_chart(blunt).panels) == 1
    error, loss, apart = barrier_chart(dropped).panels
    low_high = [path.error_barrier for path in dropped.paths if (path.pair, path.start) == ("low-high", 0.1)]
    assert error.marks[0].columns["mean"][2] == pytest.approx(100 * np.mean(low_high))
    assert error.marks[0].y[2] == max(error.marks[0].columns["mean"][2], 0.01)
    assert [f"<b>{one.label}</b>" for one in dropped.classes] == [rule.name for rule in error.rules]
    assert len(loss.marks) == len(apart.marks) == 3
    angles = [path.angle for path in dropped.paths if (path.pair, path.start) == ("low-high", 0.1)]
    assert apart.marks[0].y[2] == pytest.approx(np.mean(angles))


def test_the_command_repeats_the_run(dropped):
    words = shlex.split(repeated(dropped))
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
    assert "own arrays" in repeated(result)
    with pytest.raises(InputError, match="onsphere resume"):
        drop_elr(net, arrays, **own, out=tmp_path / "own")
