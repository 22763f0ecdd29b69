"""The charts of a regime map: what became of every run over its ELR, the courses of training, the phase diagram.

The overview and the phase diagram are those of Kodryan et al., "Training Scale-Invariant Neural Networks on the Sphere
Can Happen in Three Regimes" (NeurIPS 2022).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onsphere.lab.chart.looks import REGIME_MARKERS, elr_looks, elr_scale, phase_keys, regime_look
from onsphere.lab.chart.spec import Axis, Chart, Line, Look, Mark, Panel, Points, Rule, Span
from onsphere.lab.chart.theme import GREY, REGIME_COLOURS, REGIME_NAMES
from onsphere.lab.experiments.regimes.classify import ORTHOGONAL_STEP, Cell, MapCell, Regime
from onsphere.lab.experiments.regimes.result import RegimesResult, brackets, elr_range, gaps, regions
from onsphere.lab.experiments.regimes.words import unresolved
from onsphere.lab.population import ShardFolder
from onsphere.lab.report.smoothing import binned_mean
from onsphere.lab.report.words import format_interval, format_number, format_percent
from onsphere.lab.store import Run

_TITLE = "The three regimes on the sphere"
_ELR = "effective learning rate (ELR)"
_CLICK = "Click an ELR in the legend to hide it, double-click to see it alone."
_ABOVE = "↑ divergent runs above"
_OVERVIEW_BINS, _PHASE_BINS = 100, 24
_BINS = 80  # points of a course; each is a mean over steps / 80 minibatches

Value = Callable[[MapCell], float]


@dataclass(frozen=True, eq=False)
class Course:
    """One run along its steps.

    Attributes:
        elr: Effective learning rate of the run.
        seed: Index of the seed.
        regime: The label of the run.
        steps: [T] steps around which minibatches are averaged, ascending.
        loss: [T] training loss, mean of the minibatch losses around the step (train-mode batch statistics).
        gradient_norm: [T] mean effective gradient norm.
        evaluation_steps: [E] steps of the evaluations.
        test_error: [E] fraction, batch statistics re-estimated over the training data.
        also: [E] whatever else was measured at the evaluations, by name.
        norm2: [T] mean squared norm of every tensor on a sphere, by name.
    """

    elr: float
    seed: int
    regime: Regime
    steps: Any
    loss: Any
    gradient_norm: Any
    evaluation_steps: Any
    test_error: Any
    also: Mapping[str, Any] = field(default_factory=dict)
    norm2: Mapping[str, Any] = field(default_factory=dict)


def courses(run: Run, cells: Sequence[Cell]) -> list[Course]:
    """The courses of a map's runs, by effective learning rate and seed."""
    regime = {(cell.elr, cell.seed): cell.regime for cell in cells}
    found = []
    for shard in map(ShardFolder, run.shard_folders()):
        readings, (steps, evaluated) = shard.readings(), shard.evaluated()
        edges = np.unique(np.linspace(0, len(readings.values), _BINS + 1).round().astype(int))
        middles = (edges[:-1] + edges[1:] - 1) / 2
        given = (readings.loss, readings.effective_gradient_norm, readings.moment("norm2"))
        loss, gradient, norm2 = (_binned(values, edges) for values in given)
        for k, copy in enumerate(shard.copies()):
            if key := regime.get((copy.lr, copy.seed)):
                measured = {name: values[:, k] for name, values in evaluated.items()}
                curves = (middles, loss[:, k], gradient[:, k], steps, measured["test_error"], measured)
                norms = {name: norm2[:, k, i] for i, name in enumerate(readings.names)}
                found.append(Course(copy.lr, copy.seed, key, *curves, norms))
    return sorted(found, key=lambda course: (course.elr, course.seed))


