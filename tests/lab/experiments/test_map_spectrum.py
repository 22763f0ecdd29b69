"""The spectrum of regime 1 from call to page: where runs are matched, what is measured there, trends, resuming."""

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from onsphere.lab import InputError, Interrupted, Run
from onsphere.lab.chart.spec import Heat
from onsphere.lab.cli import run_command
from onsphere.lab.experiments.spectrum.charts import (
    angle_chart,
    error_chart,
    map_of,
    means,
    overview,
    pairs_chart,
    sharpness_chart,
)
from onsphere.lab.experiments.spectrum.measure import lowest_common
from onsphere.lab.experiments.spectrum.page import printed
from onsphere.lab.experiments.spectrum.result import (
    Pair,
    Point,
    SpectrumResult,
    SpectrumRun,
    interval,
    trend,
    trends_of,
)
from onsphere.lab.experiments.spectrum.run import map_spectrum, prepare, resume_spectrum
from onsphere.lab.experiments.spectrum.spec import SpectrumSpec
from onsphere.lab.experiments.spectrum.words import answer, describe, warnings_of
from onsphere.lab.frame import repeated
from onsphere.lab.networks import criterion, network
from onsphere.lab.networks.matched import TrainLoss, candidates, running_loss
from onsphere.lab.population import Engine, Plan, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.result import Engine as Executed
from onsphere.normalisation import without_running_statistics

pytestmark = pytest.mark.usefixtures("undrawn_module")

SMALL = {"train": 100, "test": 60, "widths": [8], "steps": 120, "batch_size": 20, "evaluations": 4, "workers": 1}
SMALL |= {"elr": [2e-3, 8e-3, 3e-2], "seeds": 2, "window": 6, "gradients": 4, "points": 5}
SMALL |= {"mode": "vmap", "chunk": 3, "compiled": "no"}


@pytest.fixture(scope="module")
def spectrum(tmp_path_factory):
    return map_spectrum(**SMALL, out=tmp_path_factory.mktemp("spectrum") / "run")


def problem_of(result):
    return prepare(result.spec, "mlp", "digits", Progress())


def test_running_loss_and_where_to_look_for_the_target():
    loss = np.array([5.0, 4.0, 3.0, 2.0, 1.0, np.nan, 1.0, 1.0])
    assert running_loss(loss, 3)[:3].tolist() == [4.0, 3.0, 2.0]
    assert np.isnan(running_loss(loss, 3)[3:6]).all()
    assert candidates(loss, 3, 1.0) == []
    # 4.0 is within 1.6 times 3.0, which the second window reaches
    assert candidates(loss, 3, 3.0) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert candidates(loss, 1, 1.0) == [4, 5, 6]
    many = candidates(np.geomspace(10, 0.01, 5000), 20, 0.1)
    assert len(many) == 30 and many == sorted(many)
    falling = running_loss(np.geomspace(10, 0.01, 5000), 20)
    assert falling[many[0]] <= 0.16 < falling[many[0] - 1] and falling[many[-1] - 40] <= 0.1


def test_runs_are_taken_where_their_train_loss_is_closest_to_the_target(spectrum):
    """No other step that was looked at is closer, by training step by step."""
    problem = problem_of(spectrum)
    shard = ShardFolder(min((spectrum.run / "shards").iterdir()))
    copies, readings = tuple(shard.copies()), shard.readings().loss
    engine = Engine(problem, copies, Plan("vmap", 3))
    state, ring = engine.initial_state(), torch.empty((120, len(copies), engine.columns))
    looks = [candidates(readings[:, k], 6, spectrum.target) for k in range(len(copies))]
    assert any(looks)
    losses = [{} for _ in copies]
    for step in range(1, 121):
        for k, own in enumerate(looks):
            if step - 1 in own:
                weights = {name: values[k] for name, values in zip(problem.trained, state.params, strict=True)}
                losses[k][step - 1] = TrainLoss(problem, 4)(weights, copies[k].seed)
        state = engine.advance(state, step, ring)
    for k, copy in enumerate(copies):
        run = next(r for r in spectrum.runs if (r.elr, r.seed) == (copy.lr, copy.seed))
        if looks[k]:
            misses = {step: abs(np.log(loss / spectrum.target)) for step, loss in losses[k].items()}
            assert run.matched.step == min(misses, key=misses.get)
            assert run.matched.batch_loss == pytest.approx(losses[k][run.matched.step], rel=1e-6)
        else:
            assert run.matched is None


