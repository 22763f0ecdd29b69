"""Initial norm, step schedules, continued runs, widths and traces, against plain torch written from the formulas."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from onsphere.lab import InputError, Interrupted, Run, resume_periods, train_periods
from onsphere.lab.experiments.periods.page import report, subtitle
from onsphere.lab.experiments.periods.run import phases_of, prepare
from onsphere.lab.experiments.periods.science.continued import APART
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.experiments.periods.words import answer
from onsphere.lab.population import Copy, ShardFolder
from onsphere.lab.population.course import courses_of
from onsphere.lab.progress import Progress

pytestmark = pytest.mark.usefixtures("undrawn_module")

SMALL = {"train": 40, "test": 20, "widths": [6, 5], "batch_size": 10, "evaluations": 1, "workers": 1, "seeds": 2}
SMALL |= {
    "mode": "loop",
    "chunk": 4,
    "compiled": "no",
    "dtype": "float64",
    "burn_in": 0,
    "lr": 0.5,
    "weight_decay": 1e-2,
}


def plain(run, lrs, seed=0, *, start=None, scale=1.0, first=0, fix=False):
    """SGD by torch on the batches of a run; the weights after it, and norm² of the invariant ones before each step."""
    spec = run.spec
    own = PeriodsSpec(
        **spec.model_dump() | {"norm_scale": 1, "continue_from": None, "at": None, "order": 0, "fix_norm": 0}
    )
    given = prepare(own, "mlp", "digits", Progress())
    problem, network = given.problem, given.problem.build(seed).double()
    invariant = [network.get_parameter(name) for name in given.invariant]
    if start is not None:
        network.load_state_dict(start, strict=False)
    with torch.no_grad():
        for weight in invariant:
            weight *= scale
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 1.0, momentum=spec.momentum_used, weight_decay=spec.weight_decay[0])
    squares = []
    for lr, rows in zip(lrs, problem.batches(seed, first, first + len(lrs)), strict=True):
        optimizer.param_groups[0]["lr"] = lr
        squares.append(sum(float(p.detach().square().sum()) for p in invariant))
        optimizer.zero_grad()
        cross_entropy(network(problem.data.x_train[rows].double()), problem.data.y_train[rows]).backward()
        optimizer.step()
        if fix:
            with torch.no_grad():
                factor = (squares[0] / sum(float(p.square().sum()) for p in invariant)) ** 0.5
                for p in invariant:
                    p *= factor
    return {name: p.detach() for name, p in network.named_parameters()}, np.array(squares)


def shard_of(run, name="space"):
    (folder,) = Run(run.run).shard_folders(name)
    return ShardFolder(folder)


def same(weights, run, seed=0, name="space"):
    """Whether a run ended with these weights."""
    found, names = shard_of(run, name).weights(), prepare(run.spec, "mlp", "digits", Progress()).problem.trained
    for one in names:
        torch.testing.assert_close(found[one][seed], weights[one], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("setup", ["scale-invariant", "practical"])
def test_an_initial_norm_is_scaled_and_nothing_else(setup, tmp_path):
    run = train_periods(**SMALL, setup=setup, steps=12, norm_scale=4, out=tmp_path / "run")
    weights, squares = plain(run, [0.5] * 12, seed=1, scale=4.0)
    same(weights, run, seed=1)
    course = courses_of(shard_of(run), run.engine.invariant)[1]
    np.testing.assert_allclose(course.elr, 0.5 / (1 - run.spec.momentum_used) / squares, rtol=1e-9)
    problems = [
        prepare(PeriodsSpec(**SMALL | {"setup": setup, "norm_scale": s}), "mlp", "digits", Progress()).problem
        for s in (1, 4)
    ]
    x = problems[0].data.x_train.double()
    of_one = [problem.build(1).double()(x) for problem in problems]
    torch.testing.assert_close(*of_one, rtol=1e-9, atol=1e-9)  # the same function, another ELR
    assert "initial norm × 4" in subtitle(run.spec)


SCHEDULES = {
    "steps": (["4:0.1", "9:0.01"], [1.0] * 4 + [0.1] * 5 + [0.01] * 3),
    "linear": (["4:1", "10:0.1"], [1.0] * 4 + [1 - 0.9 * t / 6 for t in range(6)] + [0.1] * 2),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_of_points_is_that_of_every_step(schedule, tmp_path):
    drops, factors = SCHEDULES[schedule]
    run = train_periods(**SMALL, setup="practical", steps=12, schedule=schedule, drops=drops, out=tmp_path / "run")
    weights, squares = plain(run, [0.5 * factor for factor in factors])
    same(weights, run)
    course = courses_of(shard_of(run), run.engine.invariant)[0]
    np.testing.assert_allclose(course.factors, factors, rtol=1e-12)
    np.testing.assert_allclose(course.elr, 0.5 * np.array(factors) / 0.1 / squares, rtol=1e-8)
    np.testing.assert_allclose(course.norm_elr, 0.5 / 0.1 / squares, rtol=1e-8)
    assert f"lr {'in steps' if schedule == 'steps' else 'through'} {', '.join(drops)}" in subtitle(run.spec)


def test_the_published_schedules_by_quarters_are_such_points():
    """Published: t = step / steps; by steps 1/p after each quarter, continuously from 1 at t = 1/4 to 1/p at t = 1."""
    p, steps = 5.0, 400
    points = {"steps": [f"{100 * k}:{p**-k:.17g}" for k in (1, 2, 3)], "linear": ["100:1", "400:0.2"]}
    t = np.arange(steps) / steps
    wanted = {"steps": p ** -np.floor(4 * t), "linear": np.where(t <= 0.25, 1, 1 / p + (1 - 1 / p) * (1 - t) / 0.75)}
    for schedule, drops in points.items():
        spec = PeriodsSpec(steps=steps, schedule=schedule, drops=drops)
        problem = prepare(spec, "mlp", "digits", Progress()).problem
        copy = Copy(0, 0.3, phases=phases_of(spec, 0.3))
        np.testing.assert_allclose(problem.lrs(copy, 0, steps), 0.3 * wanted[schedule], rtol=1e-12)


@pytest.fixture(scope="module")
def practical(tmp_path_factory):
    """A run of 20 steps with momentum, whose networks are taken after 8 of them."""
    return train_periods(**SMALL, setup="practical", steps=20, out=tmp_path_factory.mktemp("practical") / "run")


@pytest.fixture(scope="module")
def invariant(tmp_path_factory):
    """The same without momentum, of scale-invariant weights alone."""
    return train_periods(**SMALL, steps=20, out=tmp_path_factory.mktemp("invariant") / "run")


@pytest.fixture(params=["practical", "invariant"])
def first(request):
    return request.getfixturevalue(request.param)


def going_on(first, out, **changes):
    given = SMALL | {"setup": first.spec.setup, "continue_from": str(first.run), "at": 8, "steps": 12}
    return train_periods(**given | changes, out=out)


def test_going_on_as_before_is_the_first_run(first, tmp_path):
    run = going_on(first, tmp_path / "run")
    late, whole = (courses_of(shard_of(one), one.engine.invariant)[1] for one in (run, first))
    np.testing.assert_allclose(late.loss, whole.loss[8:], rtol=1e-9)
    np.testing.assert_allclose(late.elr, whole.elr[8:], rtol=1e-9)
    same({name: value[1] for name, value in shard_of(first).weights().items()}, run, seed=1)


def test_another_lr_from_a_step_on_is_one_plain_run_that_changes_it_there(first, tmp_path):
    """With momentum too: its buffer goes on."""
    run = going_on(first, tmp_path / "run", lr=0.05)
    weights, squares = plain(first, [0.5] * 8 + [0.05] * 12)
    same(weights, run)
    course = courses_of(shard_of(run), run.engine.invariant)[0]
    np.testing.assert_allclose(course.elr, 0.05 / (1 - run.spec.momentum_used) / squares[8:], rtol=1e-8)


def test_another_order_sees_other_batches(invariant, tmp_path):
    run = going_on(invariant, tmp_path / "run", order=3)
    start, _ = plain(invariant, [0.5] * 8)
    same(plain(run, [0.5] * 12, start=start, first=8 + 3 * APART)[0], run)
    losses = [courses_of(shard_of(one), one.engine.invariant)[0].loss for one in (run, invariant)]
    assert abs(losses[0] / losses[1][8:] - 1).max() > 1e-3


def test_a_continued_run_is_continued(practical, tmp_path):
    middle = going_on(practical, tmp_path / "middle", at=4, steps=8)
    last = going_on(middle, tmp_path / "last", at=4, lr=0.05)
    same(plain(practical, [0.5] * 8 + [0.05] * 12)[0], last)


def test_the_norm_is_fixed_as_the_published_code_does(invariant, tmp_path):
    """SGD with lr and weight decay, the norm put back after each step."""
    run = going_on(invariant, tmp_path / "run", fix_norm=True, lr=0.3)
    start, _ = plain(invariant, [0.5] * 8, seed=1)
    weights, squares = plain(run, [0.3] * 12, seed=1, start=start, first=8, fix=True)
    same(weights, run, seed=1, name="fixed")
    row = run.fixed[1]
    assert row.norm == pytest.approx(squares[0] ** 0.5, rel=1e-9)
    assert row.elr == pytest.approx(0.3 / (1 - 0.3 * 1e-2) / squares[0], rel=1e-9)
    assert any("norm fixed at the checkpoint's" in sentence for sentence in answer(run))
    found = report(Run(run.run), run)
    assert "fixed" in [section.id for section in found.sections]
    assert f"from step 8 of {invariant.run}" in found.subtitle


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widths": [6, 6]}, "was trained with --widths 6,5, and this run has 6,6"),
        ({"seed": 1}, "was trained with --seed 0, and this run has 1"),
        ({"label_noise": 0.5}, "was trained with --label-noise 0.0, and this run has 0.5"),
        ({"seeds": 3}, "--seeds: 3 is not allowed"),
        ({"at": 21}, "--at: 21 is not allowed"),
        ({"fix_norm": True}, "--fix-norm: needs --setup scale-invariant"),
        ({"norm_scale": 2.0}, "--norm-scale: is not allowed with --continue-from"),
        ({"continue_from": "nowhere"}, "nowhere is not a folder"),
        ({"continue_from": None}, "--at: is not allowed without --continue-from"),
        ({"schedule": "steps", "drops": ["12:0.1"]}, "steps must ascend from 1 to at most 11"),
        ({"drops": ["4:0.1"]}, "--drops: is not allowed with --schedule constant"),
        ({"schedule": "steps"}, "--drops: must be given with --schedule steps"),
        ({"schedule": "steps", "drops": ["4:0.0"]}, "factors must be positive"),
    ],
)
def test_what_does_not_fit_is_refused_before_there_is_a_folder(practical, changes, said, tmp_path):
    with pytest.raises(InputError) as error:
        going_on(practical, tmp_path / "run", **changes)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_several_settings_or_an_unended_run_are_not_continued(practical, wide, tmp_path):
    with pytest.raises(InputError, match="has 4 settings of lr, weight decay and width; it must have one"):
        going_on(practical, tmp_path / "run", continue_from=str(wide.run), setup="scale-invariant")
    with pytest.raises(Interrupted):
        train_periods(**SMALL, setup=practical.spec.setup, steps=8, stop=lambda: True, out=tmp_path / "stopped")
    with pytest.raises(InputError, match="stopped has not ended"):
        going_on(practical, tmp_path / "run", continue_from=str(tmp_path / "stopped"))


def test_stopped_while_the_first_run_is_trained_again_it_is_resumed(practical, tmp_path):
    with pytest.raises(Interrupted):
        going_on(practical, tmp_path / "run", stop=lambda: True)
    resumed = resume_periods(Run.open(tmp_path / "run"))
    same({name: value[0] for name, value in shard_of(practical).weights().items()}, resumed)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Two widths, with several settings."""
    given = SMALL | {"lr": [0.3, 0.5], "each_width": [4, 7], "steps": 12}
    return train_periods(**given, out=tmp_path_factory.mktemp("wide") / "run")


