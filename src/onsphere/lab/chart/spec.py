"""A chart said once: panels of marks over axes; `page` draws it for the browser, `paper` for slides and papers.

    Chart -> Panel, ... -> Line, Points, Band, Heat, Bars, Text      what is drawn, in data units
    Rule, Span                                                       lines across a panel, stretches of an axis
    Axis, Scale                                                      what numbers and colours mean
    Look                                                             colour, line, marker; of a mark or of every point
    entry, seed, frame of a mark                                     where the legend lists it, when it is shown

Nothing here knows plotly or matplotlib, so a test reads a chart as it reads any dataclass. Missing numbers are None
or NaN. Texts may hold the tags ``<b> <i> <br>``; everything else in them is escaped when the page is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any, Literal

import numpy as np

from .theme import INK, INK_ON_DARK

__all__ = [
    "Axis",
    "Band",
    "Bars",
    "Chart",
    "Dash",
    "Heat",
    "Line",
    "Look",
    "Mark",
    "Marker",
    "Panel",
    "Points",
    "Rule",
    "Scale",
    "Side",
    "Span",
    "Text",
    "literal",
    "numbers",
]

Marker = Literal["", "circle", "diamond", "square", "triangle", "down", "star", "cross", "plus", "x"]
Dash = Literal["solid", "dash", "dot", "dashdot"]
Side = Literal["above", "below", "left", "right", "centre"]


@dataclass(frozen=True)
class Look:
    """How a mark looks; what may differ from point to point is a tuple with an entry for each.

    Attributes:
        colour: ``#rrggbb`` on light ground.
        dark: The same on dark ground; empty for the same colour.
        width: Of the line, in pixels of the page.
        dash: Of the line.
        marker: Shape of the points; "" draws none.
        size: Of the markers, in pixels of the page.
        hollow: Whether markers are filled with the ground.
        edge: Whether filled markers have a thin dark edge, so that they stand out from one another.
        opacity: From 0 to 1.
        hatch: Pattern of bars, "/" or "x", so that colour is not the only sign.
    """

    colour: str | tuple[str, ...] = INK
    dark: str | tuple[str, ...] = ""
    width: float = 1.6
    dash: Dash = "solid"
    marker: Marker | tuple[Marker, ...] = ""
    size: float | tuple[float, ...] = 7
    hollow: bool | tuple[bool, ...] = False
    edge: bool = False
    opacity: float = 1
    hatch: str = ""

    def but(self, **changes: Any) -> Look:
        """The same with some attributes changed."""
        return replace(self, **changes)

    def ends(self, points: int, first: Marker, last: Marker) -> Look:
        """A line of so many points whose two ends bear markers of their own."""
        inner = max(points - 2, 0)
        none: list[Marker] = [""] * inner
        return self.but(marker=(first, *none, last)[:points], size=(12.0, *(3.0,) * inner, 9.0)[:points])


#: Lines and texts in the colour of the page's text.
INKED = Look(INK, INK_ON_DARK)


@dataclass(frozen=True)
class Axis:
    """An axis of a panel; without a range it holds everything that is plotted, with a margin.

    Attributes:
        title: What the numbers are, with their unit.
        log: Whether it is logarithmic; what is not positive is left out then.
        range: Ends in data units. The range is widened to hold the data unless `over` says what it leaves out.
        over: What is left out by the range, such as "divergent runs above"; written where something is.
        holds: Values that the range includes in any case; at such an end there is no margin.
        ticks: Values and their names, for axes that are no scale or have few values.
        reverse: Whether values grow to the left or downwards.
        opposite: Whether numbers and title of an x axis stand above the panel.
        also: Title and factor of a second scale that figures on paper print above the panel.
    """

    title: str
    log: bool = False
    range: tuple[float, float] | None = None
    over: str = ""
    holds: tuple[float, ...] = ()
    ticks: Mapping[float, str] | None = None
    reverse: bool = False
    opposite: bool = False
    also: tuple[str, float] | None = None


@dataclass(frozen=True)
class Scale:
    """What the colours of the viridis scale mean.

    Attributes:
        title: Of the colour bar.
        low: Value of the first colour; None for the smallest there is.
        high: Value of the last colour; None for the largest there is.
        log: Whether colours follow the logarithm.
        reverse: Whether large values are dark.
        marks: Values that are marked in the colour bar.
    """

    title: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    reverse: bool = False
    marks: Sequence[float] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Mark:
    """What all marks share.

    Attributes:
        entry: The legend's entry, which switches all marks that name it; "" for none.
        listed: Whether the legend may take the mark's look for that entry.
        seed: Shown while this seed is selected; on paper the chart's seed is bold and others are faint.
        frame: Shown while the slider is at this frame.
    """

    entry: str = ""
    listed: bool = True
    seed: int | None = None
    frame: int | None = None

    def reach(self) -> tuple[list[Any], list[Any]]:
        """All that the mark covers along x and along y, as arrays: what a range has to hold."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Points(Mark):
    """Markers at points, with error bars where there are errors.

    Attributes:
        x: [n] where.
        y: [n] where.
        look: How they look.
        hover: What resting the pointer on a point says: a ready text for each, or one template over the names ``x``,
            ``y`` and those of `columns`, such as ``"step {x:.0f} · loss {y:.3g} · {reason}"``; "" for nothing.
        columns: More values for the template, [n] each.
        error: [n] lengths of error bars along y.
        error_down: [n] lengths downwards, if they differ.
        error_x: [n] lengths along x.
        labels: [n] texts beside the points, "" for none.
        side: On which side of the points the labels stand.
        values: [n] numbers that colour the markers by `scale`.
        scale: What those colours mean.
        pick: Whether a click on point i moves the slider to frame i.

    Raises:
        ValueError: Something has not as many entries as there are points, or a template names an unknown column.
    """

    x: Any
    y: Any
    look: Look = Look(marker="circle")
    hover: str | Sequence[str] = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    error: Any = None
    error_down: Any = None
    error_x: Any = None
    labels: Sequence[str] = ()
    side: Side = "right"
    values: Any = None
    scale: Scale | None = None
    pick: bool = False

    def __post_init__(self) -> None:
        check(self, "x", ("y", "error", "error_down", "error_x", "labels", "values"))
        for name in ("colour", "dark", "marker", "size", "hollow"):
            value = getattr(self.look, name)
            if isinstance(value, tuple) and len(value) != len(self.x):
                raise ValueError(f"look.{name} has {len(value)} entries for {len(self.x)} points; give one for each")

    def reach(self) -> tuple[list[Any], list[Any]]:
        """Points and the ends of their error bars."""
        x, y = numbers(self.x), numbers(self.y)
        aside, up, down = self.errors()
        return [x - aside, x + aside], [y - down, y + up]

    def errors(self) -> tuple[Any, Any, Any]:
        """[n] each: lengths of the error bars along x, upwards and downwards, 0 where there is none."""
        given = (self.error_x, self.error, self.error if self.error_down is None else self.error_down)
        bars = [np.zeros(len(self.x)) if one is None else np.nan_to_num(numbers(one)) for one in given]
        return bars[0], bars[1], bars[2]