def test_the_target_is_the_lowest_that_every_converging_run_reaches(spectrum):
    shards = [ShardFolder(path) for path in sorted((spectrum.run / "shards").iterdir())]
    lowest = {}
    for shard in shards:
        loss = shard.readings().loss
        for k, copy in enumerate(shard.copies()):
            lowest[copy.lr, copy.seed] = running_loss(loss[:, k], 6).min()
    converging = [lowest[run.elr, run.seed] for run in spectrum.runs if run.regime == "convergence"]
    assert spectrum.target == max(converging)
    assert all(run.matched is not None for run in spectrum.runs if run.regime == "convergence")
    assert lowest_common({}, [], 6) is None


def test_points_are_those_of_the_weights_that_training_had(spectrum):
    """Every quantity of one run at matched loss, computed again by other means."""
    run = next(run for run in spectrum.runs if run.seed == 1 and run.matched is not None and run.matched.step > 0)
    problem = problem_of(spectrum)
    (shard,) = [
        s
        for s in map(ShardFolder, sorted((spectrum.run / "shards").iterdir()))
        if (run.elr, run.seed) in [(c.lr, c.seed) for c in s.copies()]
    ]
    copies = tuple(shard.copies())
    engine = Engine(problem, copies, Plan("vmap", 3))
    ring = torch.empty((120, len(copies), engine.columns))
    state = engine.advance(engine.initial_state(), run.matched.step, ring)
    k = next(i for i, c in enumerate(copies) if (c.lr, c.seed) == (run.elr, run.seed))
    weights = dict(zip(problem.trained, state.params, strict=True))
    model, loss = network(problem, weights, k, run.seed), criterion(problem)

    training = without_running_statistics(network(problem, weights, k, run.seed)).double()
    flat = torch.cat([weights[name][k].flatten() for name in problem.trained]).double()
    rows = problem.batches(run.seed, 0, 4)
    x, y = problem.data.x_train.double(), problem.data.y_train
    losses, norms = [], []
    for row in rows:
        value = loss(training(x[row]), y[row])
        gradients = torch.autograd.grad(value, [dict(training.named_parameters())[n] for n in problem.trained])
        g = torch.cat([g.flatten() for g in gradients])
        unit = flat / flat.norm()
        norms.append(float(flat.norm() * (g - (g @ unit) * unit).norm()))
        losses.append(float(value.detach()))
    assert run.matched.batch_loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert run.matched.gradient_norm == pytest.approx(np.mean(norms), rel=1e-4)

    initial = dict(problem.build(run.seed).named_parameters())
    start = torch.cat([initial[n].detach().flatten() for n in problem.trained]).double()
    cosine = float(flat @ start / (flat.norm() * start.norm()))
    assert run.matched.angle == pytest.approx(np.arccos(cosine), abs=1e-5)

    # the sphere's Hessian in one batch of 100, by a dense matrix: P (H - (x·∇)I) P at radius one
    names, shapes = problem.trained, [weights[n][k].shape for n in problem.trained]

    def function(vector):
        parts = [p.reshape(s) for p, s in zip(vector.split([s.numel() for s in shapes]), shapes, strict=True)]
        return loss(functional_call(training, dict(zip(names, parts, strict=True)), (x[:100],)), y[:100])

    point = flat / flat.norm()
    hessian = torch.autograd.functional.hessian(function, point)
    projector = torch.eye(len(point), dtype=torch.float64) - torch.outer(point, point)
    gradient = torch.autograd.functional.jacobian(function, point)
    sphere = projector @ (hessian - float(gradient @ point) * torch.eye(len(point))) @ projector
    assert run.matched.sharpness == pytest.approx(float(torch.linalg.eigvalsh(sphere)[-1]), rel=2e-2)
    assert isinstance(model, nn.Module)


