"""The charts: phase diagrams of the set-ups, loss and error against ELR and learning rate, courses of the ELR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onsphere.lab.chart.looks import REGIME_MARKERS, elr_looks, elr_scale, phase_keys
from onsphere.lab.chart.spec import Axis, Chart, Line, Look, Mark, Panel, Points, Span
from onsphere.lab.chart.theme import GREY, INK, INK_ON_DARK, OKABE_ITO, REGIME_COLOURS, REGIME_NAMES
from onsphere.lab.experiments.conventional.result import Array, ConventionalResult, ConventionalRun, SphereMap
from onsphere.lab.experiments.conventional.spec import Setup
from onsphere.lab.experiments.conventional.words import NAMES, rate_name
from onsphere.lab.intervals import geometric_mean
from onsphere.lab.report.words import format_number

_LOOKS: dict[Setup, Look] = {
    "sphere": Look(INK, INK_ON_DARK, width=1.4, marker="circle", size=8, hollow=True),
    "invariant": Look(OKABE_ITO["blue"], OKABE_ITO["sky"], width=1.4, marker="plus", size=8),
    "all": Look(OKABE_ITO["vermillion"], "#E8743B", width=1.4, marker="diamond", size=8, hollow=True),
}
_OUTSIDE = "runs that explode are outside"


@dataclass(frozen=True, eq=False)
class Drawn:
    """One run as it is drawn.

    Attributes:
        run: The numbers of the run.
        steps: Mean step of each point of the phase diagram.
        loss: Mean minibatch loss around these steps.
        gradient: Mean effective gradient norm around these steps.
        elr_steps: Steps of the course of the ELR.
        elr: The course, thinned so that the lowest and highest of each stretch stay.
    """

    run: ConventionalRun
    steps: Array
    loss: Array
    gradient: Array
    elr_steps: Array
    elr: Array

    @property
    def name(self) -> str:
        """Its learning rate in words."""
        return f"{rate_name(self.run.setup)} {format_number(self.run.lr)}"


def phase_chart(shown: Sequence[Drawn]) -> Chart:
    """Gradient norm over training loss, one panel a set-up, one curve a run, a star at its start."""
    drawn = [one for one in shown if one.steps.size]
    calm, looks = _calm(drawn), _looks(shown)
    x = _axis("training loss", (one.loss for one in calm))
    y = _axis("effective gradient norm", (one.gradient for one in calm))
    marks: dict[Setup, list[Mark]] = {one.run.setup: [] for one in shown}
    for one in drawn:
        run, size = one.run, one.steps.size
        hover = (
            f"<b>{one.name}</b> · seed {run.seed} · {REGIME_NAMES[run.regime]}<br>"
            f"ELR at the end {format_number(run.elr)}<br>step {{step}}<br>loss {{x:.3g}} · gradient norm {{y:.3g}}"
        )
        look = looks(run).but(width=1.6).ends(size, "star", REGIME_MARKERS[run.regime])
        labels = [*[""] * (size - 1), format_number(run.lr, 2)]
        columns = {"step": np.round(one.steps)}
        line = Line(one.loss, one.gradient, look, hover, columns, labels=labels, side="lower right", seed=run.seed)
        marks[run.setup].append(line)
    seeds = sorted({one.run.seed for one in shown})
    return Chart(
        id="phase-chart",
        title="Phase diagrams",
        x=x,
        panels=[Panel(y, own, title=NAMES[setup]) for setup, own in marks.items()],
        caption=(
            "One curve a run, named at its end by its learning rate and coloured by the effective learning rate of "
            "its last quarter, on one scale for all panels (dark: small). A star marks the start; a circle the end of "
            "a run in convergence, a diamond in chaotic equilibrium, a square in divergence. Gradients are those of "
            "the scale-invariant weights at the unit sphere. Runs that explode leave the picture."
        ),
        label="Phase diagrams of the set-ups: effective gradient norm against training loss",
        columns=len(marks),
        share_y=True,
        scale=replace(elr_scale(_elrs(shown), "ELR of the last quarter"), marks=()),
        seeds=seeds,
        seed=seeds[0],
        others=False,
        keys=phase_keys(one.run.regime for one in drawn),
        note="numbers: learning rates; grey: divergence in the whole space",
        height=470,
    )


def loss_chart(result: ConventionalResult) -> Chart:
    """Loss and test error against the effective learning rate: the sphere's curve and the runs in the whole space."""
    calm = _calm_runs(result.runs) or result.runs
    return Chart(
        id="loss-chart",
        title="Against the effective learning rate",
        x=_axis("effective learning rate, last quarter", [[run.elr for run in calm if run.elr]]),
        panels=_panels(result, result.setups, calm, "elr"),
        caption=(
            "Every mark is a run at the effective learning rate of its last quarter, fixed on the sphere and measured "
            "in the whole space; the line joins the sphere's means over seeds. Left: mean minibatch loss of the last "
            "quarter. Right: test error at the end. Tints: regimes on the sphere."
        ),
        label="Training loss and test error against the effective learning rate in every set-up",
        columns=2,
        spans=_spans(result.sphere_map),
        height=440,
    )