@dataclass(frozen=True, eq=False)
class Line(Points):
    """A curve through points, with markers, error bars and labels where there are some."""

    look: Look = Look()


@dataclass(frozen=True, eq=False)
class Band(Mark):
    """The area between two curves over x, each [n]."""

    x: Any
    low: Any
    high: Any
    look: Look = Look()

    def __post_init__(self) -> None:
        check(self, "x", ("low", "high"))

    def reach(self) -> tuple[list[Any], list[Any]]:
        """Both curves."""
        return [numbers(self.x)], [numbers(self.low), numbers(self.high)]


@dataclass(frozen=True, eq=False)
class Heat(Mark):
    """A map of coloured fields.

    Attributes:
        x: [n] names of the columns.
        y: [m] names of the rows, from below.
        z: [m, n] values.
        scale: What the colours mean.
        labels: [m, n] texts in the fields; "<br>" breaks a line.
        hover: A template over ``x``, ``y``, ``z``.
    """

    x: Sequence[str]
    y: Sequence[str]
    z: Any
    scale: Scale
    labels: Sequence[Sequence[str]] = ()
    hover: str = ""

    def __post_init__(self) -> None:
        given, wanted = np.shape(numbers(self.z)), (len(self.y), len(self.x))
        if given != wanted:
            raise ValueError(f"z has shape {given}, the names ask for {wanted}; give a row for each of y")
        if self.labels and [len(row) for row in self.labels] != [len(self.x)] * len(self.y):
            raise ValueError(f"labels do not have the shape {wanted} of the map; give a text for each field")
        check_template(self.hover, ("x", "y", "z"))

    def reach(self) -> tuple[list[Any], list[Any]]:
        """Fields of size one around 0, 1, 2, ..."""
        return [np.array([-0.5, len(self.x) - 0.5])], [np.array([-0.5, len(self.y) - 0.5])]


