"""Where the panels of a chart stand and what their axes hold, the same for the page and for paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np

from .spec import Axis, Chart, Heat, Mark, Panel, Rule, Span, Text

_MARGIN = 0.05  # of the length of an axis, at both ends


@dataclass(frozen=True)
class Limits:
    """Ends of an axis in data units, whether they cut something off, and whether there is nothing to hold."""

    low: float
    high: float
    cut: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Place:
    """A panel and where it stands.

    Attributes:
        panel: The panel that stands here.
        row: Its row, counted from above.
        column: Its column, counted from the left.
        x: Its x axis, own or the chart's.
        x_limits: What its x axis holds.
        y_limits: What its y axis holds.
        leader: Index of the panel whose x axis it shares; its own if none.
        shows_x: Whether numbers and title of the x axis stand at it.
        shows_y: Whether those of the y axis do.
        over: What its axes say that they leave out of its own marks.
    """

    panel: Panel
    row: int
    column: int
    x: Axis
    x_limits: Limits
    y_limits: Limits
    leader: int
    shows_x: bool
    shows_y: bool
    over: tuple[str, ...] = ()

    def fraction(self, value: float) -> float:
        """How far along the x axis a value is, 0 and 1 at its ends."""
        low, high = self.x_limits.low, self.x_limits.high
        return math.log(max(value, low) / low) / math.log(high / low) if self.x.log else (value - low) / (high - low)

    def seen(self, span: Span) -> tuple[float, float, float] | None:
        """Ends and middle of what is seen of a stretch of an axis; None if nothing is."""
        axis, ends = (self.x, self.x_limits) if span.along == "x" else (self.panel.y, self.y_limits)
        low, high = max(span.low, ends.low), min(span.high, ends.high)
        return (low, high, math.sqrt(low * high) if axis.log else (low + high) / 2) if low < high else None


def limits(axis: Axis, values: Iterable[Any], margin: float = _MARGIN) -> Limits:
    """Ends of an axis: its range if it says one, widened to hold the values unless it says that it cuts.

    Args:
        axis: The axis whose ends are wanted.
        values: All that it has to hold, as arrays; what is not finite (or not positive, if logarithmic) is left out.
        margin: What is left free at both ends, as a fraction of the length.
    """
    flat = np.concatenate([np.atleast_1d(np.asarray(one, dtype=np.float64)).ravel() for one in (*values, axis.holds)])
    flat = flat[np.isfinite(flat) & ((flat > 0) | (not axis.log))]
    if not flat.size:
        low, high = sorted(axis.range or ((0.1, 10.0) if axis.log else (0.0, 1.0)))
        return Limits(low, high, empty=True)
    least, most = float(flat.min()), float(flat.max())
    if axis.range is not None and axis.over:
        low, high = sorted(axis.range)
        return Limits(low, high, cut=least < low or most > high)
    start, end = (math.log10(least), math.log10(most)) if axis.log else (least, most)
    pad = margin * (end - start) if start < end else (0.5 if axis.log else 0.1 * abs(start) or 0.5)
    begin, stop = (start if least in axis.holds else start - pad), (end if most in axis.holds else end + pad)
    low, high = (min(_power(begin), least), max(_power(stop), most)) if axis.log else (begin, stop)
    if axis.range is not None:
        left, right = sorted(axis.range)
        low, high = (left if left <= least else low), (right if right >= most else high)
    if not low < high:  # a single value, held on both sides
        low, high = (low / math.sqrt(10), high * math.sqrt(10)) if axis.log else (low - 0.5, high + 0.5)
    return Limits(low, high)


def _power(exponent: float) -> float:
    """Ten to a power, within what floats can say and an axis can show."""
    return float(10.0 ** min(max(exponent, -323.0), 308.0))


def arranged(chart: Chart) -> list[Place]:
    """The panels of a chart in order, each with its place and the limits of its axes."""
    panels = list(chart.panels)
    axes = [panel.x or chart.x for panel in panels]
    leaders, last = list(range(len(panels))), list(range(len(panels)))
    for column in range(chart.columns):
        own = range(column, len(panels), chart.columns)
        for _, run in groupby(own, key=lambda i: id(axes[i])):
            members = list(run)
            for i in members:
                leaders[i] = members[0]
                last[i] = members[0] if axes[i].opposite else members[-1]
    each, firsts = range(len(panels)), [i - i % chart.columns if chart.share_y else i for i in range(len(panels))]
    along_x = [_held(chart, axes[i], [j for j in each if leaders[j] == leaders[i]], "x") for i in each]
    along_y = [_held(chart, panels[firsts[i]].y, [j for j in each if firsts[j] == firsts[i]], "y") for i in each]
    return [
        Place(
            panel=panel,
            row=i // chart.columns,
            column=i % chart.columns,
            x=axes[i],
            x_limits=along_x[i],
            y_limits=along_y[i],
            leader=leaders[i],
            shows_x=last[i] == i,
            shows_y=not chart.share_y or i % chart.columns == 0,
            over=_left_out(chart, axes[i], i),
        )
        for i, panel in enumerate(panels)
    ]


def _held(chart: Chart, axis: Axis, panels: Sequence[int], along: Literal["x", "y"]) -> Limits:
    """Limits of an axis that some panels share: all of their marks and rules."""
    marks = [mark for i in panels for mark in chart.panels[i].marks]
    rules: list[Rule] = [*chart.rules, *(rule for i in panels for rule in chart.panels[i].rules)]
    values = [one for mark in marks for one in mark.reach()[0 if along == "x" else 1]]
    values += [np.array([rule.value]) for rule in rules if rule.along == along]
    return limits(axis, values, 0 if any(isinstance(mark, Heat) for mark in marks) else _MARGIN)


def _left_out(chart: Chart, x: Axis, index: int) -> tuple[str, ...]:
    """What the axes of a panel say of its own marks that they leave out."""
    y = chart.panels[index].y
    found = [x.over if x.over and _held(chart, x, [index], "x").cut else ""]
    found.append(y.over if y.over and _held(chart, y, [index], "y").cut else "")
    return tuple(dict.fromkeys(text for text in found if text))


def ticks_of(axis: Axis, marks: Sequence[Mark], along: Literal["x", "y"]) -> dict[float, str] | None:
    """Values and names of an axis that is no scale; of a long map every so many names, None for a scale."""
    if axis.ticks is not None:
        return dict(axis.ticks)
    names = next((getattr(mark, along) for mark in marks if isinstance(mark, Heat)), None)
    if names is None:
        return None
    return {float(i): name for i, name in enumerate(names) if i % math.ceil(len(names) / 14) == 0}


def ragged(marks: Sequence[Mark]) -> bool:
    """Whether there are maps of different names, one a frame: each then has axes of its own."""
    return len({(tuple(mark.x), tuple(mark.y)) for mark in marks if isinstance(mark, Heat)}) > 1


def names_above(chart: Chart, place: Place) -> list[tuple[float, str]]:
    """Names of the rules along the x axis and texts that stand above a panel, each with its place on the axis."""
    rules = [*place.panel.rules, *(chart.rules if place.row == 0 else ())]
    found = [(rule.value, rule.name) for rule in rules if rule.along == "x" and rule.name]
    texts = [mark for mark in place.panel.marks if isinstance(mark, Text) and mark.y is None]
    return found + [(float(x), text) for mark in texts for x, text in zip(mark.x, mark.text, strict=True)]


def levels(places: Sequence[float], widths: Sequence[float]) -> list[int]:
    """At which level above a panel each of some texts stands, so that none runs into another.

    Their middles and widths, [n] each, are fractions of the panel's width.
    """
    taken: list[list[tuple[float, float]]] = []
    found = [0] * len(places)
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        left, right = places[i] - widths[i] / 2, places[i] + widths[i] / 2
        level = next((n for n, row in enumerate(taken) if all(right < a or left > b for a, b in row)), len(taken))
        if level == len(taken):
            taken.append([])
        taken[level].append((left, right))
        found[i] = level
    return found
