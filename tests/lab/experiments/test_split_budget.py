"""Memory splits end to end on a few digits: the command, its files, interruption, prediction, a saved ensemble."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from command import flags
from onsphere.ensembles import average_probabilities, calibrated_nll
from onsphere.lab import data
from onsphere.lab.cli import run_command
from onsphere.lab.ensemble_files import ensemble_metadata, load_ensemble
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.split import charts
from onsphere.lab.experiments.split.result import SplitResult
from onsphere.lab.experiments.split.run import EXPERIMENT, resume_split, split_budget
from onsphere.lab.frame import repeated
from onsphere.lab.store import Run
from onsphere.lab.store.files import write_json
from onsphere.lab.terminal import show

pytestmark = pytest.mark.usefixtures("undrawn_module")

TINY = {"train": 100, "test": 100, "steps": 60, "batch_size": 25, "lr": 0.02, "chunk": 8, "mode": "vmap"}
TINY |= {"budget": [2000, 4000], "members": [1, 2, 4], "seeds": 2}


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the command prints on standard output, and its status."""
    folder, out = tmp_path_factory.mktemp("split"), io.StringIO()
    save = folder / "best.safetensors"
    with contextlib.redirect_stdout(out):
        status = run_command(["split", *flags(**TINY), f"--save={save}", f"--out={folder / 'run'}", "--json"])
    return status, out.getvalue()


@pytest.fixture(scope="module")
def finished(printed):
    return SplitResult.load(Run.open(Path(json.loads(printed[1])["run"])))


def without_times(result):
    left_out = ("run", "report", "seconds", "cpu_seconds", "saved")
    values = {k: v for k, v in result.to_dict().items() if k not in left_out}
    return values | {"spec": {k: v for k, v in values["spec"].items() if k != "save"}}


def test_the_command_prints_one_json_object_with_the_promised_names(printed):
    status, out = printed
    assert status == 0 and len(out.splitlines()) == 1
    result = json.loads(out.splitlines()[-1])
    assert [row["members"] for row in result["splits"]] == [1, 2, 4]
    for row in result["splits"]:
        assert {"members", "width", "parameters", "accuracy", "nll", "cnll", "standard_error"} <= row.keys()
        assert row["standard_error"].keys() == {"accuracy", "nll", "cnll"}
        assert row["parameters"] == 64 * row["width"] + row["width"] ** 2 + 10 * row["width"]
        assert 0.2 < row["accuracy"] <= 1
    assert result["best"].keys() == {"accuracy", "nll", "cnll"}
    assert set(result["best"].values()) <= {1, 2, 4}
    assert result["advantage"] in (True, False, "unclear")
    assert [answer["budget"] for answer in result["budgets"]] == [2000, 4000]


def test_the_run_is_told_in_one_line(finished):
    assert "2,000 parameters" in EXPERIMENT.one_line(Run.open(finished.run))


def test_values_follow_from_the_logits_on_disk(finished):
    labels = data.load("digits", train=100, test=100).y_test.numpy()
    for answer in finished.budgets:
        for row in answer.splits:
            pool = load_file(finished.run / "logits" / f"width-{row.width:05d}.safetensors")
            assert pool["logits"].dtype == np.float32 and pool["alive"].all()
            for seed in range(2):
                group = pool["logits"][seed * row.members : (seed + 1) * row.members]
                logs = average_probabilities(group)
                assert row.values["nll"][seed] == pytest.approx(-logs[np.arange(100), labels].mean())
                assert row.values["accuracy"][seed] == pytest.approx((logs.argmax(1) == labels).mean())
                assert row.values["cnll"][seed] == pytest.approx(float(calibrated_nll(group, labels)))
            assert row.nll == pytest.approx(np.mean(row.values["nll"]))
            assert row.standard_error["nll"] == pytest.approx(abs(np.diff(row.values["nll"])[0]) / 2)
        for metric, best in answer.best.items():
            sign = -1 if metric == "accuracy" else 1
            assert best == min(answer.splits, key=lambda row: sign * getattr(row, metric)).members


def test_splits_of_equal_width_share_a_pool(finished):
    widths = {row.width for answer in finished.budgets for row in answer.splits}
    assert len(widths) < 6  # 4000 / 2 and 2000 / 1 are one width
    assert finished.networks == 2 * sum(
        max(row.members for a in finished.budgets for row in a.splits if row.width == width) for width in widths
    )
    assert finished.cost.share == 1 and finished.cost.member_steps == 60 * finished.networks


def test_the_page_is_whole_and_the_result_printed(finished, capsys):
    page = finished.report.read_text()
    assert 'id="splits-chart"' in page and 'id="envelope-chart"' in page and 'id="curves-chart"' in page
    drawn = {"splits", "curves", "envelope", "plane", "laws", "fixed", "temperature"}
    assert {p.stem for p in (finished.run / "figures").glob("*.png")} == drawn
    assert "top-5 (%)" in page and "a law of three parameters takes at least" in page
    assert "Recommended, by NLL" in page
    assert len(finished.to_frame()) == 6
    assert "SplitResult" in repr(finished)
    show(EXPERIMENT, finished)
    out = capsys.readouterr().out
    assert f"ensemble: {finished.saved}" in out and "4,000" in out and "…" not in out


