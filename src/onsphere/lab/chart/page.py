"""A chart as plotly.js draws it in a page: traces and a layout as plain values, which the page's script completes.

The script (`report/templates/page.js`) chooses by ``meta`` what is shown of a seed or frame and the colours of dark
pages; the colour "ink" stands for that of the page's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import Any, Literal

import numpy as np

from onsphere.lab.report import page as report

from .arrange import Limits, Place, arranged, ragged
from .page_layout import Layout, axis_name, safe
from .spec import Band, Bars, Chart, Heat, Line, Look, Mark, Points, Scale, Side, Text, numbers
from .theme import INK, rgba, viridis

_SYMBOLS = {
    **{"triangle": "triangle-up", "down": "triangle-down", "": "circle"},
    **{"cross": "x-thin-open", "plus": "cross-thin-open"},
}
_SIDES = {
    "above": "top center",
    "below": "bottom center",
    "left": "middle left",
    "right": "middle right",
    "centre": "middle center",
    "upper right": "top right",
    "lower right": "bottom right",
}
_COLOURS = [[i / 16, colour] for i, colour in enumerate(viridis(17))]
_HATCH_EDGE = "rgba(255,255,255,0.6)"


def block(chart: Chart) -> report.Chart:
    """The chart as a block of the page."""
    slider = report.Slider(chart.frame_name, chart.frames, chart.frame) if len(chart.frames) > 1 else None
    return report.Chart(chart.id, figure(chart), chart.caption, chart.label, chart.seeds, chart.seed, slider)


def figure(chart: Chart) -> dict[str, Any]:
    """Traces and layout as plotly.js takes them."""
    layout = Layout(chart, arranged(chart))
    traces = [
        trace | {"xaxis": axis_name("x", place.leader), "yaxis": axis_name("y", number)}
        for number, place in enumerate(layout.places)
        for mark in place.panel.marks
        if chart.frames or not mark.frame
        for trace in _traces(mark, place, layout)
    ]
    return {"data": traces, "layout": layout.plain()}


def _traces(mark: Mark, place: Place, layout: Layout) -> list[dict[str, Any]]:
    look: Look = getattr(mark, "look", Look())
    meta: dict[str, Any] = {"legend": bool(mark.entry) and mark.listed, "dark": _plain(look.dark or look.colour)}
    meta |= {"seed": mark.seed} if mark.seed is not None else {}
    meta |= {"frame": mark.frame} if mark.frame is not None and len(layout.chart.frames) > 1 else {}
    base = {"type": "scatter", "name": safe(mark.entry), "legendgroup": mark.entry or "marks", "meta": meta}
    if isinstance(mark, Points):
        return [base | _points(mark, place, meta)]
    if isinstance(mark, Band):
        return _band(mark, base)
    if isinstance(mark, Heat):
        own = {"x": list(mark.x), "y": list(mark.y)} if ragged(place.panel.marks) else {}
        return [base | _heat(mark, layout.colour_bar(place)) | own]
    if isinstance(mark, Bars):
        return [base | _bars(mark)]
    if isinstance(mark, Text):
        return [] if mark.y is None else [base | _text(mark)]
    raise TypeError(f"cannot draw {type(mark).__name__}; allowed are Line, Points, Band, Heat, Bars, Text")


def _points(mark: Points, place: Place, meta: dict[str, Any]) -> dict[str, Any]:
    look, joined = mark.look, isinstance(mark, Line)
    marked = bool(look.marker) if isinstance(look.marker, str) else any(look.marker)
    modes = ["lines"] * joined + ["markers"] * marked + ["text"] * any(mark.labels)
    trace: dict[str, Any] = {"x": numbers(mark.x), "y": numbers(mark.y), "mode": "+".join(modes) or "none"}
    if joined:
        trace["line"] = {"color": look.colour, "width": look.width, "dash": look.dash}
        trace["opacity"] = look.opacity
        meta |= {"width": look.width} if mark.seed is not None and look.opacity == 1 else {}
    if marked:
        trace["marker"] = _marker(look, 1 if joined else look.opacity)
    if mark.values is not None and mark.scale is not None:
        meta.pop("dark")
        values, bar = numbers(mark.values), {"title": {"text": _broken(mark.scale.title)}, "thickness": 12}
        trace["marker"] |= {"color": values, **_coloured(mark.scale, "c", values)}
        trace["marker"] |= {"colorbar": bar | {"len": 0.6, "y": 0.4}}
    if any(mark.labels):
        trace |= _written(mark.labels, mark.side) | {"textfont": {"size": 10.5}}
    aside, up, down = mark.errors()
    for name, more, less, at, ends, log in (
        ("error_y", up, down, numbers(mark.y), place.y_limits, place.panel.y.log),
        ("error_x", aside, aside, numbers(mark.x), place.x_limits, place.x.log),
    ):
        if np.any(more) or np.any(less):
            trace[name] = _error(more, less, at, ends, log)
    if mark.pick:
        meta["pick"] = True
    return trace | _hover(mark, pick=mark.pick)


def _error(up: Any, down: Any, at: Any, ends: Limits, log: bool) -> dict[str, Any]:
    """Error bars; on a logarithmic axis none reaches zero, where it would not be drawn at all."""
    shown = np.where(at - down > 0, down, at - ends.low) if log else down
    bars = {"type": "data", "array": up, "thickness": 1.2, "width": 3}
    return bars if np.array_equal(up, shown) else bars | {"symmetric": False, "arrayminus": shown}


def _marker(look: Look, opacity: float) -> dict[str, Any]:
    kinds = look.marker if isinstance(look.marker, tuple) else (look.marker,)
    hollow = look.hollow if isinstance(look.hollow, tuple) else (look.hollow,) * len(kinds)
    kinds = kinds * len(hollow) if len(kinds) == 1 else kinds
    symbols = [
        (name := _SYMBOLS.get(kind, kind)) + ("-open" if empty and not name.endswith("-open") else "")
        for kind, empty in zip(kinds, hollow, strict=True)
    ]
    # plotly outlines filled markers of many sizes in white unless told not to, which would cut a line up
    thick = [(2 if name.endswith("-thin-open") else 1.5) * name.endswith("-open") for name in symbols]
    edge: dict[str, Any] = {"width": thick[0]}
    if len(set(thick)) > 1:  # the legend's marker has the mean width, and open ones their own colour
        edge = {"width": thick, "color": "rgba(0,0,0,0)"}
    edge = {"width": 0.5, "color": "#333333"} if look.edge and not any(hollow) else edge
    single = not isinstance(look.marker, tuple) and not isinstance(look.hollow, tuple)
    shape = {"symbol": symbols[0] if single else symbols, "size": _plain(look.size), "line": edge}
    return shape | {"color": _plain(look.colour), "opacity": opacity}


def _band(mark: Band, base: dict[str, Any]) -> list[dict[str, Any]]:
    assert isinstance(mark.look.colour, str)
    edge = base | {"x": numbers(mark.x), "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    lower, meta = base["meta"] | {"legend": False}, base["meta"]
    fill = {"fill": "tonexty", "fillcolor": rgba(mark.look.colour, 0.2)}
    return [edge | {"y": numbers(mark.low), "meta": lower}, edge | fill | {"y": numbers(mark.high), "meta": meta}]


def _heat(mark: Heat, bar: dict[str, Any]) -> dict[str, Any]:
    z = numbers(mark.z)
    trace: dict[str, Any] = {"type": "heatmap", "x": np.arange(len(mark.x)), "y": np.arange(len(mark.y)), "z": z}
    trace |= _coloured(mark.scale, "z", z) | {"xgap": 2, "ygap": 2}
    trace["colorbar"] = bar | {"title": {"text": _broken(mark.scale.title)}}
    if mark.labels:
        trace |= {"text": [[safe(text) for text in row] for row in mark.labels], "texttemplate": "%{text}"}
    if not mark.hover:
        return trace | {"hoverinfo": "skip"}
    said = _template(mark.hover, {"x": "customdata[0]", "y": "customdata[1]"})
    return trace | {"customdata": [[[safe(x), safe(y)] for x in mark.x] for y in mark.y], "hovertemplate": said}


def _coloured(scale: Scale, which: Literal["c", "z"], values: Any) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    ends = [
        float(given if given is not None else pick(known) if known.size else 0)
        for given, pick in ((scale.low, np.min), (scale.high, np.max))
    ]
    shown = {"colorscale": _COLOURS, "reversescale": scale.reverse, "showscale": True}
    return shown | {f"{which}min": ends[0], f"{which}max": ends[1]}


def _bars(mark: Bars) -> dict[str, Any]:
    look, flat = mark.look, mark.along == "x"
    marker: dict[str, Any] = {"color": _plain(look.colour), "line": {"width": 0}, "opacity": look.opacity}
    if look.hatch:
        pattern = {"shape": look.hatch, "size": 6, "solidity": 0.3, "fgcolor": _HATCH_EDGE}
        marker["pattern"] = pattern | {"fillmode": "overlay"}
    across, along = ("y", "x") if flat else ("x", "y")
    trace = {
        **{"type": "bar", "orientation": "h" if flat else "v", "width": _plain(mark.thick), "marker": marker},
        **{across: numbers(mark.at), along: numbers(mark.length)},
        **{"text": [safe(text) for text in mark.labels], "textfont": {"size": 10.5}, "textangle": 0},
        **{"textposition": "inside" if mark.inside else "outside", "insidetextanchor": "middle"},
        **{"constraintext": "inside" if mark.inside else "none", "cliponaxis": False},
    }
    return trace | ({"base": _plain(mark.base)} if np.any(numbers(mark.base)) else {}) | _hover(mark)


def _text(mark: Text) -> dict[str, Any]:
    font = {"size": 11.5} | ({} if mark.look.colour == INK else {"color": mark.look.colour})
    trace = {"x": numbers(mark.x), "y": numbers(mark.y), "mode": "text", "textfont": font, "hoverinfo": "skip"}
    return trace | _written(mark.text, mark.side)


def _written(texts: Sequence[str], side: Side) -> dict[str, Any]:
    return {"text": [safe(text) for text in texts], "textposition": _SIDES[side], "cliponaxis": False}


def _hover(mark: Points | Bars, *, pick: bool = False) -> dict[str, Any]:
    if not isinstance(mark.hover, str):
        texts = [safe(text) for text in mark.hover]
        # texts beside the points have the same name, so what hovering says travels as a column then
        said: dict[str, Any] = {"hovertext": texts, "hovertemplate": "%{hovertext}<extra></extra>"}
        return said | ({"customdata": list(range(len(texts)))} if pick else {})
    if not mark.hover:
        return {"hoverinfo": "skip"}
    names = list(mark.columns)
    if pick and names:
        raise ValueError("a mark that is picked carries its frames as its one column; give ready texts as hover")
    many = len(names) > 1
    places = {name: f"customdata[{i}]" if many else "customdata" for i, name in enumerate(names)}
    found: dict[str, Any] = {"hovertemplate": _template(mark.hover, places)}
    columns = [[safe(v) if isinstance(v, str) else v for v in mark.columns[name]] for name in names]
    if columns:
        found |= {"customdata": [list(row) for row in zip(*columns, strict=True)] if many else columns[0]}
    return found | ({"customdata": list(range(len(mark.x)))} if pick else {})  # type: ignore[union-attr]


def _template(template: str, places: dict[str, str]) -> str:
    """A template over names, as plotly.js reads it."""
    parts = []
    for literal, name, form, _ in Formatter().parse(template):
        parts.append(safe(literal).replace("%{", "%&#123;"))
        if name is not None:
            parts.append("%{" + places.get(name, name) + (f":{form}" if form else "") + "}")
    return "".join(parts) + "<extra></extra>"


def _broken(title: str) -> str:
    """A title of a colour bar in lines of at most some fourteen letters."""
    lines = [""]
    for word in title.split(" "):
        fits = len(lines[-1]) + len(word) < 15
        lines[-1:] = [f"{lines[-1]} {word}".strip()] if fits else [lines[-1], word]
    return "<br>".join(safe(line) for line in lines if line)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