def test_the_end_is_what_the_last_evaluation_saw(spectrum):
    for path in sorted((spectrum.run / "shards").iterdir()):
        shard = ShardFolder(path)
        _, evaluations = shard.evaluations()
        for k, copy in enumerate(shard.copies()):
            run = next(r for r in spectrum.runs if (r.elr, r.seed) == (copy.lr, copy.seed))
            names = ("train_loss", "train_error", "test_loss", "test_error")
            assert [getattr(run.end, n) for n in names] == pytest.approx(evaluations[-1, k].tolist(), rel=1e-3)
            assert run.end.step == 120


def test_pairs_cover_every_two_minima_of_a_seed_once(spectrum):
    assert [(p.seed, p.low, p.high) for p in spectrum.pairs] == [
        (s, low, high) for s in (0, 1) for low, high in ((2e-3, 8e-3), (2e-3, 3e-2), (8e-3, 3e-2))
    ]
    for pair in spectrum.pairs:
        assert 0 < pair.angle < 2 and pair.loss_barrier >= 0 and 0 <= pair.position < 1
    far = [next(p for p in spectrum.pairs if (p.seed, p.low, p.high) == (s, 2e-3, 3e-2)) for s in (0, 1)]
    near = [next(p for p in spectrum.pairs if (p.seed, p.low, p.high) == (s, 2e-3, 8e-3)) for s in (0, 1)]
    assert all(a.angle > b.angle for a, b in zip(far, near, strict=True))
    matrix = map_of(spectrum, "angle", None)
    assert matrix[0][2] == matrix[2][0] == pytest.approx(np.mean([p.angle for p in far]))


def test_a_trend_is_clear_only_when_the_seeds_agree():
    elrs = [1e-3, 1e-2, 1e-1]

    def of(kind, *rows):
        return trend("end", "sharpness", kind, {s: list(zip(elrs, row, strict=True)) for s, row in enumerate(rows)})

    falling = of("ratio", [8, 4, 2], [9, 4, 2.1], [8.5, 5, 2])
    assert falling.verdict == "falls" and falling.spearman == [-1, -1, -1] and falling.rising == 0
    assert falling.mean == pytest.approx(np.prod([2 / 8, 2.1 / 9, 2 / 8.5]) ** (1 / 3))
    assert falling.low < falling.mean < falling.high < 1
    assert of("ratio", [8, 4, 2], [9, 4, 30], [8, 5, 2]).verdict == "not clear"
    assert of("difference", [0, 0.1, 0.2], [0, 0.2, 0.21]).verdict == "rises"
    assert of("ratio", [8, 4, 2]).verdict == "not clear"  # one seed
    # the ends rise in every seed, and the ranks fall: not clear
    assert of("ratio", [2, 1, 2.1], [2, 1.2, 2.11]).spearman == [0.5, 0.5]
    # Student's t with two degrees of freedom: 4.302653
    mean, low, high = interval([1.0, 2.0, 3.0], "difference")
    assert (mean, low, high) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6)
    # a constant quantity has no ranks
    assert of("difference", [1, 1, 1]).spearman == []


