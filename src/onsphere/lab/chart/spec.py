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
from dataclasses import dataclass
from typing import Literal

from .marks import INKED, Band, Bars, Dash, Heat, Line, Look, Mark, Marker, Points, Scale, Side, Text, literal, numbers

__all__ = ["INKED", "Axis", "Band", "Bars", "Chart", "Dash", "Heat", "Line", "Look", "Mark", "Marker", "Panel"]
__all__ += ["Points", "Rule", "Scale", "Side", "Span", "Text", "literal", "numbers"]


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


_RULE = INKED.but(width=1.2, dash="dash")


@dataclass(frozen=True)
class Rule:
    """A line across a panel at a value of one axis; the ranges hold it.

    Attributes:
        value: Where the line stands.
        name: Written on the line (along y) or above the panel (along x).
        along: The axis that the value belongs to.
        at: Where the name of a level stands: at the left or right end of the line, or in the corner above the data.
        look: Colour, width and dash; width 0 draws the name alone, such as the class of a value above the panel.
    """

    value: float
    name: str = ""
    along: Literal["x", "y"] = "y"
    at: Literal["left", "right", "corner"] = "left"
    look: Look = _RULE


@dataclass(frozen=True)
class Span:
    """A stretch of an axis behind the marks, cut off at the ends of the range.

    Attributes:
        low: Where the stretch begins.
        high: Where the stretch ends.
        colour: The tint of a region.
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
        y: The y axis of the panel.
        marks: What is drawn, in this order.
        x: Its own x axis, where it is not the chart's.
        title: Heading of the panel.
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
        widths: Widths of the columns, relative to one another.
        share_y: Whether the panels of a row have one y axis.
        rules: Lines across all panels.
        spans: Stretches of the x axis of all panels, named above the first.
        scale: What the colours of lines mean; on paper its colour bar replaces the legend's entries.
        seeds: Seeds to choose from.
        seed: The seed shown at first, and boldly on paper; None for all.
        others: Whether figures on paper show the other seeds, faintly.
        frames: Names of the slider's frames.
        frame_name: What changes from frame to frame.
        frame: Index of the frame that is shown first.
        keys: Entries that the legend on paper has besides: what shapes of markers mean.
        note: Remark that figures on paper bear below, since they have no caption.
        file: Name of the figure without suffix; from the id if empty.
        prints: File name and frame of each figure, where not the first frame alone is printed.
        height: Height of the chart on the page, in pixels; 0 for what its panels need.
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
    others: bool = True
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
