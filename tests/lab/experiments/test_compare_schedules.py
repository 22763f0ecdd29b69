"""The experiment from call to page: the JSON, what is printed, charts, a map's run, own arrays, wrong input."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from cyclopts.exceptions import CycloptsError

from onsphere.lab import InputError, Run
from onsphere.lab.cli import app, run_command
from onsphere.lab.config import to_toml
from onsphere.lab.experiments.regimes.classify import Cell, settled
from onsphere.lab.experiments.schedule import charts, methods
from onsphere.lab.experiments.schedule.charts import courses
from onsphere.lab.experiments.schedule.page import report
from onsphere.lab.experiments.schedule.result import ScheduleResult
from onsphere.lab.experiments.schedule.run import EXPERIMENT, compare_schedules
from onsphere.lab.frame import repeated
from onsphere.lab.population import ShardFolder
from onsphere.lab.terminal import show
from onsphere.optim import propose_elrs

pytestmark = pytest.mark.usefixtures("undrawn_module")

SMALL = {
    **{"train": 60, "widths": [8], "steps": 40, "batch_size": 16, "evaluations": 2, "workers": 1, "seeds": 2},
    **{"constant": [0.5, 1.0], "peaks": [4.0], "lr": [1.0], "weight_decay": [1e-3], "mode": "vmap", "chunk": 20},
    **{"compiled": "no", "checkpoint_seconds": 0.01},
}
LINE = (
    "schedule --train 60 --widths 8 --steps 40 --batch-size 16 --evaluations 2 --workers 1 --seeds 2 "
    "--constant 0.5,1 --peaks 4 --lr 1 --weight-decay 1e-3 --mode vmap --chunk 20 --compiled no "
    "--checkpoint-seconds 0.01"
)


def test_a_swing_of_the_loss_does_not_move_the_threshold(monkeypatch):
    """One seed's loss falls at an ELR where it does not fit, above one at which it had levelled off."""
    falls, level, jumps = "convergence", "chaotic_equilibrium", "divergence"
    labels = {1e-4: falls, 3e-3: falls, 1e-2: level, 3e-2: level, 6e-2: falls, 0.3: jumps}
    names = ("loss", "train_loss", "loss_at_init", "test_error", "angular_update", "gradient_norm")
    rest = dict.fromkeys(names, 1.0) | {"train_error": 0.3, "trend": 0.9, "finite": True, "round": 0}
    cells = [
        Cell(elr, seed, level if (seed, elr) == (0, 6e-2) else label, "", **rest)
        for elr, label in labels.items()
        for seed in (0, 1)
    ]
    monkeypatch.setattr(methods, "read_cells", lambda shard, number: cells)
    monkeypatch.setattr(methods, "next_cells", lambda cells, factor: [])
    proposed = propose_elrs(methods.quick_map(OneRound()))
    assert (proposed.basis, proposed.bracket) == ("labels", (3e-3, 1e-2))


def test_a_run_that_is_only_slow_makes_no_swing_of_the_others():
    names = ("train_loss", "loss_at_init", "test_error", "angular_update", "gradient_norm")
    rest = dict.fromkeys(names, 1.0) | {"train_error": 0.3, "trend": 0.9, "finite": True, "round": 0}
    slow = Cell(1e-5, 0, "chaotic_equilibrium", "", loss=2.0, **rest)
    falls = Cell(1e-3, 0, "convergence", "", loss=1.0, **rest)
    assert settled([slow, falls]) == [slow, falls]
    assert settled([replace(slow, loss=0.5), falls])[1].regime == "chaotic_equilibrium"


