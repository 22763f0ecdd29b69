"""Sharpness against dense Hessians, the steps that are measured, and the second pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, hessian

from onsphere.lab import Interrupted, Run, data, resume_periods, train_periods
from onsphere.lab.chart.spec import Rule
from onsphere.lab.experiments.periods.charts.again import sharpness_chart
from onsphere.lab.experiments.periods.page import report
from onsphere.lab.experiments.periods.science.rows import Sharpness
from onsphere.lab.experiments.periods.science.sharpness import BEFORE, EVERY, JUMPS, SharpnessMeter, stretches
from onsphere.lab.experiments.periods.words import answer
from onsphere.lab.population import Engine, Plan, Problem, ShardFolder
from onsphere.lab.preparation import prepare_model
from onsphere.lab.progress import Progress
from onsphere.normalisation import without_running_statistics

pytestmark = pytest.mark.usefixtures("undrawn_module")


def problem_of(batch_size=60, width=4, **given):
    given = {"dtype": torch.float64} | given
    problem = Problem(
        data=data.load("digits", seed=0, train=60, label_noise=0.0),
        model="mlp",
        model_options={"widths": (width,), "head_norm": 10.0, "eps": 1e-12},
        geometry="space",
        radius=None,
        batch_size=batch_size,
        **given,
    )
    return prepare_model(problem)[0]


def values_of(problem, seed=0):
    network = problem.build(seed).to(problem.dtype)
    return {n: v.detach() for n, v in (*network.named_parameters(), *network.named_buffers())}


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_the_sharpness_is_the_top_eigenvalue_of_the_dense_hessian_on_the_sphere(loss):
    problem = problem_of(loss=loss)
    values, meter = values_of(problem), SharpnessMeter(problem, problem.trained)
    (name,) = problem.trained
    network = problem.build(0).to(torch.float64).train()  # torch's own batch norm, an independent forward pass
    x, y = problem.data.x_train.double(), problem.data.y_train

    def objective(weight):
        outputs = functional_call(network, {n: v.clone() for n, v in values.items()} | {name: weight}, (x,))
        if loss == "mse":
            return (outputs - torch.nn.functional.one_hot(y, outputs.shape[-1])).square().mean()
        return torch.nn.functional.cross_entropy(outputs, y)

    size = values[name].numel()
    # the matrix, column by column through double backward
    weight = values[name].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(objective(weight), weight, create_graph=True)
    rows = [torch.autograd.grad(g, weight, retain_graph=True)[0].flatten() for g in gradient.flatten()]
    dense = torch.stack(rows)
    assert dense.shape == (size, size)
    position = values[name].flatten() / values[name].norm()
    tangent = torch.eye(size, dtype=torch.float64) - torch.outer(position, position)
    on_sphere = tangent @ dense @ tangent * float(values[name].square().sum())  # <w, g> = 0: no radial term
    expected = float(torch.linalg.eigvalsh(on_sphere)[-1])
    found = meter(values)
    assert found.converged == (True,) and found.values[0] == pytest.approx(expected, rel=1e-3)
    again = meter(values, found)
    assert again.values[0] == pytest.approx(expected, rel=1e-2) and again.products < found.products


def test_the_sharpness_on_the_unit_sphere_does_not_depend_on_the_norm():
    problem = problem_of()
    values, meter = values_of(problem), SharpnessMeter(problem, problem.trained)
    (name,) = problem.trained
    found = [meter(values | {name: factor * values[name]}).values[0] for factor in (1.0, 3.0)]
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert meter(values | {name: values[name] * np.nan}) is None


def test_measuring_changes_nothing_and_a_fixed_batch_serves_minibatches():
    problem = problem_of(batch_size=20)
    meter = SharpnessMeter(problem, problem.trained)
    assert meter.functional.examples == [60]  # all there are, fewer than the fixed batch would have
    values = values_of(problem)
    before, state = {n: v.clone() for n, v in values.items()}, torch.random.get_rng_state()
    first = meter(values).values
    assert first == SharpnessMeter(problem, problem.trained)(values).values
    assert all(values[n].equal(before[n]) for n in values) and state.equal(torch.random.get_rng_state())
    large = replace(problem, data=data.load("digits", seed=0, train=700, label_noise=0.0))
    assert SharpnessMeter(large, problem.trained).functional.examples == [512]
    assert SharpnessMeter(replace(large, batch_size=600), problem.trained).functional.examples == [600]


@given(gaps=st.lists(st.integers(1, 400), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_stretches_end_at_the_jump_and_never_meet_their_control(gaps):
    jumps = np.cumsum(gaps).tolist()
    for gap, jump, (near, control) in zip(gaps, jumps, stretches(jumps), strict=True):
        assert near[-1] == jump and len(near) == len(control) <= BEFORE // EVERY + 1
        assert jump - gap <= control[0] and control[-1] < near[0]
        assert set(np.diff(near)) <= {EVERY} and set(np.diff(control)) <= {EVERY}
        assert abs((control[0] + control[-1]) / 2 - (jump - gap / 2)) <= 1
        assert gap <= 3 * BEFORE or near[0] == jump - BEFORE


FIELDS = {"train": 100, "widths": [16], "lr": 1.0, "weight_decay": 1e-2, "seeds": 2, "steps": 400, "evaluations": 1}
FIELDS |= {"batch_size": "full", "workers": 1, "sharpness": True}
FIELDS |= {
    "mode": "vmap",
    "chunk": 2,
    "compiled": "no",
}  # given: two runs may choose different engines by their timings


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return train_periods(**FIELDS, out=tmp_path_factory.mktemp("sharpness") / "run")


def test_the_measured_values_are_those_of_the_first_pass(measured):
    """Trained again here to the first jump; ELR · sharpness is lr times the eigenvalue of the dense Hessian there."""
    run = measured.runs[0]
    rows = measured.sharpness
    assert [row.jump for row in rows] == run.jumps[:JUMPS] and {row.seed for row in rows} == {0}
    (folder,) = sorted((measured.run / "shards").glob("space-*"))
    problem = replace(problem_of(batch_size=100, width=16, dtype=torch.float32), steps=FIELDS["steps"])
    problem = replace(problem, data=data.load("digits", seed=0, train=100, label_noise=0.0))
    copies = tuple(ShardFolder(folder).copies())
    engine = Engine(problem, copies, Plan("vmap", 2))
    ring = torch.empty((500, len(copies), engine.columns))
    step = rows[0].steps[-3]
    state = engine.advance(engine.initial_state(), step, ring)
    (name,) = problem.trained
    constants = {n: v[0] for n, v in zip(engine.constant_names, state.constants, strict=True)}
    network = without_running_statistics(problem.build(0).train())

    def objective(weight):
        outputs = functional_call(network, constants | {name: weight}, (problem.data.x_train,))
        return torch.nn.functional.cross_entropy(outputs, problem.data.y_train)

    size = state.params[0][0].numel()
    dense = hessian(objective)(state.params[0][0]).reshape(size, size)
    top = float(torch.linalg.eigvalsh(dense.double())[-1])
    assert rows[0].elr_times_sharpness[-3] == pytest.approx(top, rel=0.05)


def test_an_interrupted_measurement_is_resumed(measured, tmp_path):
    class Stopper(Progress):
        second = False

        def begin(self, title, copy_steps):
            self.second = "sharpness" in title

    stopper = Stopper()
    with pytest.raises(Interrupted):
        train_periods(**FIELDS, out=tmp_path / "cut", progress=stopper, stop=lambda: stopper.second)
    resumed = resume_periods(Run(tmp_path / "cut"))
    assert resumed.sharpness == measured.sharpness
    assert resume_periods(Run(tmp_path / "cut")).sharpness == measured.sharpness  # from result.json


def test_the_page_and_the_answer_tell_it(measured):
    page = measured.report.read_text()
    assert "sharpness-chart" in page and "threshold 2" in page
    assert any("ELR · sharpness reached" in sentence for sentence in answer(measured))
    (section,) = [one for one in report(Run(measured.run), measured).sections if one.id == "sharpness"]
    chart, table = section.blocks
    (panel,) = chart.panels
    assert list(panel.rules) == [Rule(2.0, "threshold 2")]
    lines = [(list(mark.x), list(mark.y)) for mark in panel.marks]
    for row in measured.sharpness:
        assert ([step - row.jump for step in row.steps], row.elr_times_sharpness) in lines
        assert ([step - row.jump for step in row.control_steps], row.control) in lines
    assert len(table.rows) == len(measured.sharpness)
    none = replace(measured, sharpness=[])
    assert sharpness_chart(none) is None and not any("sharpness" in s for s in answer(none))


def test_the_jump_itself_does_not_count_as_before_it():
    row = Sharpness(1.0, 1e-3, 0, 20, 2.0, [8, 12, 16, 20], [1.0, 2.5, None, 40.0], [1], [0.5])
    assert row.highest == 2.5 and row.crossing == 8
    assert replace(row, elr_times_sharpness=[1.0, 1.5, None, 40.0]).crossing is None