def test_the_charts_hold_every_split_the_laws_and_the_best(finished):
    first, second, third = charts.splits_chart(finished).panels
    for panel, metric, scale in ((first, "nll", 1), (second, "cnll", 1), (third, "accuracy", 100)):
        for line, star, answer in zip(panel.marks[::2], panel.marks[1::2], finished.budgets, strict=True):
            assert line.x == [row.members for row in answer.splits]
            assert line.y == pytest.approx([scale * getattr(row, metric) for row in answer.splits])
            assert star.x == [answer.best[metric]]
    widths = sorted({p.width for p in finished.curves})
    for panel, metric in zip(charts.curves_chart(finished).panels, ("nll", "cnll"), strict=True):
        points = [mark for mark in panel.marks if mark.entry.startswith("width") and mark.look.marker]
        assert [mark.entry for mark in points] == [f"width {width}" for width in widths]
        assert [y for mark in points for y in mark.y] == [p.mean[metric] for p in finished.curves]
        drawn = [mark for mark in panel.marks if mark.look.dash == "dot"]
        fitted = [law for law in finished.laws if law.metric == metric and law.law is not None]
        for law, mark in zip(fitted, drawn, strict=True):
            assert mark.y == pytest.approx(law(mark.x))
    single, best = charts.envelope_chart(finished).panels[0].marks
    assert single.x == best.x == [2000, 4000] and not any(single.labels)
    assert list(best.labels) == [str(answer.best["nll"]) for answer in finished.budgets]
    with pytest.warns(DeprecationWarning, match=r"fit\.limit"):
        assert finished.laws[0].law["limit"] == finished.laws[0].law.limit


def test_the_plane_holds_every_ensemble_equal_budgets_and_the_best(finished):
    sizes = finished.parameters
    for panel, metric in zip(charts.plane_chart(finished).panels, ("nll", "cnll"), strict=True):
        *budgets, points = panel.marks
        known = [p for p in finished.curves if math.isfinite(p.mean[metric])]
        assert (points.x, points.y) == ([p.size for p in known], [sizes[p.width] for p in known])
        assert points.values == [p.mean[metric] for p in known]
        for line, star, answer in zip(budgets[::2], budgets[1::2], finished.budgets, strict=True):
            assert [n * s for n, s in zip(line.x, line.y, strict=True)] == pytest.approx([answer.budget] * 3, rel=0.15)
            assert star.x == [answer.best[metric]] and star.y == [answer.row(answer.best[metric]).parameters]


def test_the_lower_envelope_is_the_lowest_of_the_fixed_temperatures(finished):
    chart = charts.fixed_chart(finished)
    for panel, kind in zip(chart.panels, ("averaged", "members"), strict=True):
        for frame, name in enumerate(chart.frames):
            *lines, envelope = [mark for mark in panel.marks if mark.frame == frame]
            own = [r for r in finished.fixed_temperatures if (f"width {r.width}", r.kind) == (name, kind)]
            assert envelope.x == [row.size for row in own] and len(lines) == len(own[0].temperatures)
            assert envelope.y == np.min([line.y for line in lines], axis=0).tolist()
    for panel in charts.temperature_chart(finished).panels:
        shown = sorted(value for mark in panel.marks for value in mark.y)
        assert shown == sorted(p.temperature for p in finished.curves)


def test_curves_end_in_the_splits_and_laws_are_fitted(finished):
    for width in {p.width for p in finished.curves}:
        own = [p for p in finished.curves if p.width == width]
        rows = [row for a in finished.budgets for row in a.splits if row.width == width]
        assert max(p.size for p in own) == max(row.members for row in rows)
    assert {(law.metric) for law in finished.laws} == {"nll", "cnll"}
    assert all(law.law is not None or law.note for law in finished.laws)


def test_the_saved_ensemble_is_the_best_split(finished):
    saved = Path(finished.saved)
    answer = finished.budgets[-1]
    row = answer.row(answer.best["nll"])
    ensemble = load_ensemble(saved)
    assert ensemble.members == row.members
    x = data.load("digits", train=100, test=100).x_test
    logits = load_file(finished.run / "logits" / f"width-{row.width:05d}.safetensors")["logits"][: row.members]
    with torch.no_grad():
        assert ensemble(x).numpy() == pytest.approx(average_probabilities(logits), abs=1e-4)
    facts = ensemble_metadata(saved)
    assert facts["width"] == row.width and facts["seeds"] == list(range(row.members))
    assert facts["scores"]["nll"] == pytest.approx(row.values["nll"][0])