def made(**changes):
    """A result of made-up numbers: sharpness 8/ELR rank, everything else alike."""
    alike = {"step": 5, "batch_loss": 0.1, "gradient_norm_error": 0.1, "sharpness_error": 0.1, "train_error": 0.0}
    alike |= {"train_loss": 0.1, "test_error": 0.1}
    runs = [
        SpectrumRun(
            elr=elr,
            seed=seed,
            regime="convergence",
            finite=True,
            matched=Point(
                **alike,
                gradient_norm=3 / (i + 1) + 0.1 * seed,
                sharpness=8.0 + seed,
                angle=0.1 * (i + 1),
                test_loss=0.5 + 0.1 * (-1) ** (seed + i),
            ),
            end=None,
        )
        for i, elr in enumerate((1e-3, 1e-2, 1e-1))
        for seed in (0, 1, 2)
    ]
    pairs = [
        Pair(s, low, high, 0.5, b, 0.0, 0.5)
        for s in (0, 1, 2)
        for low, high, b in ((1e-3, 1e-2, 0.0), (1e-3, 1e-1, 0.3 + 0.01 * s), (1e-2, 1e-1, 0.2))
    ]
    values = {"run": Path("run"), "report": Path("page"), "spec": SpectrumSpec(seeds=3), "target": 0.1, "pairs": pairs}
    values |= {"engine": Executed("vmap", 1, False, 1), "seconds": 1.0, "cpu_seconds": 1.0, "runs": runs} | changes
    return SpectrumResult(**values, trends=trends_of(values["runs"], values["pairs"]))


def test_the_answer_says_what_falls_and_what_is_not_clear():
    result = made()
    first, second, third, _ = answer(result)
    assert first.startswith("At a train loss of 0.1 the mean gradient norm falls with the ELR in 3 of 3 seeds")
    assert "the sharpness has no clear trend" in first
    assert "too few values" in second
    assert third.startswith("Minima part with the ELR") and "0.31" in third
    assert not warnings_of(result)
    broken = [dataclasses.replace(run, regime="chaotic_equilibrium") for run in result.runs if run.elr == 1e-1]
    warned = warnings_of(made(runs=[*[r for r in result.runs if r.elr < 1e-1], *broken]))
    assert len(warned) == 1 and "3 runs of 9, from ELR 0.1 on" in warned[0]
    assert "No run converged" in answer(made(target=None))[0]


def test_means_are_taken_where_every_seed_has_a_value():
    result = made()
    elrs, values = means(result, "matched", "sharpness")
    assert elrs == [1e-3, 1e-2, 1e-1] and values == pytest.approx([(8 * 9 * 10) ** (1 / 3)] * 3)
    runs = [r if (r.elr, r.seed) != (1e-2, 1) else dataclasses.replace(r, matched=None) for r in result.runs]
    assert means(made(runs=runs), "matched", "sharpness")[0] == [1e-3, 1e-1]


def test_what_is_on_disk_and_what_is_printed(spectrum):
    again = resume_spectrum(Run(spectrum.run))
    assert again == spectrum
    lines = printed(spectrum)
    assert [row[0].text for row in lines[0].cells] == ["2e-3", "8e-3", "0.03"] and lines[1:] == warnings_of(spectrum)
    assert [heading for heading, _ in lines[0].columns][1:3] == ["gradient at match", "sharpness at match"]
    assert "gradient norm" in describe(spectrum)
    names = {path.name for path in (spectrum.run / "figures").iterdir()}
    assert names == {
        f"{name}.{kind}" for name in ("spectrum", "sharpness", "test", "angle", "pairs") for kind in ("png", "svg")
    }
    assert len(spectrum.to_frame()) == sum((r.matched is not None) + (r.end is not None) for r in spectrum.runs)
    assert str(spectrum.report) in repr(spectrum)


def test_charts_show_every_seed_and_the_means(spectrum):
    gradient, sharpness = sharpness_chart(spectrum).panels
    assert gradient.y.log and sharpness.y.log
    bold = [line for line in gradient.marks if line.listed]
    assert [(line.entry, list(line.x)) for line in bold if line.entry.startswith("end")] == [
        ("end, step 120", spectrum.elrs)
    ]
    thin = [line for line in sharpness.marks if line.entry == "end, step 120" and not line.listed]
    assert [list(line.y) for line in thin] == [
        [run.end.sharpness for run in spectrum.runs if run.seed == seed] for seed in (0, 1)
    ]


