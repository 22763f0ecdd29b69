"""Marks of a chart drawn into matplotlib axes, and what the legend on paper shows of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .arrange import Place
from .spec import Band, Bars, Heat, Line, Look, Mark, Points, Scale, Text, numbers
from .theme import INK, VIRIDIS_ON_LIGHT, viridis

#: Matplotlib's names of the markers.
MARKERS: Mapping[str, str] = {
    "circle": "o",
    "diamond": "D",
    "square": "s",
    "triangle": "^",
    "down": "v",
    "star": "*",
    "cross": "x",
    "plus": "+",
    "x": "X",
}
DASHES: Mapping[str, Any] = {"solid": "-", "dash": (0, (4, 3)), "dot": (0, (1.2, 2)), "dashdot": (0, (4, 2, 1.2, 2))}
_POINTS = 0.55  # points of a marker's size for a pixel of the page
_STAR = 1.35  # times larger, since matplotlib's star fills little of its size
_SIDES: Mapping[str, tuple[str, str, float, float]] = {
    "above": ("center", "bottom", 0, 4),
    "below": ("center", "top", 0, -4),
    "left": ("right", "center", -4, 0),
    "right": ("left", "center", 4, 0),
    "centre": ("center", "center", 0, 0),
    "upper right": ("left", "bottom", 4, 4),
    "lower right": ("left", "top", 4, -4),
}


def draw(axes: Any, mark: Mark, place: Place, *, bold: bool) -> None:
    """Draw a mark into axes whose scales and limits are set.

    What is not ``bold``, of another seed than the one shown, is faint and without markers along lines.
    """
    if isinstance(mark, Points):
        _points(axes, mark, place, bold=bold)
    elif isinstance(mark, Band):
        x, low, high = numbers(mark.x), numbers(mark.low), numbers(mark.high)
        axes.fill_between(x, low, high, color=mark.look.colour, alpha=0.2, linewidth=0)
    elif isinstance(mark, Heat):
        _heat(axes, mark)
    elif isinstance(mark, Bars):
        _bars(axes, mark, place)
    elif isinstance(mark, Text):
        if mark.y is not None:
            _text(axes, mark)
    else:
        raise TypeError(f"cannot draw {type(mark).__name__}; allowed are Line, Points, Band, Heat, Bars, Text")


def plain(text: str) -> str:
    """A text of a chart without its tags, "<br>" as a new line."""
    return re.sub(r"</?[bi]>", "", text.replace("<br>", "\n"))


def add_colour_bar(figure: Figure, axes: Any, scale: Scale, values: Any = ()) -> None:
    """Add the colour bar of a scale at the right of `axes`, with its marked values."""
    bar = figure.colorbar(_mappable(scale, numbers(values)), ax=axes, pad=0.015, fraction=0.05, aspect=28)
    bar.set_label(scale.title)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    bar.ax.grid(visible=False)
    for mark in scale.marks:
        bar.ax.plot([0.0, 0.35], [mark, mark], transform=bar.ax.get_yaxis_transform(), color="white", linewidth=0.7)


def legend_handle(mark: Mark | Look, label: str) -> Artist:
    """What stands beside an entry in the legend."""
    look = mark if isinstance(mark, Look) else getattr(mark, "look", Look())
    colour = _first(look.colour)
    if isinstance(mark, Band | Bars):
        alpha = 0.2 if isinstance(mark, Band) else 1
        return Patch(label=label, facecolor=colour, edgecolor="white", linewidth=0, hatch=2 * look.hatch, alpha=alpha)
    marker = _first(look.marker)
    joined = isinstance(mark, Line) or (isinstance(mark, Look) and not marker)
    style: dict[str, Any] = {"color": colour, "linestyle": DASHES[look.dash] if joined else "none"}
    style |= {"linewidth": min(0.75 * look.width, 3), "alpha": max(look.opacity, 0.4)}
    if marker:
        edge = colour if _first(look.hollow) or not look.edge else "#333333"
        style |= {"marker": MARKERS[marker], "markersize": min(_POINTS * float(_first(look.size)), 6)}
        style["markersize"] *= _STAR if marker == "star" else 1
        style |= {"markerfacecolor": "white" if _first(look.hollow) else colour, "markeredgecolor": edge}
        style |= {"markeredgewidth": 0.9 if _first(look.hollow) or marker in ("cross", "plus") else 0.35}
    return Line2D([], [], label=label, **style)


def _points(axes: Any, mark: Points, place: Place, *, bold: bool) -> None:
    look, x, y = mark.look, numbers(mark.x), numbers(mark.y)
    alpha = look.opacity if bold else 0.22 * look.opacity
    if isinstance(mark, Line):
        width = 0.75 * look.width if bold else 0.5
        axes.plot(x, y, color=look.colour, lw=width, ls=DASHES[look.dash], alpha=alpha, zorder=3 if bold else 2)
        if not bold:
            return
    aside, up, down = mark.errors()
    if np.any(aside) or np.any(up) or np.any(down):
        if place.panel.y.log:
            down = np.where(y - down > 0, down, y - place.y_limits.low)
        bars = {"yerr": [down, up]} if np.any(up) or np.any(down) else {}
        bars |= {"xerr": aside} if np.any(aside) else {}
        colours = list(look.colour) if isinstance(look.colour, tuple) else look.colour
        axes.errorbar(x, y, fmt="none", ecolor=colours, elinewidth=0.8, capsize=1.6, capthick=0.8, alpha=alpha, **bars)
    _markers(axes, mark, x, y, alpha)
    for at, height, label in zip(x, y, mark.labels, strict=False):
        if label and np.isfinite(at) and np.isfinite(height):
            _beside(axes, label, (at, height), mark.side, fontsize=6.5)


def _beside(axes: Any, text: str, at: tuple[float, float], side: str, **look: Any) -> None:
    across, upright, right, rise = _SIDES[side]
    axes.annotate(plain(text), at, (right, rise), textcoords="offset points", ha=across, va=upright, **look)


def _markers(axes: Any, mark: Points, x: Any, y: Any, alpha: float) -> None:
    """Markers by shape, since matplotlib draws one shape at a time."""
    look, n = mark.look, len(x)
    given: tuple[Any, ...] = (look.marker, look.size, look.hollow, look.colour)
    kinds, sizes, hollow, colours = (value if isinstance(value, tuple) else (value,) * n for value in given)
    shown_at = [i for i in range(n) if kinds[i] and np.isfinite(x[i]) and np.isfinite(y[i])]
    for kind in dict.fromkeys(kinds[i] for i in shown_at):
        own = [i for i in shown_at if kinds[i] == kind]
        points = _POINTS * (_STAR if kind == "star" else 1)
        style: dict[str, Any] = {"marker": MARKERS[kind], "s": [(points * float(sizes[i])) ** 2 for i in own]}
        style |= {"alpha": alpha, "zorder": 4}
        if mark.values is not None and mark.scale is not None:
            values = numbers(mark.values)
            shown = _mappable(mark.scale, values)
            style |= {"c": values[own], "cmap": shown.cmap, "norm": shown.norm, "linewidths": 0}
        elif kind in ("cross", "plus"):
            style |= {"color": [colours[i] for i in own], "linewidths": 1.1}
        else:
            # what the shape at the end of a line says is seen better with an edge
            edged = look.edge or (isinstance(mark, Line) and isinstance(look.marker, tuple) and kind != "star")
            edge = [colours[i] if hollow[i] or not edged else "#333333" for i in own]
            style |= {"facecolors": ["white" if hollow[i] else colours[i] for i in own], "edgecolors": edge}
            style |= {"linewidths": [0.9 if hollow[i] else 0.4 if edged else 0 for i in own]}
        axes.scatter(x[own], y[own], **style)
    if mark.values is not None and mark.scale is not None:
        add_colour_bar(axes.figure, axes, mark.scale, mark.values)


def _mappable(scale: Scale, values: Any) -> ScalarMappable:
    known = values[np.isfinite(values)]
    low = scale.low if scale.low is not None else float(known.min()) if known.size else 0.0
    high = scale.high if scale.high is not None else float(known.max()) if known.size else 1.0
    high = high if high > low else low + 1
    colours = viridis(256, *VIRIDIS_ON_LIGHT)
    norm = LogNorm(low, high) if scale.log else Normalize(low, high)
    return ScalarMappable(norm=norm, cmap=ListedColormap(colours[::-1] if scale.reverse else colours))


def _heat(axes: Any, mark: Heat) -> None:
    z = numbers(mark.z)
    shown = _mappable(mark.scale, z)
    axes.grid(visible=False)
    axes.imshow(z, origin="lower", aspect="auto", cmap=shown.cmap, norm=shown.norm)
    add_colour_bar(axes.figure, axes, mark.scale, z)
    for i, row in enumerate(mark.labels):
        for j, label in enumerate(row):
            if label:
                colour = _ink_on(tuple(shown.to_rgba(z[i, j])))
                axes.text(j, i, plain(label), ha="center", va="center", fontsize=7, color=colour)


def _ink_on(colour: Any) -> str:
    """Black or white, whatever is read on a colour."""
    red, green, blue = to_rgb(colour)
    return INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def _bars(axes: Any, mark: Bars, place: Place) -> None:
    look, at, length, n = mark.look, numbers(mark.at), numbers(mark.length), len(mark.at)
    base, thick = np.broadcast_to(numbers(mark.base), n), np.broadcast_to(numbers(mark.thick), n)
    colours = list(look.colour) if isinstance(look.colour, tuple) else look.colour
    style: dict[str, Any] = {"color": colours, "alpha": look.opacity, "hatch": 2 * look.hatch, "edgecolor": "white"}
    style |= {"linewidth": 0.6 if mark.inside else 0, "zorder": 2}
    if mark.along == "x":
        axes.barh(at, length, height=thick, left=base, **style)
    else:
        axes.bar(at, length, width=thick, bottom=base, **style)
    inches = axes.figure.get_figwidth() * 0.85 / max(place.x_limits.high - place.x_limits.low, 1e-12)
    for i, label in enumerate(mark.labels):
        if not label or not np.isfinite(length[i]):
            continue
        if mark.inside:
            middle, wide = base[i] + length[i] / 2, length[i] if mark.along == "x" else thick[i]
            if len(label) * 0.055 < wide * inches:
                where = (middle, at[i]) if mark.along == "x" else (at[i], middle)
                ground = colours[i] if isinstance(colours, list) else colours
                clear = {"facecolor": ground, "edgecolor": "none", "pad": 0.8} if look.hatch else None
                form = {"ha": "center", "va": "center", "fontsize": 6.5, "color": _ink_on(ground), "bbox": clear}
                axes.text(*where, plain(label), **form)
            continue
        where = (base[i] + length[i], at[i]) if mark.along == "x" else (at[i], base[i] + length[i])
        _beside(axes, label, where, "right" if mark.along == "x" else "above", fontsize=6, annotation_clip=False)


def _text(axes: Any, mark: Text) -> None:
    look = {"fontsize": 7.5, "color": _first(mark.look.colour), "annotation_clip": False}
    for x, y, text in zip(numbers(mark.x), numbers(mark.y), mark.text, strict=True):
        _beside(axes, text, (x, y), mark.side, weight="bold" if text.startswith("<b>") else "normal", **look)


def _first(value: Any) -> Any:
    """The first value that says something, where an attribute differs from point to point."""
    return next((one for one in value if one), value[0] if value else "") if isinstance(value, tuple) else value