def rate_chart(result: ConventionalResult) -> Chart | None:
    """Loss and test error against the learning rate of the set-ups in the whole space; None without one."""
    setups = [setup for setup in result.setups if setup != "sphere"]
    if not setups:
        return None
    calm = [run for run in _calm_runs(result.runs) or result.runs if run.setup != "sphere"]
    return Chart(
        id="rate-chart",
        title="Against the learning rate",
        x=Axis("learning rate (lr)", log=True),
        panels=_panels(result, setups, calm, "lr"),
        caption=(
            "The same runs against their learning rate: with momentum the same lr is a larger step. Losses of runs "
            "that explode are outside the picture."
        ),
        label="Training loss and test error against the learning rate",
        columns=2,
        height=440,
    )


def elr_chart(shown: Sequence[Drawn], sphere: SphereMap | None) -> Chart | None:
    """The effective learning rate over steps of the runs in the whole space; None without any."""
    own = [one for one in shown if one.run.setup != "sphere" and one.elr.size]
    if not own:
        return None
    looks, marks = _looks(shown), {one.run.setup: list[Mark]() for one in own}
    for one in own:
        hover = f"<b>{one.name}</b> · seed {one.run.seed}<br>step {{x}} · ELR {{y:.3g}}"
        labels = [*[""] * (one.elr.size - 1), f" {format_number(one.run.lr, 2)}"]
        look = looks(one.run).but(width=1.4)
        marks[one.run.setup].append(Line(one.elr_steps, one.elr, look, hover, labels=labels, seed=one.run.seed))
    y = _axis("measured ELR", (one.elr for one in _calm(own)))
    seeds = sorted({one.run.seed for one in own})
    tints = [replace(span, along="y") for span in _spans(sphere)]
    names = ", ".join(dict.fromkeys(span.name for span in tints))
    return Chart(
        id="elr-chart",
        title="Effective learning rates",
        x=Axis("step", holds=(0.0,)),
        panels=[
            Panel(replace(y, title="" if number else y.title), lines, title=NAMES[setup], spans=tints)
            for number, (setup, lines) in enumerate(marks.items())
        ],
        caption=(
            "ELR = lr / ((1 − momentum) norm²) of the scale-invariant weights at every step, thinned so that the "
            "lowest and highest of each stretch stay; numbers are learning rates. Tints: the regime that the sphere "
            "has at this ELR, convergence (blue), chaotic equilibrium (orange), divergence (purple). Gradients "
            "lower the ELR and weight decay raises it, until both balance."
        ),
        label="Effective learning rate against steps in the whole space, over the regimes of the sphere",
        columns=len(marks),
        seeds=seeds,
        seed=seeds[0],
        others=False,
        note=f"numbers: learning rates{f'; tints, from below: {names}' if names else ''}",
        height=440,
    )