def test_interrupted_twice_and_resumed_gives_the_same_bits(finished, tmp_path):
    folder, asked = tmp_path / "run", iter(range(10**9))
    with pytest.raises(Interrupted):  # while training
        split_budget(**TINY, out=folder, stop=lambda: next(asked) >= 100)
    run = Run.open(folder)
    pools = len(list((finished.run / "logits").iterdir()))
    assert 0 < len(list((folder / "logits").iterdir())) < pools
    with pytest.raises(Interrupted):  # while measuring
        resume_split(run, stop=lambda: len(list((folder / "logits").glob("*.safetensors"))) == pools)
    assert not run.done
    result = resume_split(run)
    assert without_times(result) == without_times(finished)
    for path in (finished.run / "logits").iterdir():
        first, second = load_file(path), load_file(run.folder / "logits" / path.name)
        assert all((first[name] == second[name]).all() for name in first)
    assert resume_split(run).budgets == result.budgets


def test_a_prediction_trains_four_networks_a_width_and_says_what_that_costs(finished, tmp_path):
    fields = TINY | {"members": [1, 2, 4, 8], "budget": [4000]}
    result = split_budget(**fields, predict=True, out=tmp_path / "run")
    assert result.predicted and result.networks == 16
    assert result.cost.share == pytest.approx(16 / 30)
    assert result.cost.share_of_one_seed == pytest.approx(16 / 15)
    parameters = [row.parameters for row in result.budgets[0].splits]
    whole = 2 * sum(n * p for n, p in zip((1, 2, 4, 8), parameters, strict=True))
    assert result.cost.parameter_share == pytest.approx(4 * sum(parameters) / whole)
    assert {row.basis for row in result.budgets[0].splits[:3]} == {"measured"}
    assert result.budgets[0].splits[3].basis != "measured"
    assert "member-steps" in result.report.read_text()
    # the first four networks of a pool are those of a whole run
    row = next(r for a in finished.budgets for r in a.splits if r.members == 4 and r.budget == 4000)
    name = f"logits/width-{row.width:05d}.safetensors"
    few, many = (load_file(r.run / name)["logits"][:4] for r in (result, finished))
    assert few == pytest.approx(many, abs=1e-3)


def test_sgd_trains_a_plain_network_too(tmp_path):
    fields = TINY | {"budget": [2000], "members": [1, 2], "curves": False, "lr": None, "steps": 120}
    result = split_budget("plain-mlp", **fields, optimizer="sgd", weight_decay=1e-3, out=tmp_path / "run")
    assert min(row.accuracy for row in result.budgets[0].splits) > 0.3
    assert "sgd, cosine lr 0.05, weight decay 1e-3" in result.report.read_text()


def test_on_the_sphere_at_the_elr_of_a_regime_map(tmp_path):
    regimes = Run.create(tmp_path / "map", "regimes", {})
    ends = {"low": 0.02, "high": 0.05, "resolved": True}
    write_json(regimes.result_path, {"boundaries": {"convergence": ends, "divergence": {"low": 1.0, "high": 2.0}}})
    fields = TINY | {"budget": [1000], "members": [1, 2], "curves": False, "lr": None}
    result = split_budget(**fields, geometry="sphere", map=str(regimes.folder), out=tmp_path / "run")
    assert result.spec.map is None and result.spec.elr == 0.02
    assert "--elr 0.02" in repeated(result) and "--map" not in repeated(result)
    weights = load_file(next((result.run / "shards").iterdir()) / "weights.safetensors")
    norm = sum((weights[f"linear{i}.weight"].astype(float) ** 2).sum(axis=(1, 2)) for i in (1, 2))
    assert norm == pytest.approx(np.ones_like(norm), rel=1e-5)


def test_networks_that_fail_are_named_and_a_budget_of_them_is_a_failure(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fields = TINY | {"budget": [2000], "members": [1], "steps": 8, "lr": 1e-9, "model": "plain-mlp"}
    assert run_command(["split", *flags(**fields), "--out", "run"]) == 1
    error = capfd.readouterr().err
    assert "every network of budget 2,000 failed to train" in error and "member" in error


def test_own_arrays_and_an_own_family(tmp_path):
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 120)
    x = (np.eye(3)[y] * 3 + generator.normal(size=(120, 3))).astype(np.float32)
    arrays = (x[:60], y[:60], x[60:], y[60:])
    fields = {
        "budget": 60,
        "members": [1, 2],
        "seeds": 2,
        "steps": 80,
        "batch_size": 20,
        "lr": 0.05,
        "optimizer": "adamw",
    }
    result = split_budget(own_family, arrays, **fields, out=tmp_path / "run")
    assert result.spec.data == "arrays" and result.input_shape == (3,)
    assert min(row.accuracy for row in result.budgets[0].splits) > 0.7
    assert "split_budget(model, arrays" in result.report.read_text()
    assert not math.isnan(result.budgets[0].splits[0].cnll)


def own_family(input_shape, classes, width):
    return torch.nn.Sequential(torch.nn.Linear(*input_shape, width), torch.nn.ReLU(), torch.nn.Linear(width, classes))
