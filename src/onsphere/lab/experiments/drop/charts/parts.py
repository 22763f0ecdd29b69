"""What the charts of a drop share: the axis of starts, looks of final rates, where convergence ends."""

from __future__ import annotations

from typing import Any

from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Line, Look, Rule, Span
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.report.words import format_number

DOTTED = INKED.but(width=1.2, dash="dot")
DASHED = INKED.but(width=1.2, dash="dash")


def curve_of(result: DropResult, end: float, quantity: str, look: Look, hover: str, scale: float = 1.0) -> Line:
    """The means of a quantity after the drop to one final rate, with their standard errors."""

    def scaled(name: str) -> list[Any]:
        values = [getattr(result.at(start, end), name) for start in result.starts]
        return [None if value is None else scale * value for value in values]

    name = f"down to {format_number(end)}"
    return Line(result.starts, scaled(quantity), look, hover, error=scaled(f"{quantity}_se"), entry=name)


def looks_of(result: DropResult) -> dict[float | None, Look]:
    """A look for each final rate, and for None the average's."""
    looks = series_looks([*result.ends, None], width=1.8, marker="circle")
    return looks | {None: looks[None].but(width=1.6, dash="dot", marker="diamond")}


def x_axis(result: DropResult) -> Axis:
    """The axis of the rates before the drop."""
    return Axis(f"{result.spec.rate} before the drop", log=True)


def spans_of(result: DropResult, *, named: bool = True) -> list[Span]:
    """The stretch in which convergence ends."""
    low, high = result.threshold.low, result.threshold.high
    name = "convergence ends" if named else ""
    return [] if low is None or high is None else [Span(low, high, name=name, kind="bracket")]


def rules_of(result: DropResult, *, named: bool = True) -> list[Rule]:
    """The line where divergence begins."""
    start = result.threshold.divergence
    return [] if start is None else [Rule(start, "divergence" if named else "", along="x", look=DOTTED)]