def test_every_width_is_trained_as_a_run_of_its_own(wide, tmp_path):
    assert [(run.width, run.lr, run.seed) for run in wide.runs] == [
        (width, lr, seed) for width in (4, 7) for lr in (0.3, 0.5) for seed in (0, 1)
    ]
    alone = train_periods(**SMALL | {"widths": [7, 7], "lr": [0.3, 0.5], "steps": 12}, out=tmp_path / "run")
    pairs = list(zip(wide.runs[4:], alone.runs, strict=True))
    assert all(one.mean_elr == pytest.approx(other.mean_elr, rel=1e-9) for one, other in pairs)
    assert all(one.test_error == other.test_error for one, other in pairs)
    assert shard_of(wide, "width4").weights()["linear2.weight"].shape[1:] == (4, 4)


def test_the_page_shows_what_the_width_does(wide):
    found = report(Run(wide.run), wide)
    assert {"course", "width"} <= {section.id for section in found.sections}
    (chart,) = next(section.blocks for section in found.sections if section.id == "width")
    assert list(chart.panels[1].marks[0].x) == [4.0, 4.0, 7.0, 7.0]
    assert "mlp of widths 4, 7" in found.subtitle and "width 7" in str(wide)


def test_widths_and_what_is_done_at_one_alone_exclude_each_other(wide, tmp_path):
    for given, said in (
        ({"traces": 2}, "--traces: is not allowed with --each-width"),
        ({"model": "convnet", "widths": None, "width": 4}, "--each-width: is not allowed with --width"),
        ({"each_width": [4, 4]}, "every value must be named once"),
        ({"continue_from": str(wide.run)}, "--continue-from: is not allowed with --each-width"),
    ):
        with pytest.raises(InputError, match=said):
            train_periods(**SMALL | {"each_width": [4, 7], "steps": 8} | given, out=tmp_path / "run")