@dataclass(frozen=True, eq=False)
class Bars(Mark):
    """Bars, or rectangles where `base` and `thick` differ from bar to bar.

    Attributes:
        at: [n] middles, across the bars.
        length: [n] lengths.
        look: Colour and hatch.
        along: The axis along which they grow.
        base: Where they begin, a number or [n]; 0 is the end of a logarithmic axis.
        thick: Their size across, a number or [n].
        labels: [n] texts.
        inside: Whether labels stand inside the bars, where they fit, or behind their ends.
        hover: As of `Points`; ``x`` and ``y`` are the middle and the end in the chart's axes.
        columns: As of `Points`.
    """

    at: Any
    length: Any
    look: Look = Look()
    along: Literal["x", "y"] = "y"
    base: Any = 0
    thick: Any = 0.8
    labels: Sequence[str] = ()
    inside: bool = False
    hover: str | Sequence[str] = ""
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, "at", ("length", "labels"))

    def reach(self) -> tuple[list[Any], list[Any]]:
        """All four sides of the bars."""
        at, half, base = numbers(self.at), numbers(self.thick) / 2, numbers(self.base)
        across, grown = [at - half, at + half], [base + 0 * at, base + numbers(self.length)]
        return (across, grown) if self.along == "y" else (grown, across)


@dataclass(frozen=True, eq=False)
class Text(Mark):
    """Texts at places.

    Attributes:
        x: [n] where.
        y: [n] where.
        text: [n] what.
        side: On which side of the places.
    """

    x: Any
    y: Any
    text: Sequence[str]
    side: Side = "centre"
    look: Look = INKED

    def __post_init__(self) -> None:
        check(self, "x", ("y", "text"))

    def reach(self) -> tuple[list[Any], list[Any]]:
        """[n] places."""
        return [numbers(self.x)], [numbers(self.y)]


@dataclass(frozen=True)
class Rule:
    """A line across a panel at a value of one axis; the ranges hold it.

    Attributes:
        value: Where.
        name: Written on the line (along y) or above the panel (along x).
        along: The axis that the value belongs to.
        at: Where the name of a level stands: at the left or right end of the line, or in the corner above the data.
        look: Colour, width and dash; width 0 draws the name alone, such as the class of a value above the panel.
    """

    value: float
    name: str = ""
    along: Literal["x", "y"] = "y"
    at: Literal["left", "right", "corner"] = "left"
    look: Look = Look(INK, INK_ON_DARK, width=1.2, dash="dash")


