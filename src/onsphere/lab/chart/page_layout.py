"""The layout of a chart in a page: axes, legend, rules and spans with their names, measured in pixels."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

from .arrange import Limits, Place, levels, names_above, ragged, ticks_of
from .spec import Axis, Bars, Chart, Heat, Mark, Rule, Span
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


def axis_name(letter: str, number: int) -> str:
    """What plotly.js calls an axis of a panel."""
    return f"{letter}{number + 1 if number else ''}"


class Layout:
    """Sizes in pixels and domains as fractions of a chart whose panels `arrange.arranged` has put into places."""

    def __init__(self, chart: Chart, places: Sequence[Place]) -> None:
        self.chart, self.places = chart, places
        self.texts = [_above(chart, place) for place in places]
        lines = [list(own) for _, own in groupby(zip(places, self.texts, strict=True), key=lambda one: one[0].row)]
        above = [max(_room_above(place, texts) for place, texts in own) for own in lines]
        below = [_BELOW * any(place.shows_x and not place.x.opposite for place, _ in own) for own in lines]
        parts = [max(place.panel.height for place, _ in own) for own in lines]
        legend_rows = self._legend_rows() if chart.columns > 1 else 0
        # titles at the right would run into plotly's buttons, unless the legend stands between them
        clear = 18 if chart.columns > 1 and above[0] and not legend_rows else 0
        top, bottom = max(30, 12 + above[0]) + 22 * legend_rows + clear, below[-1] + 6
        gaps = [max(under + over, 0 if under else 24) for under, over in zip(below, above[1:], strict=False)]
        inner = sum(parts) * (350 if len(lines) == 1 else 225 if len(lines) < 4 else 140)
        self.height = chart.height or round(top + bottom + sum(gaps) + inner)
        self.above, self.plot = above, self.height - top - bottom
        self.columns = self._columns()
        self.rows: list[list[float]] = []
        share, end = (self.plot - sum(gaps)) / sum(parts) / self.plot, 1.0
        for part, gap in zip(parts, [*gaps, 0], strict=True):
            self.rows.append([round(max(end - share * part, 0), 4), round(end, 4)])
            end -= share * part + gap / self.plot
        names = [ticks_of(place.panel.y, place.panel.marks, "y") or {} for place in places if place.column == 0]
        longest = max(
            (len(line) for ticks in names for name in ticks.values() for line in name.split("<br>")), default=0
        )
        self.margin = {"l": max(70, round(34 + 6.4 * longest)), "r": 20, "t": top, "b": bottom}

    def plain(self) -> dict[str, Any]:
        """The layout as plotly.js takes it."""
        chart, places = self.chart, self.places
        layout: dict[str, Any] = {"height": self.height, "margin": self.margin, "legend": self._legend()}
        layout |= {"hovermode": "closest", "barmode": "overlay", "shapes": [], "annotations": []}
        if any(isinstance(mark, Bars) and mark.inside for place in places for mark in place.panel.marks):
            layout["uniformtext"] = {"mode": "hide", "minsize": 8.5}  # where bars are too narrow for their names
        last = {place.leader: number for number, place in enumerate(places) if place.shows_x}
        whole = chart.columns == 1 and len(last) == 1  # what all panels share runs through the gaps between them
        for number, place in enumerate(places):
            panel, x, y = place.panel, axis_name("x", place.leader), axis_name("y", number)
            shown = _axis(panel.y, place.y_limits, panel.marks, "y") | {"domain": self.rows[place.row], "anchor": x}
            if not place.shows_y:
                beside = axis_name("y", number - place.column)
                shown |= {"showticklabels": False, "title": {"text": ""}, "matches": beside}
            layout[f"yaxis{y[1:]}"] = shown
            if place.leader == number:
                shown = _axis(place.x, place.x_limits, panel.marks, "x")
                shown |= {"domain": self.columns[place.column], "anchor": axis_name("y", last[number])}
                layout[f"xaxis{x[1:]}"] = shown | ({"side": "top"} if place.x.opposite else {})
            drawn = _Drawn(place, x, y)
            drawn.draw(panel.spans, panel.rules, f"{y} domain")
            drawn.remarks()
            if not whole or number == 0:
                drawn.draw(chart.spans, chart.rules, "paper" if whole else f"{y} domain")
            layout["shapes"] += drawn.shapes
            layout["annotations"] += drawn.notes + self._headings(number, x, y)
        return layout

    def colour_bar(self, place: Place) -> dict[str, Any]:
        """Where the colour bar of a map stands: beside its panel, as high as it."""
        (low, high), right = self.rows[place.row], self.columns[place.column][1]
        bar = {"thickness": 12, "x": right + 0.01, "xanchor": "left", "xpad": 0, "ypad": 0}
        return bar | {"y": (low + high) / 2, "len": high - low}

    def _columns(self) -> list[list[float]]:
        chart = self.chart
        used = max(place.column for place in self.places) + 1
        weights = (list(chart.widths) or [1.0] * used)[:used]
        maps = {place.column for place in self.places if any(isinstance(mark, Heat) for mark in place.panel.marks)}
        gaps = [(0.02 if chart.share_y else 0.1) + 0.08 * (column in maps) for column in range(used - 1)]
        share = (1 - sum(gaps)) / sum(weights)
        found, start = [], 0.0
        for weight, gap in zip(weights, [*gaps, 0], strict=True):
            found.append([round(start, 4), round(min(start + share * weight, 1), 4)])
            start += share * weight + gap
        return found

    def _legend_rows(self) -> int:
        """Lines of a legend above the panels."""
        marks = [mark for place in self.places for mark in place.panel.marks if mark.entry and mark.listed]
        names = dict.fromkeys(mark.entry for mark in marks)
        return math.ceil(sum(_LETTER * len(name) + 48 for name in names) / 700)

    def _legend(self) -> dict[str, Any]:
        """Its entries switch all traces of their group, in every panel."""
        look = {"title": {"text": safe(self.chart.legend)}, "tracegroupgap": 0, "groupclick": "togglegroup"}
        look |= {"itemsizing": "constant"}
        if self.chart.columns == 1:
            return look
        return look | {"orientation": "h", "x": 0, "yanchor": "bottom", "y": 1 + (self.above[0] + 6) / self.plot}

    def _headings(self, number: int, x: str, y: str) -> list[dict[str, Any]]:
        place = self.places[number]
        base = {"yref": f"{y} domain", "y": 1, "yanchor": "bottom"}
        notes = [
            _note(text, 12) | base | {"xref": x, "x": math.log10(value) if place.x.log else value, "yshift": height}
            for value, text, height in self.texts[number]
        ]
        if place.panel.title:
            where = {"xref": f"{x} domain", "x": 0.5, "yshift": self.above[place.row] - 20}
            notes.append(_note(place.panel.title, 12.5) | base | where)
        return notes


def _axis(axis: Axis, ends: Limits, marks: Sequence[Mark], along: Literal["x", "y"]) -> dict[str, Any]:
    ticks = ticks_of(axis, marks, along)
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
    if ragged(marks):  # the axis holds the names of the map that is shown
        found = {name: value for name, value in found.items() if name not in ("range", "tickvals", "ticktext")}
        found |= {"type": "category", "autorange": True, "nticks": 14}
    return found


class _Drawn:
    def __init__(self, place: Place, x: str, y: str) -> None:
        self.place, self.x, self.y = place, x, y
        self.shapes: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []

    def draw(self, spans: Sequence[Span], rules: Sequence[Rule], across: str) -> None:
        """Draw stretches and lines; those of the x axis reach over all of `across`."""
        for span in spans:
            seen = self.place.seen(span)
            if seen is not None and span.kind != "gap":
                fills = {"region": rgba(span.colour or GREY, 0.16), "bracket": rgba(GREY, 0.4), "open": "rgba(0,0,0,0)"}
                line = {"width": 1, "dash": "dot", "color": GREY} if span.kind == "open" else {"width": 0}
                base = {"type": "rect", "layer": "below", "fillcolor": fills[span.kind], "line": line}
                self.shapes.append(base | self._box(span.along, seen[0], seen[1], across))
        for rule in rules:
            look = rule.look
            if look.width:
                colour = _INK if look.colour == INK else look.colour
                stroke = {"color": colour, "width": look.width, "dash": look.dash}
                self.shapes.append(
                    {"type": "line", "line": stroke} | self._box(rule.along, rule.value, rule.value, across)
                )
            if rule.name and rule.along == "y":
                self.notes.append(self._named(rule))

    def _box(self, along: str, low: float, high: float, across: str) -> dict[str, Any]:
        if along == "x":
            return {"yref": across, "xref": self.x, "x0": low, "x1": high, "y0": 0, "y1": 1}
        return {"xref": f"{self.x} domain", "yref": self.y, "x0": 0, "x1": 1, "y0": low, "y1": high}

    def _named(self, rule: Rule) -> dict[str, Any]:
        if rule.at == "corner":
            return self._corner(f"- - {rule.name}")
        y = math.log10(rule.value) if self.place.panel.y.log else rule.value
        side = {"x": 0.005, "xanchor": "left"} if rule.at == "left" else {"x": 0.995, "xanchor": "right"}
        where = {"xref": f"{self.x} domain", "yref": self.y, "y": y, "yanchor": "bottom"}
        return _note(rule.name, 11) | side | where

    def remarks(self) -> None:
        """Say what the axes leave out, or that there is nothing for them to hold."""
        self.notes += [self._corner(over) for over in self.place.over]
        if self.place.y_limits.empty or self.place.x_limits.empty:
            where = {"xref": f"{self.x} domain", "x": 0.5, "yref": f"{self.y} domain", "y": 0.5}
            self.notes.append(where | {"text": "no finite values", "showarrow": False})

    def _corner(self, text: str) -> dict[str, Any]:
        where = {"xref": f"{self.x} domain", "yref": f"{self.y} domain", "x": 0.995, "y": 1}
        return _note(text, 11) | where | {"xanchor": "right", "yanchor": "top", "name": "corner"}


def _note(text: str, size: float) -> dict[str, Any]:
    return {"text": safe(text), "showarrow": False, "font": {"size": size}}


def _above(chart: Chart, place: Place) -> list[tuple[float, str, int]]:
    """What stands above a panel: place along the x axis in data units, text, height in pixels."""
    weights = list(chart.widths) or [1.0] * min(chart.columns, len(chart.panels))
    width = _WIDTH * (weights[place.column] / sum(weights))
    names: list[tuple[float, str]] = []
    more = names_above(chart, place)
    for span in (*place.panel.spans, *(chart.spans if place.row == 0 else ())):
        if span.along == "y" or (seen := place.seen(span)) is None:
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


def _room_above(place: Place, texts: Sequence[tuple[float, str, int]]) -> int:
    top = max((height + _LINE * (text.count("<br>") + 1) for _, text, height in texts), default=0)
    return top + 20 * bool(place.panel.title) + 40 * (place.x.opposite and place.shows_x)