def test_the_overview_on_paper_holds_the_panels_of_the_three_charts(spectrum):
    parts = [panel for chart in (sharpness_chart, angle_chart, error_chart) for panel in chart(spectrum).panels]
    panels = overview(spectrum).panels
    assert [panel.y.title for panel in panels] == [panel.y.title for panel in parts]
    assert all(len(panel.marks) == len(part.marks) for panel, part in zip(panels, parts, strict=True))


def test_maps_of_pairs_slide_from_the_mean_through_the_seeds(spectrum):
    chart = pairs_chart(spectrum)
    assert list(chart.frames) == ["mean over seeds", "seed 0", "seed 1"]
    for panel, quantity in zip(chart.panels, ("loss_barrier", "angle"), strict=True):
        assert all(isinstance(mark, Heat) for mark in panel.marks)
        assert [mark.z for mark in panel.marks] == [map_of(spectrum, quantity, seed) for seed in (None, 0, 1)]


def test_an_interrupted_measurement_is_kept_and_the_rest_is_added(spectrum, tmp_path):
    class Stopper(Progress):
        here, asked = False, 0

        def begin(self, title, copy_steps):
            self.here = title == "measuring"

    def stop():
        stopper.asked += stopper.here
        return stopper.asked > 2

    run, stopper = tmp_path / "cut", Stopper()
    with pytest.raises(Interrupted):
        map_spectrum(**SMALL, out=run, progress=stopper, stop=stop)
    first = json.loads((run / "measurements.json").read_text())
    assert len(first) == 2 and not Run(run).done  # the first measurement and the digest
    resumed = resume_spectrum(Run(run))
    kept = json.loads((run / "measurements.json").read_text())
    assert len(kept) == 1 + len(spectrum.pairs) + sum(
        (r.matched is not None) + (r.end is not None) for r in spectrum.runs
    )
    assert [kept[name] for name in first if name != "digest"] == [first[name] for name in first if name != "digest"]
    assert (resumed.runs, resumed.pairs, resumed.target) == (spectrum.runs, spectrum.pairs, spectrum.target)
    assert resumed.trends == spectrum.trends


def test_from_the_command_line_to_json(tmp_path, capsys):
    words = "landscape spectrum --train 60 --test 40 --widths 6 --elr 2e-2,1e-3 --seeds 1 --steps 30 --batch-size 20"
    words += " --evaluations 2 --window 3 --gradients 2 --points 3 --workers 1 --target 2.0"
    words += " --mode vmap --chunk 2 --compiled no --json"
    assert run_command([*words.split(), "--out", "run"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["command"] == "landscape spectrum" and values["target"] == 2.0
    assert values["spec"]["elr"] == [1e-3, 2e-2]
    assert len(values["runs"]) == 2 and len(values["pairs"]) == 1
    assert {"where", "quantity", "spearman", "verdict"} <= values["trends"][0].keys()
    said = shlex.split(repeated(SpectrumResult.load(Run(Path("run")))))
    assert said[:3] == ["onsphere", "landscape", "spectrum"] and "--target" in said


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--elr", "1e-3", "at least 2"),
        ("--elr", "1e-3,1e-3", "every value must be named once"),
        ("--elr", "0,1e-3", "greater than 0"),
        ("--window", "800", "at most half of --steps"),
        ("--target", "-1", "greater than 0"),
        ("--points", "2", "greater than or equal to 3"),
        ("--batch-size", "5000", "there are 1437 training images"),
    ],
)
def test_bad_input_is_one_line(option, value, said, capsys):
    assert run_command(["landscape", "spectrum", option, value]) == 2
    message = capsys.readouterr().err
    assert option in message and said in message and message.count("\n") == 1


def test_a_network_without_norms_is_refused():
    with pytest.raises(InputError, match="--model"):
        map_spectrum(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), **SMALL)