def test_traces_are_those_of_the_dense_matrices(tmp_path):
    """Within five standard errors at the start, in the middle and at the end; one row a setting's first seed."""
    given = {"widths": [4], "batch_size": "full", "steps": 8, "traces": 2, "lr": [0.3, 0.5]}
    run = train_periods(**SMALL | given, out=tmp_path / "run")
    assert [(row.lr, row.seed, row.steps) for row in run.traces] == [(0.3, 0, [0, 4, 8]), (0.5, 0, [0, 4, 8])]
    problem = prepare(run.spec, "mlp", "digits", Progress()).problem
    x, y = problem.data.x_train.double(), problem.data.y_train
    network = problem.build(0).double()
    k = [(copy.lr, copy.seed) for copy in shard_of(run).copies()].index((0.5, 0))

    network.bn1.track_running_stats, network.bn1.running_mean, network.bn1.running_var = False, None, None

    def outputs(weight):
        return torch.func.functional_call(network, {"linear1.weight": weight}, x)

    row = run.traces[1]
    for i, step in enumerate((0, 4, 8)):
        weight = shard_of(run).snapshot(step)["linear1.weight"][k]
        hessian = torch.func.hessian(lambda w: cross_entropy(outputs(w), y))(weight)
        jacobian, p = torch.func.jacrev(outputs)(weight).flatten(2), outputs(weight).detach().softmax(-1)
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        ggn = torch.einsum("nci,ncd,ndi->", jacobian, inner, jacobian) / len(x)
        assert row.norm[i] == pytest.approx(float(weight.norm()), rel=1e-12)
        assert abs(row.hessian[i] - float(torch.einsum("ijij->", hessian))) < 5 * row.hessian_error[i]
        assert abs(row.ggn[i] - float(ggn)) < 5 * row.ggn_error[i]
        assert row.on_sphere("ggn")[i] == pytest.approx(row.ggn[i] * row.norm[i] ** 2)
    found = report(Run(run.run), run)
    blocks = next(section.blocks for section in found.sections if section.id == "traces")
    assert len(blocks[0].panels) == 2 and len(blocks[1].rows) == 6


def test_right_and_wrong_labels_are_told_apart(tmp_path):
    result = train_periods(**SMALL, label_noise=0.25, steps=12, out=tmp_path / "noisy")
    assert len(result.runs) == 2
    for run in result.runs:
        # A quarter of the labels are wrong: the whole is the weighted mean of the parts.
        assert run.train_error == pytest.approx(0.75 * run.clean_error + 0.25 * run.corrupted_error)
    chart = next(
        block
        for part in report(Run(result.run), result).sections
        for block in part.blocks
        if block.id == "course-chart"
    )
    assert [panel.y.title for panel in chart.panels][-3:] == [
        "test error (%)",
        "error on right labels (%)",
        "error on wrong labels (%)",
    ]
    clean = train_periods(**SMALL, steps=12, out=tmp_path / "clean")
    assert all(run.clean_error is None and run.corrupted_error is None for run in clean.runs)
