"""Ordinary training beside the sphere from call to page: measured ELRs, labels, the sphere's map, resuming."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from onsphere.lab import InputError, Run, compare_conventional, resume_conventional
from onsphere.lab.cli import run_command
from onsphere.lab.experiments.conventional.charts import elr_chart, loss_chart, phase_chart
from onsphere.lab.experiments.conventional.page import drawn
from onsphere.lab.experiments.conventional.result import ConventionalRun, SphereMap, distance
from onsphere.lab.experiments.conventional.run import EXPERIMENT, prepare
from onsphere.lab.experiments.conventional.spec import ConventionalSpec
from onsphere.lab.experiments.conventional.words import answer, best_rate, warnings_of
from onsphere.lab.population import Copy, Engine, Plan, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.terminal import show

pytestmark = pytest.mark.usefixtures("undrawn_module")

SMALL = {"train": 100, "test": 60, "widths": [8], "steps": 80, "batch_size": 20, "evaluations": 4, "workers": 1}
SMALL |= {"elr": [1e-3, 3e-2, 1.0], "lr": [0.03, 3.0], "weight_decay": 0.02, "seeds": 2}
SMALL |= {"mode": "vmap", "chunk": 6, "compiled": "no"}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return compare_conventional(**SMALL, out=tmp_path_factory.mktemp("conventional") / "run")


def row(**changes):
    """A made-up run on the sphere."""
    values = dict.fromkeys((f.name for f in dataclasses.fields(ConventionalRun)), None)
    values |= {"setup": "sphere", "lr": 1e-2, "seed": 0, "regime": "chaotic_equilibrium", "reason": "", "finite": True}
    return ConventionalRun(**values | changes)


def test_every_set_up_trains_what_it_says():
    spec = ConventionalSpec(**SMALL | {"schedule": "cosine", "augment": True})
    problems = {name: one.problem for name, one in prepare(spec, "mlp", "digits", Progress()).items()}
    assert problems["sphere"].trained == problems["invariant"].trained == ("linear1.weight",)
    assert (problems["sphere"].geometry, problems["sphere"].radius) == ("sphere", 1.0)
    assert problems["invariant"].geometry == "space" and problems["invariant"].schedule == "constant"
    ordinary = problems["all"]
    assert set(ordinary.trained) == {"linear1.weight", "bn1.weight", "bn1.bias", "head.weight"}
    assert ordinary.schedule == "cosine" and ordinary.geometry == "space"
    assert all(problem.augment for problem in problems.values())
    norms = [[m for m in p.build(0).modules() if isinstance(m, nn.BatchNorm1d)] for p in problems.values()]
    assert [found[0].eps for found in norms] == [1e-12, 1e-12, 1e-5]


def test_the_elr_is_that_of_the_scale_invariant_weights_alone(comparison):
    """Against the norms of the kept weights, in the set-up with momentum."""
    for run in comparison.of("all", 0.03):
        folder = next(
            shard
            for shard in map(ShardFolder, (comparison.run / "shards").glob("all-*"))
            if (run.lr, run.seed) in [(c.lr, c.seed) for c in shard.copies()]
        )
        k = [(c.lr, c.seed) for c in folder.copies()].index((run.lr, run.seed))
        copy = folder.copies()[k]
        assert (copy.momentum, copy.weight_decay) == (0.9, 0.02)
        last = float(folder.weights()["linear1.weight"][k].double().square().sum())
        readings = folder.readings()
        norm2 = readings.moment("norm2")[:, k, readings.names.index("linear1.weight")]
        assert norm2[-1] == pytest.approx(last, rel=1e-2)  # one step earlier
        assert run.elr == pytest.approx(np.exp(np.log(0.03 / (0.1 * norm2[60:])).mean()))
        assert run.highest_elr == pytest.approx(0.3 / norm2.min())
        assert run.angular_update is None


def test_the_angle_of_a_step_is_that_between_weights(tmp_path):
    """Without momentum, from the weights themselves after 15 and 16 of 16 steps."""
    few = SMALL | {"setups": ["invariant"], "lr": [0.3], "seeds": 1, "evaluations": 1, "batch_size": 100}
    spec = ConventionalSpec(**few | {"steps": 16})
    problem = prepare(spec, "mlp", "digits", Progress())["invariant"].problem
    engine = Engine(problem, (Copy(0, 0.3, 0.02),), Plan("vmap", 1))
    ring = torch.empty((16, 1, engine.columns))
    state, weights = engine.initial_state(), []
    for step in range(12, 17):
        state = engine.advance(state, step, ring)
        weights.append(state.params[0][0].double().flatten())
    angles = [
        2 * np.arctan2(float((a / a.norm() - b / b.norm()).norm()), float((a / a.norm() + b / b.norm()).norm()))
        for a, b in pairwise(weights)
    ]
    result = compare_conventional(**few | {"steps": 16}, out=tmp_path / "run")
    (run,) = result.runs
    assert run.angular_update == pytest.approx(np.mean(angles), rel=1e-3)
    assert result.setups == ["invariant"] and run.sphere_loss is None and run.shares is None


def test_the_map_of_the_sphere():
    made = [row(lr=elr, seed=s, regime=r, loss=loss) for elr, r, loss, s in (
        (1e-3, "convergence", 0.01, 0),
        (1e-3, "convergence", 0.01, 1),
        (1e-2, "chaotic_equilibrium", 0.1, 0),
        (1e-2, "chaotic_equilibrium", 0.4, 1),
        (1e-1, "divergence", 2.0, 0),
        (1e-1, "chaotic_equilibrium", 2.0, 1),
        (1.0, "divergence", 4.0, 0),
    )]  # fmt: skip
    sphere = SphereMap.of(made)
    assert sphere.regimes == ("convergence", "chaotic_equilibrium", "chaotic_equilibrium", "divergence")
    assert sphere.losses == pytest.approx((0.01, 0.2, 2.0, 4.0))
    assert [sphere.regime(elr) for elr in (1e-9, 3e-3, 3.3e-3, 0.3, 0.4, 50)] == [
        *["convergence"] * 2,
        *["chaotic_equilibrium"] * 2,
        *["divergence"] * 2,
    ]
    assert [(name, round(low, 5), round(high, 5)) for name, low, high in sphere.bands()] == [
        ("convergence", 0, 0.00316),
        ("chaotic_equilibrium", 0.00316, 0.31623),
        ("divergence", 0.31623, np.inf),
    ]
    assert sphere.loss(10**-2.5) == pytest.approx((0.01 * 0.2) ** 0.5)
    assert sphere.loss(5e-4) is None and sphere.loss(2.0) is None
    shares = sphere.shares(np.array([1e-3, 2e-3, 1e-2, 1.0]))
    assert shares == {"convergence": 0.5, "chaotic_equilibrium": 0.25, "divergence": 0.25}


def test_distances_count_runs_that_level_off_where_the_sphere_does():
    alike = {"setup": "invariant", "sphere_regime": "chaotic_equilibrium", "sphere_loss": 2.0}
    runs = [row(**alike, loss=loss) for loss in (2.0, 2.2, 5.0)]
    runs += [
        row(**alike | {"sphere_regime": "convergence"}, loss=9.0),
        row(**alike, loss=9.0, regime="convergence"),
        row(**alike | {"sphere_loss": None}, loss=9.0),
    ]
    found = distance("invariant", runs)
    assert (found.runs, found.median, found.low, found.high, found.close) == (3, 1.1, 1.0, 2.5, 2)
    assert distance("all", []).median is None


def test_the_answer_names_the_best_ordinary_run(comparison):
    sentences = answer(comparison)
    lr = best_rate(comparison, "all")
    errors = {rate: np.mean([run.test_error for run in comparison.of("all", rate)]) for rate in (0.03, 3.0)}
    assert lr == min(errors, key=errors.get)
    assert sentences[0].startswith(f"The ordinary run with the lowest test error (lr {lr:g}: {100 * errors[lr]:.3g}")
    assert "fall into the sphere's" in sentences[0] and len(sentences) == 4
    assert sentences[-1].startswith("On the sphere: ")
    cosine = dataclasses.replace(
        comparison, spec=comparison.spec.model_copy(update={"schedule": "cosine", "weight_decay": 0.0})
    )
    assert len(warnings_of(cosine)) == len(warnings_of(comparison)) + 2


def test_the_result_comes_back_from_disk_and_the_report_again(comparison, capsys):
    assert resume_conventional(Run(comparison.run)) == comparison
    before = comparison.report.read_text()
    assert EXPERIMENT.rewrite(Run(comparison.run)) == comparison.report and comparison.report.read_text() == before
    show(EXPERIMENT, comparison)
    said = capsys.readouterr().out
    assert "report.html" in said and "invariant" in said
    assert "sphere: " in EXPERIMENT.one_line(Run(comparison.run))
    names = {path.name for path in (comparison.run / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("phase", "loss", "elr", "rate") for kind in ("png", "svg")}
    frame = comparison.to_frame()
    assert len(frame) == len(comparison.runs) == 2 * (3 + 2 + 2) and "ratio" in frame.columns
    values = comparison.to_dict()
    assert [row["setup"] for row in values["distances"]] == ["invariant", "all"]
    assert all(row["ratio"] is None or row["ratio"] > 0 for row in values["runs"])
    assert str(comparison.report) in repr(comparison)


def test_what_is_drawn_are_the_runs(comparison):
    shown, sphere = drawn(Run(comparison.run), comparison), comparison.sphere_map
    assert [one.run for one in shown] == comparison.runs
    assert sphere.elrs == (1e-3, 3e-2, 1.0)
    for one in shown:
        assert len(one.steps) == len(one.loss) == len(one.gradient) > 3
        if one.run.setup == "sphere":
            assert set(one.elr) == {one.run.lr}
    phase, elr = phase_chart(shown), elr_chart(shown, sphere)
    assert [len(panel.marks) for panel in phase.panels] == [6, 4, 4]
    assert [len(panel.marks) for panel in elr.panels] == [4, 4]
    assert [(span.name, span.low) for span in elr.panels[0].spans] == [
        (regime.replace("_", " "), low) for regime, low, _ in sphere.bands()
    ]
    # the axes are made for runs that do not diverge, and no other is left out by them
    for mark, run in zip([m for panel in elr.panels for m in panel.marks], comparison.runs[6:], strict=True):
        low, high = elr.panels[0].y.range
        assert run.regime == "divergence" or (low < np.nanmin(mark.y) and np.nanmax(mark.y) < high)
    loss = loss_chart(comparison)
    assert [list(panel.marks[0].x) for panel in loss.panels] == [[run.elr for run in comparison.of("sphere")]] * 2
    assert list(loss.panels[1].marks[0].y) == [100 * run.test_error for run in comparison.of("sphere")]


def test_set_ups_are_trained_in_their_order_and_the_cosine_ends_low(tmp_path):
    few = {"train": 60, "test": 40, "widths": [6], "elr": [0.1, 1e-3], "lr": 0.1, "seeds": 1, "steps": 24}
    few |= {"batch_size": 20, "evaluations": 2, "workers": 1, "mode": "vmap", "chunk": 2, "compiled": "no"}
    result = compare_conventional(**few, setups="all,sphere", schedule="cosine", out=tmp_path / "run")
    assert [(run.setup, run.lr) for run in result.runs] == [("sphere", 1e-3), ("sphere", 0.1), ("all", 0.1)]
    # the cosine has nearly ended in the last quarter
    assert result.runs[2].lowest_elr < 0.02 * result.runs[2].highest_elr


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--setups", "sphere,plain", "sphere"),
        ("--lr", "1,1", "every value must be named once"),
        ("--elr", "0", "greater than 0"),
        ("--weight-decay", "0.2", "must be below 1"),
        ("--momentum", "1", "less than 1"),
        ("--batch-size", "5000", "there are 500 training images"),
    ],
)
def test_bad_input_is_one_line(option, value, said, capsys):
    assert run_command(["landscape", "conventional", option, value]) == 2
    message = capsys.readouterr().err
    assert option in message and said in message and message.count("\n") == 1


def test_a_network_without_norms_is_refused():
    with pytest.raises(InputError, match="--model"):
        compare_conventional(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), **SMALL)
