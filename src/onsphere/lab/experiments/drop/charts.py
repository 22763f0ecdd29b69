"""The charts of a drop: test error over the start, the matrix, what is left after the drop, barriers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Heat, Line, Look, Panel, Rule, Scale, Span
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.intervals import standard_error
from onsphere.lab.report.words import format_number

__all__ = ["after_chart", "barrier_chart", "error_chart", "matrix_chart"]

PAIR_NAMES: Mapping[str, str] = {
    "low-high": "smallest – largest final ELR",
    "average-low": "average – smallest final ELR",
    "average-high": "average – largest final ELR",
}
_X = Axis("ELR before the drop", log=True)
_DOTTED = INKED.but(width=1.2, dash="dot")
_DASHED = INKED.but(width=1.2, dash="dash")


def error_chart(result: DropResult) -> Chart:
    """Test error against the starting ELR, one curve a final ELR and one for the average."""
    marks: list[Line] = []
    looks, ends = _looks(result), [result.starts[0], result.starts[-1]]
    for end in result.ends:
        name, look = format_number(end), looks[end]
        told = f"from {{x:.3g}} to {name}<br>test error {{y:.2f}} %"
        marks.append(_curve(result, end, "test_error", look, told, scale=100))
        level = 100 * result.at(end, end).test_error
        told, look = f"ELR {name} throughout<br>test error {{y:.2f}} %", look.but(width=1.2, dash="dash", marker="")
        marks.append(Line(ends, [level, level], look, told, entry=f"{name} throughout"))
    averages = result.average_errors()
    if averages:
        marks.append(
            Line(
                list(averages),
                [100 * float(np.mean(errors)) for errors in averages.values()],
                looks[None],
                "average at {x:.3g}<br>test error {y:.2f} %",
                error=[100 * standard_error(errors) for errors in averages.values()],
                entry=f"average of {len(result.snapshots)}, no drop",
            )
        )
    return Chart(
        "error-chart",
        "Test error after a drop of the ELR",
        _X,
        [Panel(Axis("test error (%)", range=_range(marks), over="averages above are left out"), marks)],
        (
            "Mean over seeds, bars one standard error. Solid: after the drop to the ELR named. Dashed: that ELR from "
            "the first step on, with as many steps in all. Dotted: average of the last snapshots before the drop, "
            "which had fewer steps; where it lies above the axis it is left out. Grey band: where convergence ends."
        ),
        "Test error against the effective learning rate before the drop, one curve for each one after it",
        rules=_rules(result),
        spans=_spans(result),
        height=480,
    )


def _range(marks: Sequence[Line]) -> tuple[float, float]:
    """From the lowest of all to the highest of the continuations: averages may lie far above what is of interest."""
    drops = [mark for mark in marks if mark.look.dash != "dot"]
    low = min(float(np.nanmin(reach)) for mark in marks for reach in mark.reach()[1])
    high = max(float(np.nanmax(reach)) for mark in drops for reach in mark.reach()[1])
    pad = 0.08 * max(high - low, 0.5)
    return max(min(0.0, low), low - pad), high + pad


def matrix_chart(result: DropResult) -> Chart:
    """Mean test error of every start and final ELR as a map."""
    starts, ends = result.starts, result.ends
    cells = [[result.at(start, end) for start in starts] for end in ends]
    heat = Heat(
        [format_number(start) for start in starts],
        [format_number(end) for end in ends],
        [[100 * cell.test_error for cell in row] for row in cells],
        Scale("%", reverse=True),
        labels=[[f"{100 * cell.test_error:.1f}<br>±{100 * cell.test_error_se:.1f}" for cell in row] for row in cells],
        hover="from {x} to {y}<br>test error {z:.2f} %",
    )
    return Chart(
        "matrix-chart",
        "Test error (%) from start to end",
        Axis(_X.title),
        [Panel(Axis("ELR after the drop"), [heat])],
        "Test error in percent, mean over seeds ± one standard error. Equal ELRs: no drop.",
        "Test error of every pair of effective learning rates before and after the drop",
        height=150 + 70 * len(ends),
        size=(2.6 + 0.62 * len(starts), 1.6 + 0.55 * len(ends)),
    )


def after_chart(result: DropResult) -> Chart:
    """Stochastic gradient norm after the drop against the start; the top eigenvalue below it if it was measured."""
    looks, panels = _looks(result), []
    wanted = {"gradient_norm": ("stochastic gradient norm", "gradient norm")}
    if result.sharp:
        wanted["sharpness"] = ("top eigenvalue on the sphere", "sharpness")
    for quantity, (title, short) in wanted.items():
        told = f"from {{x:.3g}} to %s<br>{short} {{y:.3g}}"
        marks = [_curve(result, end, quantity, looks[end], told % format_number(end)) for end in result.ends]
        panels.append(Panel(Axis(title, log=True), marks))
    more = " Below: top eigenvalue of the training-mode Hessian on the unit sphere at the end." if result.sharp else ""
    return Chart(
        "after-chart",
        "After the drop",
        _X,
        panels,
        (
            "Mean effective norm of the stochastic gradient over the last quarter of the steps after the drop; mean "
            f"over seeds, bars one standard error. Lower is flatter where training losses are alike (see above).{more}"
        ),
        "Stochastic gradient norm after the drop against the effective learning rate before it",
        rules=_rules(result),
        spans=_spans(result),
        height=640 if result.sharp else 400,
    )


def barrier_chart(result: DropResult) -> Chart:
    """Error and loss barriers against the start, one curve a pair of ends; there has to be a path."""
    looks = series_looks(PAIR_NAMES, marker="circle", size=6)

    def curves(name: str, scale: float, floor: float, unit: str) -> list[Line]:
        """Barriers by start, none below a floor, so that a logarithmic axis shows all of them."""
        found = []
        for pair, entry in PAIR_NAMES.items():
            rows = _by_start(result, name, scale, pair)
            means = [float(np.mean(values)) for values in rows.values()]
            spread = [float(np.nan_to_num(standard_error(values))) for values in rows.values()]
            shown = [max(mean, floor) for mean in means]
            line = Line(
                list(rows),
                shown,
                looks[pair],
                f"from {{x:.3g}} · {entry}<br>barrier {{mean:.3g}}{unit}",
                columns={"mean": means},
                error=spread,
                error_down=[min(se, value - floor) for se, value in zip(spread, shown, strict=True)],
                entry=entry,
            )
            found += [line] if rows else []
        return found

    allowed = _by_start(result, "allowed", 100)
    limits = [float(np.mean(values)) for values in allowed.values()]
    limit = Line(list(allowed), limits, _DASHED, "connected up to {y:.2f} %", entry="connected below")
    classes = [Rule(c.start, f"<b>{c.label}</b>", along="x", look=INKED.but(width=0)) for c in result.classes]
    spans, rules = _spans(result, named=False), _rules(result, named=False)
    note = ["grey: where convergence ends"] * len(spans) + ["dotted: where divergence begins"] * len(rules)
    return Chart(
        "barrier-chart",
        "Barriers between continuations and average",
        _X,
        [
            Panel(
                Axis("error barrier (% of train images)", log=True),
                [*curves("error_barrier", 100.0, 0.01, " %"), limit],
                rules=classes,
            ),
            Panel(Axis("train loss barrier", log=True), curves("loss_barrier", 1.0, 1e-4, "")),
        ],
        (
            "Largest rise of training error and training loss over the line between the ends of a great circle, batch "
            "statistics re-estimated at every point; mean over seeds ± one standard error. Smaller barriers, and none, "
            "are drawn at 0.01 % and 0.0001. On top the class of each start."
        ),
        "Error and loss barriers between continuations and average against the start",
        rules=rules,
        spans=spans,
        note="; ".join(note),
        file="barriers",
        height=640,
    )


def _by_start(result: DropResult, name: str, scale: float, pair: str = "") -> dict[float, list[float]]:
    """An attribute of the paths, or of those of one pair of ends, by start, where there are some."""
    own = [path for path in result.paths if pair in ("", path.pair)]
    rows = {s: [scale * getattr(path, name) for path in own if path.start == s] for s in result.starts}
    return {start: values for start, values in rows.items() if values}


def _curve(result: DropResult, end: float, quantity: str, look: Look, hover: str, scale: float = 1.0) -> Line:
    """The means of a quantity after the drop to one final ELR, with their standard errors."""

    def scaled(name: str) -> list[Any]:
        values = [getattr(result.at(start, end), name) for start in result.starts]
        return [None if value is None else scale * value for value in values]

    name = f"down to {format_number(end)}"
    return Line(result.starts, scaled(quantity), look, hover, error=scaled(f"{quantity}_se"), entry=name)


def _looks(result: DropResult) -> dict[float | None, Look]:
    """A look for each final ELR, and for None the average's."""
    looks = series_looks([*result.ends, None], width=1.8, marker="circle")
    return looks | {None: looks[None].but(width=1.6, dash="dot", marker="diamond")}


def _spans(result: DropResult, *, named: bool = True) -> list[Span]:
    """The stretch in which convergence ends."""
    low, high = result.threshold.low, result.threshold.high
    name = "convergence ends" if named else ""
    return [] if low is None or high is None else [Span(low, high, name=name, kind="bracket")]


def _rules(result: DropResult, *, named: bool = True) -> list[Rule]:
    """The line where divergence begins."""
    start = result.threshold.divergence
    return [] if start is None else [Rule(start, "divergence" if named else "", along="x", look=_DOTTED)]
