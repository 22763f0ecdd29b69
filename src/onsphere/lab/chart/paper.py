"""A chart as matplotlib draws it, for slides and papers: PNG and SVG files that come out the same every time."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .arrange import Limits, Place, arranged, levels, names_above, ticks_of
from .paper_marks import DASHES, add_colour_bar, draw, legend_handle, plain
from .spec import Axis, Chart, Look, Mark, Panel, Rule, Span
from .style import figure_title, log_ticks, new_figure, number_ticks, panel_letter, save_figure, style
from .theme import GREY

_LETTER = 0.06  # inches a letter of the small type
_LINE = 9.5  # points a line of it
_NAME = 0.09  # inches that a name beside an axis needs
_RIBBON = 0.36  # inches


def save_figures(charts: Sequence[Chart], subtitle: str, folder: Path) -> None:
    """Write a page's charts as ``figures/NAME.png`` and ``.svg`` in the run's folder, the subtitle below each title."""
    for chart in charts:
        for name, frame in chart.figures:
            with style():
                made = figure(chart, subtitle, frame)
            save_figure(made, folder / "figures" / name)


def figure(chart: Chart, subtitle: str = "", frame: int = 0) -> Figure:
    """Draw a chart, of its slider's frames that one; call inside `style.style()`.

    Of several seeds the one shown at first is bold, the others faint; the subtitle stands below the title.
    """
    chart = replace(chart, panels=[replace(panel, marks=_shown(chart, panel, frame)) for panel in chart.panels])
    places = arranged(chart)
    rows, columns = max(p.row for p in places) + 1, max(p.column for p in places) + 1
    heights = [max(p.panel.height for p in places if p.row == row) for row in range(rows)]
    ribbon = columns == 1 and any(span.name and span.kind in ("region", "gap") for span in chart.spans)
    width, height = chart.size or _size(rows, columns, heights, ribbon)
    entries = _entries(chart)
    legend_columns, legend_height = _legend_size(entries, chart, width)
    height += legend_height
    made = new_figure(width, height)
    figure_title(made, plain(chart.title), _subtitle(chart, subtitle, frame, letters=int(15.5 * width)))
    inch = (height - legend_height - 1.1 - _RIBBON * ribbon) / sum(heights)
    ratios = [*[_RIBBON] * ribbon, *(inch * part for part in heights)]
    grid = made.add_gridspec(rows + ribbon, columns, height_ratios=ratios, width_ratios=list(chart.widths) or None)
    axes: list[Any] = []
    for place in places:
        shared = {"sharex": axes[place.leader]} if place.leader < len(axes) else {}
        shared |= {"sharey": axes[len(axes) - place.column]} if chart.share_y and place.column else {}
        axes.append(made.add_subplot(grid[place.row + ribbon, place.column], **shared))
    inches = 0.86 * width / columns
    for own, place in zip(axes, places, strict=True):
        _panel(own, place, chart, inches=inches, inch=inch * place.panel.height, ribbon=ribbon)
    for number, (own, place) in enumerate(zip(axes, places, strict=True)):
        if columns > 1 or place.panel.title:
            lines = max(one.lines_above for one, other in zip(axes, places, strict=True) if other.row == place.row)
            _heading(own, place, number, inches, lines)
    if ribbon:
        strip: Any = made.add_subplot(grid[0, :], sharex=axes[0])
        _ribbon(strip, places[0], chart.spans, inches)
    if chart.scale is not None:
        add_colour_bar(made, axes, chart.scale)
    if entries:
        handles = [legend_handle(one, plain(name)) for name, one in entries.items()]
        title = plain(chart.legend) if chart.legend and chart.scale is None else None
        look: dict[str, Any] = {"ncols": legend_columns, "fontsize": 7.5, "title_fontsize": 7.5}
        made.legend(handles=handles, loc="outside lower center", title=title, **look)
    made.align_ylabels([own for own, place in zip(axes, places, strict=True) if place.column == 0])
    return made


def _shown(chart: Chart, panel: Panel, frame: int) -> list[Mark]:
    """The marks of a frame, which alone the axes of its figure have to hold."""
    alone = chart.seed is not None and not chart.others
    shown = [mark for mark in panel.marks if mark.frame in (None, frame)]
    return [mark for mark in shown if mark.seed in (None, chart.seed)] if alone else shown


def _size(rows: int, columns: int, heights: Sequence[float], ribbon: bool) -> tuple[float, float]:
    """Inches that the panels need."""
    if columns == 1:
        return (6.4, 4.4) if rows == 1 else (7.0, 1.3 + 1.75 * sum(heights) + _RIBBON * ribbon)
    return min(3.1 * columns + 0.6, 9.4), 1.2 + 2.5 * sum(heights)


def _subtitle(chart: Chart, subtitle: str, frame: int, *, letters: int) -> str:
    parts = [subtitle] if subtitle else []
    if chart.frames:
        # a frame of several words, such as "mean over seeds", says itself what it is
        shown = chart.frames[frame]
        parts.append(shown if " " in shown else f"{chart.frame_name} {shown}".strip())
    if chart.seed is not None and chart.seeds:
        others = len(chart.seeds) - 1 if chart.others else 0
        parts.append(f"seed {chart.seed}" + (f", thin: {others} more" if others else ""))
    lines: list[str] = []
    for part in parts:
        joined = " · ".join([*lines[-1:], part])
        lines[-1:] = [joined] if len(joined) <= letters else [*lines[-1:], part]
    return "\n".join([*lines, *([plain(chart.note)] if chart.note else [])])


def _panel(axes: Any, place: Place, chart: Chart, *, inches: float, inch: float, ribbon: bool) -> None:
    panel = place.panel
    ticks = ticks_of(panel.y, panel.marks, "y")
    if ticks:  # every so many of them, so that no name runs into another
        ticks = dict(list(ticks.items())[:: math.ceil(_NAME * len(ticks) / inch)])
    _scale(axes, "x", place.x, place.x_limits, ticks_of(place.x, panel.marks, "x"))
    _scale(axes, "y", panel.y, place.y_limits, ticks)
    for span in (*panel.spans, *chart.spans):
        if (seen := place.seen(span)) is not None:
            _shade(axes, replace(span, low=seen[0], high=seen[1]))
    for mark in panel.marks:
        draw(axes, mark, place, bold=chart.seed is None or mark.seed in (None, chart.seed))
    for rule in (*panel.rules, *chart.rules):
        _rule(axes, rule)
    for which, axis, ends in (("x", place.x, place.x_limits), ("y", panel.y, place.y_limits)):
        low, high = (ends.high, ends.low) if axis.reverse else (ends.low, ends.high)
        (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    for over in place.over:
        _corner(axes, over)
    if place.x_limits.empty or place.y_limits.empty:
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center", fontsize=8)
    if place.shows_y:
        axes.set_ylabel(_upright(plain(panel.y.title), max(int(inch * 14), 12)))
    axes.tick_params(labelleft=place.shows_y, labelbottom=place.shows_x and not place.x.opposite)
    if place.shows_x:
        axes.set_xlabel(plain(place.x.title))
        if place.x.opposite:
            axes.xaxis.set_label_position("top")
            axes.tick_params(axis="x", which="both", top=True, bottom=False)
            axes.tick_params(axis="x", labeltop=True)
    if place.x.also is not None and place.row == 0:
        _second(axes, place.x)
    _above(axes, place, chart, inches, ribbon=ribbon)


def _upright(title: str, letters: int) -> str:
    """The title of a y axis in lines that fit, its unit on a line of its own where there are several."""
    title = title.replace(" (", "\n(", 1) if len(title) > letters else title
    return "\n".join(textwrap.fill(line, letters) for line in title.split("\n"))


def _scale(axes: Any, which: Literal["x", "y"], axis: Axis, ends: Limits, ticks: dict[float, str] | None) -> None:
    own = axes.xaxis if which == "x" else axes.yaxis
    if axis.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(ends.low, ends.high)
    if ticks is not None:
        own.set_ticks(list(ticks), [plain(name) for name in ticks.values()], minor=False)
        own.set_ticks([], minor=True)
        axes.spines["bottom" if which == "x" else "left"].set_visible(bool(ticks))
        if not axis.log:
            axes.grid(visible=False, axis=which)
        if len(ticks) > 20:
            own.set_tick_params(labelsize=6.5, length=0)
    elif axis.log:
        log_ticks(own)
    elif which == "x":
        axes.locator_params(axis="x", nbins=6)


def _second(axes: Any, axis: Axis) -> None:
    """A second scale above the panel, the axis times a factor."""
    assert axis.also is not None
    title, factor = axis.also
    above = axes.secondary_xaxis("top", functions=(lambda value: value * factor, lambda value: value / factor))
    above.set_xlabel(title)
    if axis.log:
        number_ticks(above.xaxis)


def _shade(axes: Any, span: Span) -> None:
    shade = axes.axvspan if span.along == "x" else axes.axhspan
    if span.kind == "region":
        shade(span.low, span.high, color=span.colour or GREY, alpha=0.13, linewidth=0, zorder=0)
    elif span.kind != "gap":
        shade(span.low, span.high, zorder=0.5, **_hatched(span))


def _hatched(span: Span) -> dict[str, Any]:
    sure = span.kind == "bracket"
    look = {"facecolor": "#9a9a9a" if sure else "none", "edgecolor": "#555555", "alpha": 0.35, "hatch": "////"}
    return look | {"linewidth": 0 if sure else 1.0, "linestyle": "-" if sure else "--"}


def _rule(axes: Any, rule: Rule) -> None:
    look = rule.look
    if look.width:
        line = axes.axhline if rule.along == "y" else axes.axvline
        line(rule.value, color=look.colour, lw=0.75 * look.width, ls=DASHES[look.dash], zorder=2)
    if not rule.name or rule.along == "x":
        return
    if rule.at == "corner":
        _corner(axes, f"- - {plain(rule.name)}")
        return
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 7.5}
    at, side = (0.008, "left") if rule.at == "left" else (0.992, "right")
    axes.annotate(plain(rule.name), (at, rule.value), xytext=(0, 2.5), ha=side, zorder=5, **place)


def _corner(axes: Any, text: str) -> None:
    ground = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
    place: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "va": "top", "zorder": 5}
    axes.annotate(text, (0.985, 0.985), fontsize=7.5, bbox=ground, **place)


def _above(axes: Any, place: Place, chart: Chart, inches: float, *, ribbon: bool) -> None:
    """Names of rules and spans above a panel, as high as it takes for none to run into another."""
    first = place.row == 0
    spans = [*place.panel.spans, *(chart.spans if first and not ribbon else ())]
    texts = names_above(chart, place)
    for span in spans:
        if span.along == "x" and (seen := place.seen(span)) is not None:
            texts += [(seen[2], text) for text in (span.name, span.numbers) if text]
    widths = [_LETTER * len(plain(text)) / inches for _, text in texts]
    rows = levels([place.fraction(value) for value, _ in texts], widths)
    inside = first and place.x.also is not None  # where the numbers of a second scale stand above the panel
    where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 7.5}
    where |= {"ha": "left", "va": "top"} if inside else {"ha": "center", "va": "bottom"}
    for (value, text), row in zip(texts, rows, strict=True):
        at = (4, -2 - _LINE * row) if inside else (0, 2 + _LINE * row)
        axes.annotate(plain(text), (value, 1), at, weight="bold" if text.startswith("<b>") else "normal", **where)
    axes.lines_above = 0 if inside else max(rows, default=-1) + 1


def _heading(axes: Any, place: Place, number: int, inches: float, lines: int) -> None:
    title = plain(place.panel.title or place.panel.y.title).replace("\n", " ")
    letters = max(int(inches / 0.075), 12)
    panel_letter(axes, "abcdefghijkl"[number % 12], textwrap.fill(title, letters))
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=9, pad=6 + _LINE * lines)


def _ribbon(axes: Any, place: Place, spans: Sequence[Span], inches: float) -> None:
    """Names of the stretches on a strip above the panels, numbers of the brackets over it."""
    axes.set_ylim(0, 1)
    axes.axis("off")
    texts = []
    for span in spans:
        if (seen := place.seen(span)) is None:
            continue
        low, high, middle = seen
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": "#888888", "linestyle": "--", "linewidth": 0.8}
        if span.kind == "region":
            look = {"color": span.colour or GREY, "alpha": 0.45, "linewidth": 0}
        elif span.kind != "gap":
            look = _hatched(span)
        if span.kind != "open":
            axes.add_patch(Rectangle((low, 0), high - low, 0.52, **look))
        room = (place.fraction(high) - place.fraction(low)) * inches
        if span.name:
            text = span.name if len(span.name) * 0.075 < room else span.name.replace(" ", "\n")
            longest = max(len(line) for line in text.split("\n"))
            size = float(np.clip(room / longest / 0.0088, 5.0, 7.5 if "\n" in text else 8.5))
            form: dict[str, Any] = {"style": "italic"} if span.kind == "gap" else {"weight": "bold"}
            axes.text(middle, 0.26, text, ha="center", va="center", fontsize=size, linespacing=0.95, **form)
        if span.numbers:
            texts.append((middle, span.numbers))
    rows = levels([place.fraction(at) for at, _ in texts], [(_LETTER * len(t) + 0.08) / inches for _, t in texts])
    for (at, text), row in zip(texts, rows, strict=True):
        where: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 8}
        axes.annotate(text, (at, 0.58), (0, (_LINE + 1) * row), **where)


def _entries(chart: Chart) -> dict[str, Mark | Look]:
    """What the legend lists, by name; where there is a colour scale only what shapes mean."""
    shown: dict[str, Mark | Look] = {}
    for mark in (mark for panel in chart.panels for mark in panel.marks if chart.scale is None):
        if mark.entry and mark.listed:
            shown.setdefault(mark.entry, mark)
    return shown | dict(chart.keys)


def _legend_size(entries: Collection[str], chart: Chart, width: float) -> tuple[int, float]:
    """Columns of the legend, and its height in inches."""
    if not entries:
        return 1, 0
    sizes = [0.062 * len(name) + 0.5 for name in entries]
    # matplotlib fills column after column, the first ones with one more where they are not even
    fits = (n for n in range(len(sizes), 0, -1) if sum(map(max, np.array_split(sizes, n))) <= width)
    columns = next(fits, 1)
    return columns, 0.15 * (math.ceil(len(entries) / columns) + bool(chart.legend and chart.scale is None)) + 0.1