def _binned(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of the finite values in each bin, [bins, ...]; NaN where there are none."""
    finite = np.isfinite(values)
    sums = np.add.reduceat(np.where(finite, values, 0.0), edges[:-1], axis=0)
    counts = np.add.reduceat(finite, edges[:-1], axis=0, dtype=float)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def map_chart(result: RegimesResult) -> Chart:
    """Final loss, errors and angular update of every run over the ELR; regimes tinted, brackets grey."""
    loss = [*_dots(result, lambda cell: cell.relative_loss), *_non_finite(result)]
    errors = [
        *_dots(result, lambda cell: 100 * cell.train_error, hollow=True),
        *_dots(result, lambda cell: 100 * cell.test_error),
    ]
    above = f"{format_number(ORTHOGONAL_STEP)} rad: divergence above"
    return Chart(
        id="map-chart",
        title=_TITLE,
        x=Axis(_ELR, log=True, range=elr_range(result.cells)),
        panels=[
            Panel(Axis("final loss / loss at init", log=True), loss, rules=[Rule(1, "as at initialisation")]),
            Panel(Axis("error (%), hollow: train", range=(-4, 104)), errors),
            Panel(
                Axis("angular update (rad)", log=True),
                _dots(result, lambda cell: cell.angular_update),
                rules=[] if result.spec.momentum else [Rule(ORTHOGONAL_STEP, above)],
            ),
        ],
        caption=(
            "A dot is a run; the line is the median over seeds (solid: test error, dotted and hollow: train "
            "error). Tints mark ELRs whose regime is certain, grey bands the brackets in which a boundary "
            "lies; what is not resolved has no tint."
        ),
        label="Final loss, errors and angular update over the effective learning rate, regimes marked",
        legend="run in",
        spans=_spans(result),
        seeds=result.seeds,
        note="<br>".join(unresolved(result)),
    )


def steps_chart(result: RegimesResult) -> Chart | None:
    """Steps to convergence of every run over the ELR; None where no run was seen to converge."""
    reached = [cell for cell in result.cells if cell.converged_step is not None]
    if not reached:
        return None

    def steps(cell: MapCell) -> float:
        return cell.converged_step or math.nan

    others, level = [cell for cell in result.cells if cell.converged_step is None], result.spec.converged_loss
    marks = _dots(replace(result, cells=reached), steps)
    if others:
        at, look = [cell.elr for cell in others], Look(GREY, marker="cross", size=8)
        said = [
            f"{run_words(cell)}<br>not below {format_number(level)} in {result.spec.steps} steps" for cell in others
        ]
        marks.append(Points(at, [result.spec.steps] * len(at), look, said, entry="not reached"))
    return Chart(
        id="steps-chart",
        title="Steps to convergence",
        x=Axis(_ELR, log=True, range=elr_range(result.cells)),
        panels=[
            Panel(
                Axis(f"steps to a loss below {format_number(level)}", log=True),
                marks,
                rules=[Rule(result.spec.steps, "steps of a run")],
            )
        ],
        caption=(
            f"Steps until the mean minibatch loss over an epoch is below {format_number(level)}; a dot is a run, the "
            "line the median over the seeds that got there, a cross a run that did not within its steps. Published "
            "runs need more and more steps towards the end of convergence, so that it moves up with longer training."
        ),
        label="Steps to convergence over the effective learning rate",
        legend="run in",
        spans=_spans(result),
        seeds=result.seeds,
    )


def overview_chart(result: RegimesResult, courses: Sequence[Course]) -> Chart:
    """Training loss, test error and gradient norm against steps, one curve a run."""
    looks = elr_looks({course.elr for course in courses}, width=1.8)
    marks: dict[str, list[Mark]] = {"loss": [], "test error": [], "gradient norm": []}
    for one in courses:
        evaluated, errors = binned_mean(one.evaluation_steps, one.test_error, bins=_OVERVIEW_BINS, geometric=False)
        for what, unit, (steps, values) in (
            ("loss", "", binned_mean(one.steps, one.loss, bins=_OVERVIEW_BINS)),
            ("test error", " %", (evaluated, 100 * errors)),
            ("gradient norm", "", binned_mean(one.steps, one.gradient_norm, bins=_OVERVIEW_BINS)),
        ):
            said = f"{run_words(one)}<br>step {{x:.0f}} · {what} {{y:.3g}}{unit}"
            look = looks[one.elr]
            marks[what].append(Line(steps, values, look, said, entry=format_number(one.elr), seed=one.seed))
    at_init = _median([cell.loss_at_init for cell in result.cells if cell.loss_at_init > 0])
    losses = [np.nanmax(numbers, initial=0) for numbers in (one.loss[np.isfinite(one.loss)] for one in courses)]
    # room above the curves of divergence for the name of the dashed line
    room = (2.2 * max(at_init, *losses),) if math.isfinite(at_init) else ()
    level = [Rule(at_init, "loss at initialisation (random guess)", at="corner")] if math.isfinite(at_init) else []
    return Chart(
        id="overview-chart",
        title=_TITLE,
        x=Axis("step", holds=(0,)),
        panels=[
            Panel(Axis("training loss", log=True, holds=room), marks["loss"], rules=level),
            Panel(Axis("test error (%)", holds=(0,)), marks["test error"]),
            Panel(_gradient_axis("gradient norm", courses), marks["gradient norm"]),
        ],
        caption=(
            "Training loss (mean of minibatch losses, train-mode batch statistics), test error (batch "
            "statistics re-estimated over training data) and mean effective gradient norm against steps; "
            f"curves are means over bins of steps. {_CLICK}"
        ),
        label="Training loss, test error and gradient norm against steps for every effective learning rate",
        **by_elr(courses),
    )


def phase_chart(courses: Sequence[Course]) -> Chart:
    """Training loss against mean effective gradient norm, one curve a run, a star at its start."""
    looks = elr_looks({course.elr for course in courses}, width=1.8)
    return Chart(
        id="phase-chart",
        title=_TITLE,
        x=Axis("training loss (mean of minibatches)", log=True),
        panels=[Panel(_gradient_axis("mean effective gradient norm", courses), [_phase(c, looks) for c in courses])],
        caption=(
            "A star marks the start. A run that converges follows its own line to low loss (ends in a "
            "circle); in chaotic equilibrium it stays at a spot that belongs to its ELR (diamond); in "
            f"divergence it stays at the loss of a random guess (square). {_CLICK}"
        ),
        label="Phase diagram: mean effective gradient norm against training loss for every ELR",
        **by_elr(courses),
        keys=phase_keys(course.regime for course in courses),
        height=560,
    )


def by_elr(courses: Sequence[Course]) -> dict[str, Any]:
    """What charts share whose curves are runs."""
    seeds = sorted({course.seed for course in courses})
    scale = elr_scale(course.elr for course in courses)
    return {"legend": "ELR", "scale": scale, "seeds": seeds, "seed": seeds[0]}


def gradient_norm_ceiling(courses: Sequence[Course]) -> float:
    """Upper end of axes of gradient norms: a hundred times the largest binned value outside divergence.

    In divergence the gradient norm is set by batch norm's eps and may reach 1e8; shown whole, it would press
    everything of interest into one line.
    """

    def largest(of: Sequence[Course]) -> float:
        tops = [binned_mean(one.steps, one.gradient_norm, bins=_OVERVIEW_BINS)[1] for one in of]
        return max((float(top.max()) for top in tops if top.size), default=1.0)

    calm = [course for course in courses if course.regime != "divergence"]
    overall = largest(courses)
    return min(overall * 1.5, 100 * largest(calm)) if calm else overall * 1.5


def medians(cells: Sequence[MapCell], value: Value) -> tuple[list[float], list[float]]:
    """Medians over the seeds of an ELR, leaving out what is not finite.

    ELRs that fewer than half of the seeds have tried (refinements follow each seed's own boundary) are left out: a
    median of one run beside medians of five would draw zigzags that are only differences of seeds.

    Returns:
        The ELRs that have a finite value, ascending, and their medians.
    """
    seeds = len({cell.seed for cell in cells})
    runs: dict[float, list[float]] = {}
    for cell in sorted(cells, key=lambda cell: cell.elr):
        runs.setdefault(cell.elr, []).append(value(cell))
    found = {elr: _median(values) for elr, values in runs.items() if 2 * len(values) >= seeds}
    finite = {elr: median for elr, median in found.items() if math.isfinite(median)}
    return list(finite), list(finite.values())


def _median(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else math.nan


def _dots(result: RegimesResult, value: Value, *, hollow: bool = False) -> list[Mark]:
    """A dot a run, by regime and seed, and the line of medians."""
    line = Look("#444444", GREY, dash="dot" if hollow else "solid")
    marks: list[Mark] = [Line(*medians(result.cells, value), line, entry="median over seeds", listed=not hollow)]
    for regime in REGIME_MARKERS:
        look = regime_look(regime, size=8, hollow=hollow, edge=True)
        for seed in result.seeds:
            own = [cell for cell in result.cells if (cell.regime, cell.seed) == (regime, seed)]
            x, y, said = [c.elr for c in own], [value(c) for c in own], [_said(c) for c in own]
            marks += [Points(x, y, look, said, entry=REGIME_NAMES[regime], listed=not hollow, seed=seed)] if own else []
    return marks


def _non_finite(result: RegimesResult) -> list[Mark]:
    """Crosses along the top for runs that have no final loss to show."""
    broken = [cell for cell in result.cells if not cell.finite]
    top = 2 * max([1.0, *(ratio for cell in result.cells if math.isfinite(ratio := cell.relative_loss))])
    at, said, look = [c.elr for c in broken], [_said(c) for c in broken], Look(GREY, marker="cross", size=9)
    return [Points(at, [top] * len(broken), look, said, entry="became non-finite")] if broken else []


def _spans(result: RegimesResult) -> list[Span]:
    """The certain stretches, the brackets of the boundaries with their numbers, and what is not resolved."""
    cells, boundaries = result.cells, result.boundaries
    certain = regions(cells, boundaries)
    found = [Span(one.left, one.right, REGIME_COLOURS[one.regime], REGIME_NAMES[one.regime]) for one in certain]
    found += [Span(low, high, name="not resolved", kind="gap") for low, high in gaps(cells, boundaries)]
    for low, high, boundary in brackets(boundaries):
        numbers = format_interval(low, high) + ("" if boundary.resolved else " ?")
        found.append(Span(low, high, numbers=numbers, kind="bracket" if boundary.resolved else "open"))
    return found


def _phase(one: Course, looks: dict[float, Look]) -> Mark:
    steps, loss, norm = binned_mean(one.steps, one.loss, one.gradient_norm, bins=_PHASE_BINS, spacing="log")
    look = looks[one.elr].ends(len(steps), "star", REGIME_MARKERS[one.regime])
    said = f"{run_words(one)}<br>step {{step:.0f}}<br>loss {{x:.3g}} · gradient norm {{y:.3g}}"
    return Line(loss, norm, look, said, {"step": steps}, entry=format_number(one.elr), seed=one.seed)


def _gradient_axis(title: str, courses: Sequence[Course]) -> Axis:
    """Everything, but divergent runs do not push the others together."""
    values = np.concatenate([np.asarray(course.gradient_norm, dtype=np.float64) for course in courses])
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return Axis(title, log=True)
    low = float(positive.min())
    return Axis(title, log=True, range=(low / 1.3, max(gradient_norm_ceiling(courses), 10 * low)), over=_ABOVE)


def run_words(one: Course | Cell) -> str:
    """What hovering over a run says first."""
    return f"<b>ELR {format_number(one.elr)}</b> · seed {one.seed} · {REGIME_NAMES[one.regime]}"


def _said(cell: Cell) -> str:
    """What hovering over a dot says."""
    reason = "<br>".join(textwrap.wrap(cell.reason, 60))
    lines = [
        run_words(cell),
        f"loss {format_number(cell.loss)} (at init {format_number(cell.loss_at_init)})",
        f"train error {format_percent(cell.train_error)} % · test error {format_percent(cell.test_error)} %",
        f"angular update {format_number(cell.angular_update)} rad · trend {format_number(cell.trend)}",
        f"gradient norm {format_number(cell.gradient_norm)}{'' if cell.finite else ' · became non-finite'}",
    ]
    return "<br>".join([*lines, *([f"<i>{reason}</i>"] if reason else [])])