class OneRound:
    """A trainer of one shard that holds nothing."""

    def round(self, name, copies, title):
        yield None


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A comparison that makes its own map."""
    return compare_schedules(**SMALL, out=tmp_path_factory.mktemp("quick") / "run")


def test_the_json_has_what_programs_read(quick):
    values = json.loads(json.dumps(quick.to_dict(), allow_nan=False))
    assert values["command"] == "schedule"
    proposal = values["proposal"]
    assert proposal["start_elr"] >= proposal["threshold"] > proposal["end_elr"] > 0
    assert [m["family"] for m in values["methods"]] == [
        *("proposed", "constant", "constant", "cosine", "space-constant", "space-cosine"),
    ]
    assert sum(m["tuned"] for m in values["methods"]) == 5
    for row in values["methods"]:
        assert len(row["test_error"]) == len(row["validation_error"]) == 2
        assert row["means"]["test_error"]["low"] <= np.mean(row["test_error"]) <= row["means"]["test_error"]["high"]
    verdict = values["verdict"]
    assert verdict["not_worse"] == (verdict["difference"] <= verdict["standard_error"])
    assert values["tuned_on"] == "validation"
    assert (quick.run / "map.json").exists()


def test_the_errors_are_those_that_the_engine_evaluated(quick):
    folders = [path for name in ("sphere", "space") for path in sorted(quick.run.glob(f"shards/{name}-*"))]
    shards = [ShardFolder(folder) for folder in folders]
    copies = [copy for shard in shards for copy in shard.copies()]
    errors = np.concatenate([shard.evaluations()[1][-1, :, 3] for shard in shards])
    assert errors.tolist() == [error for method in quick.methods for error in method.test_error]
    assert [copy.lr for copy in copies[::2]] == [method.lr for method in quick.methods]
    assert [copy.weight_decay for copy in copies[::2]] == [method.weight_decay for method in quick.methods]


def test_it_is_told_as_a_table_in_a_line_and_as_a_frame(quick, capsys):
    assert len(quick.to_frame()) == 12 and "validation_error" in quick.to_frame().columns
    show(EXPERIMENT, quick)
    printed = capsys.readouterr().out
    assert "proposed schedule" in printed and "paired difference" in printed and "…" not in printed
    assert "than the best of the others" in EXPERIMENT.one_line(Run(quick.run))
    assert "cosine ELR" in repr(quick)


def test_what_was_a_mapping_is_still_read_by_name(quick):
    with pytest.warns(DeprecationWarning, match=r"write proposal\.start_elr instead of proposal\['start_elr'\]"):
        assert quick.proposal["start_elr"] == quick.proposal.start_elr
    with pytest.warns(DeprecationWarning, match=r"interval\.mean"):
        mean = quick.verdict.differences["constant"]["mean"]
    best = min(method.means["test_error"].mean for method in quick.tuned if method.family == "constant")
    assert mean == pytest.approx(quick.methods[0].means["test_error"].mean - best)


def test_the_charts_hold_every_method_and_its_course(quick):
    found = courses(Run(quick.run), quick)
    assert [course.method for course in found] == quick.tuned
    errors, gaps = charts.errors_chart(quick).panels
    assert sorted(x for mark in errors.marks[::2] for x in mark.x) == pytest.approx(
        sorted(100 * error for method in quick.tuned for error in method.test_error)
    )
    assert [mark.y for mark in gaps.marks] == [[0], [1], [2], [3]]  # all but the proposal, which is above them
    lines = charts.schedules_chart(quick, found).panels[0].marks
    assert [float(line.y[0]) for line in lines[:3]] == pytest.approx([method.lr for method in quick.tuned[:3]])
    sphere, space = charts.settings_chart(quick).panels
    drawn = [x for panel in (sphere, space) for mark in panel.marks for x in mark.x]
    assert drawn == [method.lr for method in quick.methods]
    losses, late = charts.courses_chart(found).panels
    assert len(losses.marks) == len(late.marks) == 5
    assert late.y.range[0] < 100 * min(min(course.test_error) for course in found)


def test_a_seed_that_became_non_finite_leaves_a_gap_in_the_charts(quick):
    lost = replace(quick.tuned[1], test_error=(float("nan"), 0.5))
    result = replace(quick, methods=[lost if method == quick.tuned[1] else method for method in quick.methods])
    row = charts.errors_chart(result).panels[0].marks[-3]  # the mean of the second method from above
    assert np.isnan(row.x).all() and row.y == [3]
    assert "–" in str(report(Run(quick.run), result).sections[-1].blocks[-1])


def test_a_command_with_a_file_prints_one_json_line(tmp_path, capsys):
    (tmp_path / "spec.toml").write_text(to_toml({"seed": 3, "end_factor": 0.2}))
    line = f"{LINE} --convergence 4e-3,9e-3 --config spec.toml --out run --json"
    assert run_command(shlex.split(line)) == 0
    printed = capsys.readouterr().out.splitlines()
    values = json.loads(printed[-1])
    assert len(printed) == 1
    assert values["boundaries"] == {"convergence": [4e-3, 9e-3], "divergence": None}
    assert values["proposal"]["end_elr"] == pytest.approx(0.2 * 6e-3) and values["spec"]["seed"] == 3
    assert not (tmp_path / "run" / "map.json").exists()
    assert isinstance(ScheduleResult.load(Run(tmp_path / "run")), ScheduleResult)


def test_it_reads_the_run_of_a_map(tmp_path, capsys):
    grid = "--elr-min 1e-3 --elr-max 1 --elrs 4 --refine 0 --train 60 --widths 8 --steps 40 --batch-size 16 --workers 1"
    assert (
        run_command(
            shlex.split(
                f"regimes {grid} --label-noise 0.1 --label-noise-kind any --seeds 2 --evaluations 4 --out map --json"
            )
        )
        == 0
    )
    shared = "--workers 1 --evaluations 2 --seeds 2 --constant 1 --peaks 4 --lr 1 --weight-decay 1e-3"
    assert run_command(shlex.split(f"schedule --map map {shared} --compiled no --out run --json")) == 0
    mapped, values = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (values["spec"]["label_noise"], values["spec"]["label_noise_kind"]) == (0.1, "any")
    assert values["spec"]["widths"] == [8] and values["spec"]["steps"] == 40
    assert values["boundaries"]["divergence"] == mapped["boundaries"]["divergence"]["low"]
    result = ScheduleResult.load(Run(tmp_path / "run"))
    left_out = report(Run(result.run), result).left_out
    assert "--map" not in repeated(result, left_out) and "--convergence" in repeated(result, left_out)


def test_own_arrays_are_tuned_on_the_test_set(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 5)).astype(np.float32), rng.integers(3, size=90)
    fields = {name: value for name, value in SMALL.items() if name != "train"}
    arrays = (x[:60], y[:60], x[60:], y[60:])
    result = compare_schedules(data=arrays, **fields, convergence=[8e-3], out=tmp_path / "run")
    assert result.tuned_on == "test" and all(not method.validation_error for method in result.methods)
    with pytest.raises(InputError, match="no such field"):
        compare_schedules(data=arrays, **fields, bananas=1)
    assert "on the test set itself" in result.report.read_text()


BAD = {
    "unsorted bracket": ("--convergence 2e-2,1e-2", "--convergence"),
    "three numbers": ("--convergence 1,2,3", "--convergence"),
    "no map": ("--map nowhere", "nowhere"),
    "start below the threshold": ("--start-factor 0.5", "--start-factor"),
    "end above it": ("--end-factor 1", "--end-factor"),
    "hold and tail": ("--hold 0.7 --tail 0.5", "--tail"),
    "one seed": ("--seeds 1", "--seeds"),
    "a rate twice": ("--peaks 2,2", "--peaks"),
    "decay of 1 / lr": ("--lr 2 --weight-decay 0.5", "--weight-decay"),
    "batch": ("--batch-size 600", "--batch-size"),
    "shape": ("--shape stairs", "--shape"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD.keys())
def test_wrong_input_is_one_line_and_status_2(arguments, said, capsys, tmp_path):
    assert run_command(["schedule", *arguments.split()]) == 2
    message = capsys.readouterr().err.strip()
    assert said in message and len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_app_knows_no_other_options():
    with pytest.raises(CycloptsError):
        app.parse_args(["schedule", "--bananas", "1"], exit_on_error=False, print_error=False)