@dataclass(frozen=True)
class Span:
    """A stretch of an axis behind the marks, cut off at the ends of the range.

    Attributes:
        low: Where it begins.
        high: Where it ends.
        colour: Of a region.
        name: Written above the panel.
        numbers: Written above the name.
        kind: "region" (tinted), "bracket" (grey, hatched on paper), "open" (a dotted frame: not certain) or "gap"
            (a name in italics and no tint).
        along: The axis it is a stretch of.
    """

    low: float
    high: float
    colour: str = ""
    name: str = ""
    numbers: str = ""
    kind: Literal["region", "bracket", "open", "gap"] = "region"
    along: Literal["x", "y"] = "x"


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        y: Its y axis.
        marks: What is drawn, in this order.
        x: Its own x axis, where it is not the chart's.
        title: Heading.
        rules: Lines across this panel.
        spans: Stretches of its axes.
        height: Relative to the other rows.
    """

    y: Axis
    marks: Sequence[Mark]
    x: Axis | None = None
    title: str = ""
    rules: Sequence[Rule] = ()
    spans: Sequence[Span] = ()
    height: float = 1


@dataclass(frozen=True)
class Chart:
    """A chart of one or more panels.

    Attributes:
        id: Unique in the page, such as "map-chart".
        title: Heading of the figure on paper.
        x: The x axis of all panels that have none of their own; those below one another share it.
        panels: From the upper left, row by row.
        caption: What to look at, below the chart of the page.
        label: What the chart shows, for screen readers.
        legend: Heading of the legend.
        columns: Panels in a row.
        widths: Of the columns, relative to one another.
        share_y: Whether the panels of a row have one y axis.
        rules: Lines across all panels.
        spans: Stretches of the x axis of all panels, named above the first.
        scale: What the colours of lines mean; on paper its colour bar replaces the legend's entries.
        seeds: Seeds to choose from.
        seed: The seed shown at first, and boldly on paper; None for all.
        frames: Names of the slider's frames.
        frame_name: What changes from frame to frame.
        frame: Index of the frame that is shown first.
        keys: Entries that the legend on paper has besides: what shapes of markers mean.
        note: Remark that figures on paper bear below, since they have no caption.
        file: Name of the figure without suffix; from the id if empty.
        prints: File name and frame of each figure, where not the first frame alone is printed.
        height: Of the chart on the page, in pixels; 0 for what its panels need.
        size: Width and height of the figure on paper, in inches; None for what its panels need.

    Raises:
        ValueError: There is no panel, or a frame that a mark or the start names is none of the slider's.
    """

    id: str
    title: str
    x: Axis
    panels: Sequence[Panel]
    caption: str
    label: str
    legend: str = ""
    columns: int = 1
    widths: Sequence[float] = ()
    share_y: bool = False
    rules: Sequence[Rule] = ()
    spans: Sequence[Span] = ()
    scale: Scale | None = None
    seeds: Sequence[int] = ()
    seed: int | None = None
    frames: Sequence[str] = ()
    frame_name: str = ""
    frame: int = 0
    keys: Sequence[tuple[str, Look]] = ()
    note: str = ""
    file: str = ""
    prints: Sequence[tuple[str, int]] = ()
    height: int = 0
    size: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.panels:
            raise ValueError(f"the chart {self.id} has no panel; give it at least one")
        last = len(self.frames) - 1
        named = {mark.frame for panel in self.panels for mark in panel.marks} | {frame for _, frame in self.prints}
        wrong = sorted(frame for frame in named if frame is not None and not 0 <= frame <= last)
        if wrong or (self.frames and not 0 <= self.frame <= last):
            raise ValueError(f"the chart {self.id} shows frames {wrong or self.frame} of {last + 1}; name more frames")

    @property
    def figures(self) -> list[tuple[str, int]]:
        """File name and frame of every figure on paper."""
        return list(self.prints) or [(self.file or self.id.removesuffix("-chart"), 0)]


def numbers(values: Any) -> Any:
    """An array of floats; None and infinities become NaN, which is not drawn."""
    found = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def literal(text: str) -> str:
    """A free text, such as a name that a user gave, as it may stand in a template of `hover`."""
    return text.replace("{", "{{").replace("}", "}}")


def check(mark: Any, along: str, others: Sequence[str]) -> None:
    """Refuse a mark whose values are not as many as its points, or whose template cannot be filled in.

    Raises:
        ValueError: Which, and how many there should be.
    """
    wanted, kind = len(getattr(mark, along)), type(mark).__name__
    columns = dict(getattr(mark, "columns", {}))
    for name, value in [*((name, getattr(mark, name)) for name in others), *columns.items()]:
        if value is not None and len(value) not in ((0, wanted) if name == "labels" else (wanted,)):
            raise ValueError(f"{kind}: {name} has {len(value)} values, {along} {wanted}; give as many")
    hover = getattr(mark, "hover", "")
    if isinstance(hover, str):
        check_template(hover, ("x", "y", *columns))
    elif len(hover) != wanted:
        raise ValueError(f"{kind}: hover has {len(hover)} texts, {along} {wanted}; give one for each")


def check_template(template: str, known: Sequence[str]) -> None:
    """Refuse a template that names what is not known.

    Raises:
        ValueError: Which name, and which there are.
    """
    for _, name, _, _ in Formatter().parse(template):
        if name is not None and name not in known:
            raise ValueError(f"hover names {name!r}; known are {', '.join(known)}: add it to columns")