def _calm(shown: Sequence[Drawn]) -> Sequence[Drawn]:
    """Those that do not diverge, which axes are made for; all of them if there are none."""
    return [one for one in shown if one.run.regime != "divergence"] or shown


def _calm_runs(runs: Sequence[ConventionalRun]) -> Sequence[ConventionalRun]:
    """The runs on the sphere, and those in the whole space that do not diverge: what axes and colours are made for."""
    return [run for run in runs if run.setup == "sphere" or run.regime != "divergence"]


def _elrs(shown: Sequence[Drawn]) -> list[float]:
    """All ELRs that colour runs; one is made up where there are none."""
    return [run.elr for run in _calm_runs([one.run for one in shown]) if run.elr] or [1.0]


def _looks(shown: Sequence[Drawn]) -> Callable[[ConventionalRun], Look]:
    """The look of every run by the ELR of its last quarter; divergence in the whole space is grey."""
    known = elr_looks(_elrs(shown))
    return lambda run: known.get(run.elr or 0.0, Look(GREY)) if _calm_runs([run]) else Look(GREY)


def _axis(title: str, values: Iterable[Sequence[float] | Array]) -> Axis:
    """A logarithmic axis with some room around the values that it is made for."""
    flat = np.concatenate([np.asarray(one, dtype=np.float64) for one in values] or [np.empty(0)])
    flat = flat[np.isfinite(flat) & (flat > 0)]
    if not flat.size:
        return Axis(title, log=True)
    return Axis(title, log=True, range=(float(flat.min()) / 1.6, 1.6 * float(flat.max())), over=_OUTSIDE)


def _spans(sphere: SphereMap | None) -> list[Span]:
    """Tints of the regimes that the sphere has along an axis of effective learning rates."""
    bands = [] if sphere is None else sphere.bands()
    return [Span(low, high, REGIME_COLOURS[regime], REGIME_NAMES[regime]) for regime, low, high in bands]


def _panels(
    result: ConventionalResult, setups: Sequence[Setup], calm: Sequence[ConventionalRun], x: str
) -> list[Panel]:
    """Loss and test error over an attribute of the runs; the sphere's means are joined, over lr all of them."""

    def marks(quantity: str, said: str, scale: float) -> list[Mark]:
        found: list[Mark] = []
        for setup in setups:
            runs = [run for run in result.of(setup) if getattr(run, x) and getattr(run, quantity) is not None]
            places = [getattr(run, x) for run in runs]
            values = [scale * getattr(run, quantity) for run in runs]
            hover = [
                f"<b>{rate_name(setup)} {format_number(run.lr)}</b> · seed {run.seed} · {REGIME_NAMES[run.regime]}<br>"
                f"{format_number(place)} · {said} {format_number(value)}"
                for run, place, value in zip(runs, places, values, strict=True)
            ]
            found.append(Points(places, values, _LOOKS[setup], hover, entry=NAMES[setup]))
            if setup == "sphere" or x == "lr":
                rates = sorted({run.lr for run in runs})
                groups = [[value for run, value in zip(runs, values, strict=True) if run.lr == r] for r in rates]
                means = [_mean_loss(group) if quantity == "loss" else float(np.mean(group)) for group in groups]
                found.append(Line(rates, means, _LOOKS[setup].but(marker=""), entry=NAMES[setup], listed=False))
        return found

    loss = _axis("training loss", [[run.loss for run in calm if run.loss]])
    errors = marks("test_error", "test error (%)", 100.0)
    return [Panel(loss, marks("loss", "training loss", 1.0)), Panel(Axis("test error (%)", holds=(0.0,)), errors)]


def _mean_loss(values: Sequence[float]) -> float | None:
    return geometric_mean(values) if min(values) > 0 else None
