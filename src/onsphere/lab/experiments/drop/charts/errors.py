"""Charts of test errors: over the start, as a matrix, over the number of averaged snapshots, of starts in stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onsphere.lab.chart.looks import elr_looks, series_looks
from onsphere.lab.chart.spec import Axis, Chart, Heat, Line, Panel, Rule, Scale
from onsphere.lab.experiments.drop.charts.parts import curve_of, looks_of, rules_of, spans_of, x_axis
from onsphere.lab.experiments.drop.result import DropResult, StagedStart
from onsphere.lab.intervals import standard_error
from onsphere.lab.report.words import format_number


def error_chart(result: DropResult) -> Chart:
    """Test error against the starting rate, one curve a final rate and one for the average."""
    marks: list[Line] = []
    looks, ends, rate = looks_of(result), [result.starts[0], result.starts[-1]], result.spec.rate
    for end in result.ends:
        name, look = format_number(end), looks[end]
        told = f"from {{x:.3g}} to {name}<br>test error {{y:.2f}} %"
        marks.append(curve_of(result, end, "test_error", look, told, scale=100))
        level = 100 * result.at(end, end).test_error
        told, look = f"{rate} {name} throughout<br>test error {{y:.2f}} %", look.but(width=1.2, dash="dash", marker="")
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
                entry=f"average of {result.number}, no drop",
            )
        )
    # on the sphere a start in divergence comes back after the drop; in the whole space it may be lost for good
    lost = [] if result.spec.training == "sphere" else [one.start for one in result.classes if one.label == "3"]
    lost = lost if len(lost) < len(result.starts) else []
    over = "divergent starts and averages" if lost else "averages"
    return Chart(
        "error-chart",
        f"Test error after a drop of the {rate}",
        x_axis(result),
        [Panel(Axis("test error (%)", range=_range(marks, lost), over=f"{over} above are left out"), marks)],
        (
            f"Mean over seeds, bars one standard error. Solid: after the drop to the {rate} named. Dashed: that "
            f"{rate} from the first step on, with as many steps in all. Dotted: average of the last snapshots "
            "before the drop, which had fewer steps; where it lies above the axis it is left out. Grey band: where "
            "convergence ends."
        ),
        f"Test error against the {result.spec.rate_name} before the drop, one curve for each one after it",
        rules=rules_of(result),
        spans=spans_of(result),
        height=480,
    )


def _range(marks: Sequence[Line], lost: Sequence[float]) -> tuple[float, float]:
    """From the lowest of all to the highest of the continuations that are not from ``lost`` starts.

    Averages may lie far above what is of interest.
    """
    drops = [mark for mark in marks if mark.look.dash != "dot"]
    low = min(float(np.nanmin(reach)) for mark in marks for reach in mark.reach()[1])
    kept = [reach[~np.isin(mark.x, lost)] for mark in drops for reach in mark.reach()[1]]
    high = max(float(np.nanmax(reach)) for reach in kept if len(reach))
    pad = 0.08 * max(high - low, 0.5)
    return max(min(0.0, low), low - pad), high + pad


def averages_chart(result: DropResult) -> Chart:
    """Test error of the averages against how many snapshots they are of, one curve a start; several numbers needed."""
    rate, numbers, low = result.spec.rate, result.numbers, result.lowest
    errors = {number: result.average_errors(number) for number in numbers}
    marks, kept, best = list[Line](), list[float](), 100 * low.test_error
    labels = {one.start: one.label for one in result.classes}
    for start, look in elr_looks(result.starts, marker="circle", width=1.8).items():
        there = [number for number in numbers if start in errors[number]]
        means = [100 * float(np.mean(errors[number][start])) for number in there]
        spread = [100 * standard_error(errors[number][start]) for number in there]
        name = f"{rate} {format_number(start)}"
        told = f"average of {{x:.0f}} at {name}<br>test error {{y:.2f}} %"
        kept += [] if labels[start] == "3" else _reach(means, spread)
        marks += [Line(there, means, look, told, error=spread, entry=name)] if there else []
    values = [best, *(kept or [value for mark in marks for value in mark.y])]
    ticks = {float(number): str(number) for number in numbers}
    return Chart(
        "averages-chart",
        "Averages of more and fewer snapshots",
        Axis("snapshots in the average", log=True, ticks=ticks),
        [
            Panel(
                Axis("test error (%)", range=_padded(values), over="starts in divergence above are left out"),
                marks,
                rules=[Rule(best, "best drop", at="right")],
            )
        ],
        (
            "Test error of the average of the last so many snapshots before the drop, without any drop; mean over "
            f"seeds, bars one standard error. Level: the best drop, from {format_number(low.start)} to "
            f"{format_number(low.end)}."
        ),
        "Test error of averages against the number of snapshots, one curve for each start",
        height=480,
    )


def stages_chart(result: DropResult) -> Chart:
    """Test error of starts in stages against the first stage's rate, over the curve of single stages."""
    rate, panels, later = result.spec.rate, list[Panel](), dict[str, list[StagedStart]]()
    for one in sorted(result.staged, key=lambda one: one.rates[0]):
        later.setdefault(one.name.partition("+")[2], []).append(one)
    looks = series_looks([None, *later], marker="circle", width=1.8)
    for place, end in enumerate(result.ends):
        to = format_number(end)
        told = f"{rate} {{x:.3g}} alone, to {to}<br>test error {{y:.2f}} %"
        marks = [replace(curve_of(result, end, "test_error", looks[None], told, scale=100), entry="single stage")]
        alone = [result.at(stage, end) for one in result.staged for stage in one.rates]
        shown = _reach([100 * cell.test_error for cell in alone], [100 * cell.test_error_se for cell in alone])
        for then, own in later.items():
            cells = [one.matrix[place] for one in own]
            values = [100 * cell.test_error for cell in cells]
            told_each = [f"{o.name}, to {to}<br>test error {v:.2f} %" for o, v in zip(own, values, strict=True)]
            look, bars = looks[then].but(marker="diamond", size=9, dash="dash"), [100 * c.test_error_se for c in cells]
            rates = [one.rates[0] for one in own]
            marks.append(Line(rates, values, look, told_each, error=bars, entry=f"then {then}"))
            shown += _reach(values, bars)
        low = min(float(np.nanmin(down)) for mark in marks for down in mark.reach()[1])
        axis = Axis("test error (%)", range=_padded([low, *shown]), over="other starts above are left out")
        panels.append(Panel(axis, marks, title=f"to {rate} {to}"))
    return Chart(
        "stages-chart",
        "Starts in stages",
        Axis(f"{rate} of the first stage", log=True),
        panels,
        (
            "Test error after the drop against the rate of the first stage; mean over seeds, bars one standard error. "
            f"Circles: all {result.spec.steps} steps before the drop at that {rate}. Diamonds: fewer steps there, then "
            "the stages that the legend names, with as many steps in all."
        ),
        "Test error after the drop from starts in stages beside those of a single stage",
        rules=rules_of(result),
        spans=spans_of(result),
    )


def _reach(values: Sequence[float], errors: Sequence[float]) -> list[float]:
    """The ends of error bars."""
    return [
        value + side * float(np.nan_to_num(se)) for value, se in zip(values, errors, strict=True) for side in (-1, 1)
    ]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds these test errors in percent, with a margin."""
    finite = [value for value in values if np.isfinite(value)] or [0.0, 100.0]
    pad = 0.1 * max(max(finite) - min(finite), 0.5)
    return max(0.0, min(finite) - pad), max(finite) + pad


def matrix_chart(result: DropResult) -> Chart:
    """Mean test error of every start and final rate as a map."""
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
        Axis(x_axis(result).title),
        [Panel(Axis(f"{result.spec.rate} after the drop"), [heat])],
        f"Test error in percent, mean over seeds ± one standard error. Equal {result.spec.rate}s: no drop.",
        f"Test error of every pair of {result.spec.rate_name}s before and after the drop",
        height=150 + 70 * len(ends),
        size=(2.6 + 0.62 * len(starts), 1.6 + 0.55 * len(ends)),
    )
