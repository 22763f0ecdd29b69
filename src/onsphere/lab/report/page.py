"""One HTML page that carries everything: text, tables, charts, scripts and styles; it asks no server.

A `Page` is a title, an answer and a list of `Section`s, each a list of blocks: `Text`, `Facts`, `Table`, `Chart`,
`Picture`, `Code`. Experiments say what goes into them; the templates beside this module say how they look. A content
security policy in the page forbids the browser every outside request, so "offline" is enforced, not promised.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from onsphere.lab.store.files import write_text

from .words import json_for_script

if TYPE_CHECKING:
    from onsphere.lab.chart.spec import Chart as Said


@dataclass(frozen=True)
class Text:
    """One paragraph of text.

    Attributes:
        text: Plain text; it is escaped.
        tone: "plain", "note" (smaller, for remarks) or "warning" (set off, for what was not resolved).
    """

    kind: ClassVar[str] = "text"
    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Facts:
    """Names and values side by side, such as versions."""

    kind: ClassVar[str] = "facts"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What the cell shows.
        value: What sorting goes by; the text if None. Give NaN to be sorted last.
        colour: A chip of this CSS colour stands before the text.
        hint: Shown while the pointer rests on it.
    """

    text: str
    value: float | str | None = None
    colour: str = ""
    hint: str = ""

    @property
    def sort_value(self) -> str:
        """`value` as the page's script reads it: empty for what is missing."""
        if self.value is None:
            return self.text
        return "" if self.value != self.value else str(self.value)


@dataclass(frozen=True)
class Table:
    """A table; every cell is a `Cell` or plain text.

    Attributes:
        columns: Heading and explanation (shown on hover) of each column.
        rows: As many cells each as there are columns.
        caption: What is in the table.
        sortable: Whether a click on a heading sorts by it.
        numeric: Indices of the columns that are set flush right.
        tight: Indices of the columns whose text does not break.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    sortable: bool = False
    numeric: frozenset[int] = frozenset()
    tight: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {index} has {len(row)} cells, the table {len(self.columns)} columns; make them equal"
                )

    def column_class(self, index: int) -> str:
        """CSS class of a column: "number", "tight" or none."""
        return "number" if index in self.numeric else "tight" if index in self.tight else ""

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows with every plain text wrapped into a `Cell`."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Slider:
    """A slider and a play button over a chart whose traces change from frame to frame.

    Attributes:
        name: What changes, such as "ELR".
        frames: What the slider says at each frame.
        start: Index of the frame that is shown first.

    Raises:
        ValueError: If there is no frame, or the start is none of them.
    """

    name: str
    frames: Sequence[str]
    start: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.start < len(self.frames):
            raise ValueError(f"start is {self.start} of {len(self.frames)} frames; it must be one of them")


@dataclass(frozen=True)
class Chart:
    """An interactive plotly chart.

    A trace may carry in its ``meta``: ``seed`` (shown only while that seed is selected), ``frame`` (shown only
    while the slider is at that index), ``pick`` (true: a click on one of its points moves the slider to the
    frame in the point's ``customdata``), ``legend`` (false keeps it out of the legend), ``width`` (line width
    when one seed is shown) and ``dark`` (its colour on a dark background).

    Attributes:
        id: Unique in the page.
        figure: ``{"data": [...], "layout": {...}}`` as plotly.js takes it; numpy arrays and NaN are welcome.
        caption: What to look at, below the chart.
        label: What the chart shows, for screen readers.
        seeds: Seeds to choose from; no selector with fewer than two.
        seed: The seed selected at first, or None for all of them.
        slider: The frames to slide through, if there are any.
    """

    kind: ClassVar[str] = "chart"
    id: str
    figure: Mapping[str, Any]
    caption: str
    label: str
    seeds: Sequence[int] = ()
    seed: int | None = None
    slider: Slider | None = None

    @property
    def json(self) -> Markup:
        """The figure as JSON that may stand inside a script element; it never holds NaN."""
        return json_for_script(self.figure)


@dataclass(frozen=True)
class Code:
    """Text to copy: a command or a file."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


@dataclass(frozen=True)
class Picture:
    """A figure that another page has, embedded, with a link to that page.

    Attributes:
        png: The bytes of the image.
        link: Where the image and its caption lead, relative to the page.
        caption: What the figure shows, below it.
        label: The same for screen readers.
    """

    kind: ClassVar[str] = "picture"
    png: bytes = field(repr=False)
    link: str
    caption: str
    label: str

    @property
    def data(self) -> str:
        """The image in base64."""
        return b64encode(self.png).decode("ascii")


Block = Text | Facts | Table | Chart | Picture | Code


@dataclass(frozen=True)
class Section:
    """A headed part of the page.

    Attributes:
        id: Anchor, unique in the page.
        title: Heading; also the entry in the page's navigation.
        blocks: What is in it, in order; a chart that is said once (:mod:`onsphere.lab.chart`) is drawn by whoever makes
            the page.
        folded: Whether the section is closed at first.
    """

    id: str
    title: str
    blocks: Sequence[Block | Said]
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: Heading of the page.
        subtitle: Line below the heading.
        answer: What was found, one or two sentences, first on the page.
        summary: Short facts in one line: number of runs, time.
        sections: The parts, in order.
        onward: What to do next: a command to copy, below the answer; None where there is no such.
        footer: Last line of the page.
        data: Embedded as JSON in the element ``#onsphere-data``, for programs that read the page.
    """

    title: str
    subtitle: str
    answer: Sequence[str]
    sections: Sequence[Section]
    summary: Sequence[str] = ()
    onward: Code | None = None
    footer: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        names = [section.id for section in self.sections]
        names += [block.id for section in self.sections for block in section.blocks if isinstance(block, Chart)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"the ids {', '.join(twice)} are used more than once; give every section and chart its own"
            )

    def render(self) -> str:
        """Assemble the HTML text, plotly.js included when there is a chart."""
        charts = any(isinstance(block, Chart) for section in self.sections for block in section.blocks)
        return (
            environment()
            .get_template("page.html.j2")
            .render(
                page=self,
                style=asset("page.css"),
                guard=asset("guard.js"),
                script=asset("page.js"),
                plotly=_plotly() if charts else "",
                data=json_for_script(self.data),
            )
        )

    def write(self, path: Path) -> Path:
        """Write the page as UTF-8; its folder is made if missing.

        Returns:
            The path that was given.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.render())
        return path


@cache
def environment() -> Environment:
    """The templates beside this module; every text is escaped."""
    return Environment(
        loader=PackageLoader(__package__ or "onsphere.lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def asset(name: str) -> Markup:
    """A style sheet or script of the package: our own text, so it goes into the page unescaped."""
    templates = environment()
    assert templates.loader is not None
    source, _, _ = templates.loader.get_source(templates, name)
    return Markup(source)


@cache
def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs  # 5 MB of script: read when a page is made, not on import

    return Markup(get_plotlyjs().replace("</script", "<\\/script"))
