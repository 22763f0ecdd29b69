"""The layout of a chart in a page: axes, legend, rules and spans with their names, measured in pixels."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import Any

from .arrange import Limits, Place, levels, names_above, ragged, ticks_of
from .spec import Axis, Bars, Chart, Heat, Panel, Rule, Span
from .theme import GREY, INK, rgba

_WIDTH = 640  # pixels of a panel's width, to judge which texts fit; the page's own width is not known here
_LETTER = 6.6
_LINE = 16  # pixels a line of text above a panel
_INK = "ink"
_BELOW = 46  # pixels for numbers and title of an x axis
_TAGS = re.compile(r"&lt;(/?(?:b|i)|br)&gt;")


def safe(text: str) -> str:
    """Escape a text for plotly.js, which reads a little HTML; the tags ``<b> <i> <br>`` stay."""
    return _TAGS.sub(r"<\1>", html.escape(text, quote=False))


def layout_of(chart: Chart, places: Sequence[Place]) -> dict[str, Any]:
    """The layout of a chart as plotly.js takes it.

    Args:
        chart: The chart that is laid out.
        places: Its panels, as `arrange.arranged` puts them.
    """
    frame = _Frame(chart, places)
    layout: dict[str, Any] = {"height": frame.height, "margin": frame.margin, "legend": frame.legend()}
    layout |= {"hovermode": "closest", "barmode": "overlay", "shapes": [], "annotations": []}
    if any(isinstance(mark, Bars) and mark.inside for place in places for mark in place.panel.marks):
        layout["uniformtext"] = {"mode": "hide", "minsize": 8.5}  # where bars are too narrow for their names
    last = {place.leader: number for number, place in enumerate(places) if place.shows_x}
    for number, place in enumerate(places):
        panel, y = place.panel, _name("y", number)
        shown = _axis(panel.y, place.y_limits, ticks_of(panel.y, panel.marks, "y"))
        shown = _named(shown) if ragged(panel.marks) else shown
        layout[f"yaxis{y[1:]}"] = shown | {"domain": frame.rows[place.row], "anchor": _name("x", place.leader)}
        if not place.shows_y:
            beside = _name("y", number - place.column)
            layout[f"yaxis{y[1:]}"] |= {"showticklabels": False, "title": {"text": ""}, "matches": beside}
        if place.leader == number:
            x = _axis(place.x, place.x_limits, ticks_of(place.x, panel.marks, "x"))
            x = _named(x) if ragged(panel.marks) else x
            x |= {"domain": frame.columns[place.column], "anchor": _name("y", last[number])}
            layout[f"xaxis{_name('x', number)[1:]}"] = x | ({"side": "top"} if place.x.opposite else {})
        drawn = _Drawn(place, number, whole=chart.columns == 1 and len(last) == 1)
        drawn.own(panel)
        drawn.shared(chart)
        layout["shapes"] += drawn.shapes
        layout["annotations"] += drawn.notes + _headings(chart, place, number, frame.above[place.row])
    return layout


def colour_bar(chart: Chart, places: Sequence[Place], place: Place) -> dict[str, Any]:
    """Where the colour bar of a map stands: beside its panel, as high as it."""
    frame = _Frame(chart, places)
    (low, high), right = frame.rows[place.row], frame.columns[place.column][1]
    bar = {"thickness": 12, "x": right + 0.01, "xanchor": "left", "xpad": 0, "ypad": 0}
    return bar | {"y": (low + high) / 2, "len": high - low}


class _Frame:
    """Sizes in pixels and domains as fractions."""

    def __init__(self, chart: Chart, places: Sequence[Place]) -> None:
        self.chart, self.places = chart, places
        count = max(place.row for place in places) + 1
        above = [max(_room_above(chart, place) for place in places if place.row == row) for row in range(count)]
        below = [
            _BELOW if any(place.row == row and place.shows_x and not place.x.opposite for place in places) else 0
            for row in range(count)
        ]
        parts = [max(place.panel.height for place in places if place.row == row) for row in range(count)]
        self.legend_rows = self._legend_rows() if chart.columns > 1 else 0
        # titles at the right would run into plotly's buttons, unless the legend stands between them
        clear = 18 if chart.columns > 1 and above[0] and not self.legend_rows else 0
        top, bottom = max(30, 12 + above[0]) + 22 * self.legend_rows + clear, below[-1] + 6
        gaps = [max(below[row] + above[row + 1], 0 if below[row] else 24) for row in range(count - 1)]
        inner = sum(parts) * (350 if count == 1 else 225 if count < 4 else 140)
        self.height = chart.height or round(top + bottom + sum(gaps) + inner)
        plot = self.height - top - bottom
        share = (plot - sum(gaps)) / sum(parts) / plot
        self.rows: list[list[float]] = []
        end = 1.0
        for row, part in enumerate(parts):
            self.rows.append([round(max(end - share * part, 0), 4), round(end, 4)])
            end -= share * part + (gaps[row] / plot if row < len(gaps) else 0)
        self.above, self.plot = above, plot
        self.columns = self._columns()
        names = [ticks_of(place.panel.y, place.panel.marks, "y") or {} for place in places if place.column == 0]
        longest = max(
            (len(line) for ticks in names for name in ticks.values() for line in name.split("<br>")), default=0
        )
        self.margin = {"l": max(70, round(34 + 6.4 * longest)), "r": 20, "t": top, "b": bottom}

    def _columns(self) -> list[list[float]]:
        chart = self.chart
        used = max(place.column for place in self.places) + 1
        weights = list(chart.widths) or [1.0] * used
        maps = [
            any(isinstance(mark, Heat) for place in self.places if place.column == column for mark in place.panel.marks)
            for column in range(used)
        ]
        gaps = [(0.02 if chart.share_y else 0.1) + 0.08 * maps[column] for column in range(used - 1)]
        share = (1 - sum(gaps)) / sum(weights[:used])
        found, start = [], 0.0
        for column in range(used):
            found.append([round(start, 4), round(min(start + share * weights[column], 1), 4)])
            start += share * weights[column] + (gaps[column] if column < len(gaps) else 0)
        return found

    def _legend_rows(self) -> int:
        """Lines of a legend above the panels."""
        marks = [mark for place in self.places for mark in place.panel.marks if mark.entry and mark.listed]
        names = dict.fromkeys(mark.entry for mark in marks)
        return math.ceil(sum(_LETTER * len(name) + 48 for name in names) / 700)

    def legend(self) -> dict[str, Any]:
        """Its entries switch all traces of their group, in every panel."""
        look = {"title": {"text": safe(self.chart.legend)}, "tracegroupgap": 0, "groupclick": "togglegroup"}
        look |= {"itemsizing": "constant"}
        if self.chart.columns == 1:
            return look
        return look | {"orientation": "h", "x": 0, "yanchor": "bottom", "y": 1 + (self.above[0] + 6) / self.plot}


def _name(letter: str, number: int) -> str:
    return f"{letter}{number + 1 if number else ''}"


def _axis(axis: Axis, ends: Limits, ticks: dict[float, str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"title": {"text": safe(axis.title), "standoff": 8}, "showline": ticks != {}}
    found |= {"ticks": "outside", "ticklen": 4, "automargin": False}
    low, high = (math.log10(ends.low), math.log10(ends.high)) if axis.log else (ends.low, ends.high)
    found["range"] = [high, low] if axis.reverse else [low, high]
    if axis.log:
        # so few ticks that plotly keeps to powers of ten until somebody zooms in; over less 1, 2, 5 tell more
        few = max(1, min(5, int((high - low) / 0.71)))
        found |= {"type": "log", "exponentformat": "power", "nticks": few}
        if ends.high / ends.low < 150:
            found |= {"dtick": "D2"} if ends.high / ends.low > 12 else {"exponentformat": "none", "nticks": 8}
    if ticks is not None:
        found |= {"tickvals": list(ticks), "ticktext": [safe(name) for name in ticks.values()]}
        found |= {} if axis.log else {"showgrid": False}
        found.pop("dtick", None)
    return found


def _named(axis: dict[str, Any]) -> dict[str, Any]:
    """The axis of maps that change their names from frame to frame: it holds those of the one that is shown."""
    kept = {name: value for name, value in axis.items() if name not in ("range", "tickvals", "ticktext")}
    return kept | {"type": "category", "autorange": True, "nticks": 14}


class _Drawn:
    """Shapes and notes of a panel."""

    def __init__(self, place: Place, number: int, *, whole: bool) -> None:
        self.place, self.shapes, self.notes = place, [], []  # type: ignore[var-annotated]
        self.x, self.y = _name("x", place.leader), _name("y", number)
        # what all panels below one another share runs through the gaps between them
        self.through = whole and number == 0
        self.skips = whole and number > 0

    def own(self, panel: Panel) -> None:
        for span in panel.spans:
            self._span(span, {"yref": f"{self.y} domain"})
        for rule in panel.rules:
            self._rule(rule, {"yref": f"{self.y} domain"})
        self.notes += [self._corner(over, "top") for over in self.place.over]
        if self.place.y_limits.empty or self.place.x_limits.empty:
            where = {"xref": f"{self.x} domain", "x": 0.5, "yref": f"{self.y} domain", "y": 0.5}
            self.notes.append(where | {"text": "no finite values", "showarrow": False})

    def shared(self, chart: Chart) -> None:
        if self.skips:
            return
        across = {"yref": "paper" if self.through else f"{self.y} domain"}
        for span in chart.spans:
            self._span(span, across)
        for rule in chart.rules:
            self._rule(rule, across)

    def _span(self, span: Span, across: dict[str, Any]) -> None:
        ends = self.place.x_limits if span.along == "x" else self.place.y_limits
        low, high = max(span.low, ends.low), min(span.high, ends.high)
        if span.kind == "gap" or not low < high:
            return
        fill = {"region": rgba(span.colour or GREY, 0.16), "bracket": rgba(GREY, 0.4), "open": "rgba(0,0,0,0)"}[
            span.kind
        ]
        line = {"width": 1, "dash": "dot", "color": GREY} if span.kind == "open" else {"width": 0}
        base = {"type": "rect", "layer": "below", "fillcolor": fill, "line": line}
        if span.along == "x":
            self.shapes.append(base | across | {"xref": self.x, "x0": low, "x1": high, "y0": 0, "y1": 1})
        else:
            self.shapes.append(
                base | {"xref": f"{self.x} domain", "yref": self.y, "x0": 0, "x1": 1, "y0": low, "y1": high}
            )

    def _rule(self, rule: Rule, across: dict[str, Any]) -> None:
        look = rule.look
        line = {"color": _INK if look.colour == INK else look.colour, "width": look.width, "dash": look.dash}
        base = {"type": "line", "line": line}
        if rule.along == "x":
            if look.width:
                self.shapes.append(
                    base | across | {"xref": self.x, "x0": rule.value, "x1": rule.value, "y0": 0, "y1": 1}
                )
            return
        if look.width:
            ends = {"xref": f"{self.x} domain", "x0": 0, "x1": 1}
            self.shapes.append(base | ends | {"yref": self.y, "y0": rule.value, "y1": rule.value})
        if rule.name and rule.at == "corner":
            self.notes.append(self._corner(f"- - {rule.name}", "top"))
        elif rule.name:
            y = math.log10(rule.value) if self.place.panel.y.log else rule.value
            side = {"x": 0.005, "xanchor": "left"} if rule.at == "left" else {"x": 0.995, "xanchor": "right"}
            where = {"xref": f"{self.x} domain", "yref": self.y, "y": y, "yanchor": "bottom"}
            self.notes.append(_note(rule.name, 11) | side | where)

    def _corner(self, text: str, anchor: str) -> dict[str, Any]:
        where = {"xref": f"{self.x} domain", "yref": f"{self.y} domain", "x": 0.995, "y": 1}
        return _note(text, 11) | where | {"xanchor": "right", "yanchor": anchor, "name": "corner"}


def _note(text: str, size: float) -> dict[str, Any]:
    return {"text": safe(text), "showarrow": False, "font": {"size": size}}


def _above(chart: Chart, place: Place) -> list[tuple[float, str, int]]:
    """What stands above a panel: place along the x axis in data units, text, height in pixels."""
    first = place.row == 0
    spans = [s for s in (*place.panel.spans, *(chart.spans if first else ())) if s.along == "x"]
    width = _WIDTH * _weight(chart, place)
    names: list[tuple[float, str]] = []
    more = names_above(chart, place)
    for span in spans:
        if (seen := place.seen(span)) is None:
            continue
        low, high, middle = seen
        room = width * (place.fraction(high) - place.fraction(low))
        named = span.kind in ("region", "gap") and span.name
        if named:
            text = span.name if _LETTER * len(span.name) < room else span.name.replace(" ", "<br>")
            names.append((middle, f"<i>{text}</i>" if span.kind == "gap" else f"<b>{text}</b>"))
        more += [(middle, text) for text in ("" if named else span.name, span.numbers) if text]
    found, base = [], 2
    for texts in (names, more):
        lines = max((text.count("<br>") + 1 for _, text in texts), default=0)
        sizes = [
            _LETTER * max(len(re.sub("<.*?>", "", line)) for line in text.split("<br>")) / width for _, text in texts
        ]
        rows = levels([place.fraction(value) for value, _ in texts], sizes)
        found += [(value, text, base + _LINE * lines * row) for (value, text), row in zip(texts, rows, strict=True)]
        base += _LINE * lines * (max(rows, default=-1) + 1) + (4 if texts else 0)
    return found


def _room_above(chart: Chart, place: Place) -> int:
    texts = _above(chart, place)
    top = max((height + _LINE * (text.count("<br>") + 1) for _, text, height in texts), default=0)
    return top + 20 * bool(place.panel.title) + 40 * (place.x.opposite and place.shows_x)


def _headings(chart: Chart, place: Place, number: int, room: int) -> list[dict[str, Any]]:
    x, y = _name("x", place.leader), _name("y", number)
    base = {"yref": f"{y} domain", "y": 1, "yanchor": "bottom"}
    texts = _above(chart, place)
    notes = [
        _note(text, 12) | base | {"xref": x, "x": math.log10(value) if place.x.log else value, "yshift": height}
        for value, text, height in texts
    ]
    if place.panel.title:
        notes.append(_note(place.panel.title, 12.5) | base | {"xref": f"{x} domain", "x": 0.5, "yshift": room - 20})
    return notes


def _weight(chart: Chart, place: Place) -> float:
    """The share of the chart's width that a panel has."""
    weights = list(chart.widths) or [1.0] * min(chart.columns, len(chart.panels))
    return weights[place.column] / sum(weights)
