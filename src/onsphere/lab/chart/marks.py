"""Marks of a chart: what is drawn, in data units, and how it looks; `spec` offers them with all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any, Literal

import numpy as np

from .theme import INK, INK_ON_DARK

Marker = Literal["", "circle", "diamond", "square", "triangle", "down", "star", "cross", "plus", "x"]
Dash = Literal["solid", "dash", "dot", "dashdot"]
Side = Literal["above", "below", "left", "right", "centre", "upper right", "lower right"]


@dataclass(frozen=True)
class Look:
    """How a mark looks; what may differ from point to point is a tuple with an entry for each.

    Attributes:
        colour: ``#rrggbb`` on light ground.
        dark: The same on dark ground; empty for the same colour.
        width: Width of the line, in pixels of the page.
        dash: How the line is dashed.
        marker: Shape of the points; "" draws none.
        size: Size of the markers, in pixels of the page.
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
class Scale:
    """What the colours of the viridis scale mean.

    Attributes:
        title: Title of the colour bar.
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
        x: [n] places along x.
        y: [n] places along y.
        look: How the markers look.
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
        # the points themselves too: a bar that reaches zero has no lower end on a logarithmic axis
        return [x - aside, x, x + aside], [y - down, y, y + up]

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
        """Both curves, over all of x."""
        return [numbers(self.x)], [numbers(self.low), numbers(self.high)]


@dataclass(frozen=True, eq=False)
class Heat(Mark):
    """A map of coloured fields.

    Attributes:
        x: [n] names of the columns.
        y: [m] names of the rows, from below.
        z: [m, n] values of the fields.
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
        length: [n] lengths of the bars.
        look: Their colour and hatch.
        along: The axis along which they grow.
        base: Where they begin, a number or [n]; 0 is the end of a logarithmic axis.
        thick: Their size across, a number or [n].
        labels: [n] texts of the bars.
        inside: Whether labels stand inside the bars, where they fit, or behind their ends.
        hover: Texts or a template as `Points` have them; ``x`` and ``y`` are middle and end in the chart's axes.
        columns: More values for the template, [n] each.
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
        x: [n] places along x.
        y: [n] places along y; None above the panel, higher where one would run into another.
        text: [n] what is written.
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
        """The [n] places of the texts."""
        return [numbers(self.x)], [] if self.y is None else [numbers(self.y)]


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
