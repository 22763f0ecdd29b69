"""The experiment from call to page: numbers, set-ups, the sphere, resuming, one's own model."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import nn

from onsphere.lab import InputError, Interrupted, Run, resume_periods, train_periods
from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun
from onsphere.lab.experiments.periods.run import EXPERIMENT
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.frame import repeated
from onsphere.lab.population.course import thinned
from onsphere.lab.terminal import show

pytestmark = pytest.mark.usefixtures("undrawn_module")

SMALL = {"train": 100, "widths": [16], "steps": 600, "batch_size": "full", "evaluations": 4, "workers": 1, "seeds": 2}


@pytest.fixture(scope="module")
def periodic(tmp_path_factory):
    """Two settings with everything that can be asked for."""
    out = tmp_path_factory.mktemp("periodic") / "run"
    return train_periods(**SMALL, lr=1.0, weight_decay=[3e-3, 1e-2], compare_sphere=True, minima=True, out=out)


def test_the_json_has_what_programs_read(periodic):
    values = json.loads(json.dumps(periodic.to_dict(), allow_nan=False))
    assert values["command"] == "periods"
    assert {(r["lr"], r["weight_decay"], r["seed"]) for r in values["runs"]} == {
        (1.0, wd, seed) for wd in (3e-3, 1e-2) for seed in (0, 1)
    }
    named = {"jumps", "period", "predicted_recovery", "measured_recovery", "rms_angular_update", "finite"}
    for run in values["runs"]:
        assert named <= run.keys() and run["finite"] is True
        assert run["jumps"] == sorted(set(run["jumps"])) and all(100 < step < 600 for step in run["jumps"])
    assert values["engine"]["invariant"] == ["linear1.weight"]
    assert len(values["sphere"]) == 12 and len(values["comparison"]) == 2


def test_the_result_comes_back_from_disk_as_it_was(periodic):
    again = resume_periods(Run(periodic.run))
    assert again == periodic
    assert isinstance(again.runs[0], PeriodsRun)
    assert [run.to_dict() for run in again.runs] == periodic.to_dict()["runs"]
    frame = periodic.to_frame()
    assert len(frame) == 4 and "period" in frame.columns
    assert "period" in repr(periodic) and str(periodic.report) in repr(periodic)


def test_the_report_is_written_again_and_the_terminal_says_the_same(periodic, capsys):
    before = periodic.report.read_text()
    assert EXPERIMENT.rewrite(Run(periodic.run)) == periodic.report
    assert periodic.report.read_text() == before
    show(EXPERIMENT, periodic)
    said = capsys.readouterr().out
    assert "report.html" in said and "period" in said
    assert "wd 0.01" in EXPERIMENT.one_line(Run(periodic.run))
    names = {path.name for path in (periodic.run / "figures").iterdir()}
    drawn = ["course-lr1-wd0.003", "course-lr1-wd0.01", "loop-lr1-wd0.003", "loop-lr1-wd0.01"]
    drawn += ["law", "sphere", "minima", "ensemble"]
    assert names == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}


def test_the_sphere_runs_lie_around_the_measured_elr(periodic):
    for row in periodic.comparison:
        own = sorted({r.elr for r in periodic.sphere if r.weight_decay == row.weight_decay})
        assert own == pytest.approx([row.elr / 1.8, row.elr, row.elr * 1.8])
        middle = [r.loss for r in periodic.sphere if r.elr == own[1]]
        assert row.sphere_loss == pytest.approx(np.exp(np.log(middle).mean()))
        assert row.ratio == pytest.approx(row.loss / row.sphere_loss)


def test_the_command_on_the_page_names_every_field_that_differs(periodic):
    words = repeated(periodic).split()
    assert words[:2] == ["onsphere", "periods"] and "--compare-sphere" in words and "--minima" in words
    assert words[words.index("--weight-decay") + 1] == "0.003,0.01"
    assert repeated(dataclasses.replace(periodic, spec=PeriodsSpec())) == "onsphere periods"
    full = repeated(dataclasses.replace(periodic, spec=PeriodsSpec(batch_size="full", train=512))).split()
    assert sorted(full[2:]) == ["--batch-size", "--train", "512", "full"]


def test_stopped_anywhere_and_resumed_gives_the_same_bits(tmp_path):
    # The engine is given, since two runs may choose different ones by their timings, and so differ in the last bits.
    engine = {"mode": "vmap", "chunk": 2, "compiled": "no"}
    fields = SMALL | engine | {"steps": 160, "burn_in": 20, "weight_decay": 1e-2, "compare_sphere": True}
    whole = train_periods(**fields, out=tmp_path / "whole")
    for turns in (40, 200):  # among the runs with weight decay, and among those on the sphere
        calls = iter(range(turns))
        out = tmp_path / f"cut{turns}"
        with pytest.raises(Interrupted):
            train_periods(**fields, out=out, stop=lambda calls=calls: next(calls, None) is None)
        assert not Run(out).done
        resumed = resume_periods(Run(out))
        assert (resumed.runs, resumed.sphere) == (whole.runs, whole.sphere)
        for path in sorted((tmp_path / "whole").glob("shards/*/weights.safetensors")):
            other = load_file(out / "shards" / path.parent.name / path.name)
            for name, tensor in load_file(path).items():
                assert tensor.equal(other[name])


@pytest.mark.parametrize(
    ("setup", "momentum", "trained"),
    [
        ("scale-invariant", 0.0, {"linear1.weight"}),
        ("all-parameters", 0.0, {"linear1.weight", "bn1.weight", "bn1.bias", "head.weight"}),
        ("practical", 0.9, {"linear1.weight", "bn1.weight", "bn1.bias", "head.weight"}),
    ],
)
def test_each_setup_trains_its_tensors_and_measures_the_invariant_ones(setup, momentum, trained, tmp_path):
    few = SMALL | {"steps": 100, "burn_in": 10}
    result = train_periods(**few, lr=0.1, weight_decay=1e-2, setup=setup, out=tmp_path / "run")
    assert result.engine.invariant == ["linear1.weight"]
    weights = load_file(tmp_path / "run/shards/space-000/weights.safetensors")
    untrained = train_periods(
        **few | {"steps": 8, "burn_in": 0}, lr=1e-9, weight_decay=1e-2, setup=setup, out=tmp_path / "start"
    )
    start = load_file(untrained.run / "shards/space-000/weights.safetensors")
    moved = {name for name in weights if name != "alive" and not weights[name].allclose(start[name], atol=1e-4)}
    assert moved == trained
    from onsphere.lab.population import ShardFolder

    assert {copy.momentum for copy in ShardFolder(tmp_path / "run/shards/space-000").copies()} == {momentum}
    assert (result.runs[0].rms_angular_update is None) == (momentum > 0)


def net(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 1, 8, 8)), np.arange(64) % 4, rng.normal(size=(20, 1, 8, 8)), np.arange(20) % 4


@pytest.mark.parametrize("setup", ["scale-invariant", "all-parameters"])
def test_ones_own_model_and_arrays(setup, tmp_path):
    fields = {"steps": 60, "seeds": 1, "batch_size": "full", "evaluations": 1, "burn_in": 10, "setup": setup}
    result = train_periods(net, arrays(), **fields, out=tmp_path / "run")
    assert result.spec.data == "arrays" and result.runs[0].finite
    # the bias before a norm moves nothing, so the weight is invariant with or without it
    assert "1.weight" in result.engine.invariant
    (tmp_path / "run/result.json").unlink()
    with pytest.raises(InputError, match=r"resume_periods\(run, data="):
        resume_periods(Run(tmp_path / "run"))
    assert resume_periods(Run(tmp_path / "run"), model=net, data=arrays()).runs == result.runs


def test_a_network_without_norms_is_refused(tmp_path):
    def plain(input_shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    for setup in ("scale-invariant", "all-parameters"):
        with pytest.raises(InputError, match=r"^--model: "):
            train_periods(plain, arrays(), steps=60, batch_size=16, burn_in=10, setup=setup, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_is_reported_and_drawn(tmp_path):
    result = train_periods(
        **SMALL | {"steps": 40, "burn_in": 5},
        lr=1e30,
        weight_decay=1e-31,
        setup="all-parameters",
        minima=True,
        out=tmp_path / "run",
    )
    assert {run.behaviour for run in result.runs} == {"non-finite"} and not result.runs[0].finite
    assert "finite" in result.report.read_text()
    assert PeriodsResult.load(Run(result.run)).runs == result.runs
    assert EXPERIMENT.rewrite(Run(result.run)).is_file()


def test_thinned_courses_keep_every_spike_and_leave_gaps():
    values = np.full(10_000, 0.1)
    values[[3, 4567, 9999]] = (5.0, 7.0, 0.001)
    values[2000:2100] = np.nan
    values[5000] = 0.0
    steps, kept = thinned(values, bins=100)
    assert len(steps) <= 200 and (np.diff(steps) > 0).all()
    assert {5.0, 7.0, 0.001} <= set(kept) and np.isnan(kept).any()
    for step, value in zip(steps.astype(int), kept, strict=True):
        assert values[step] == value or np.isnan(value)
    steps, kept = thinned(values[:150], bins=100)
    assert steps.tolist() == list(range(150)) and (kept == values[:150]).all()
