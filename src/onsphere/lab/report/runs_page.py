"""The page of a folder of runs: one file that lists them, with a small picture of each and a link to its page.

Pictures are made from the figures that a run has, once: a page that is written again takes those whose figure is still
the same from the page before. The list can be sorted and searched in a browser; without scripts it is a plain table.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np

from onsphere import __version__
from onsphere.lab.report.page import asset, environment
from onsphere.lab.report.words import format_duration
from onsphere.lab.store.files import write_text

INDEX = "index.html"
SIZE = (160, 120)  # pixels of a picture, at most: shown at half of that, sharp on dense screens
_KEPT = re.compile(r'<img data-figure="([^"<>&]*)" src="data:image/png;base64,([A-Za-z0-9+/=]+)"')
LEVELS = 16  # of a colour: so flat areas stay flat, and a picture a few kilobytes
#: What a run may be, in the order of the page's summary.
STATES = ("done", "running", "interrupted", "damaged", "unknown")


@dataclass(frozen=True)
class Listed:
    """A run in the list.

    Attributes:
        folder: Where the run lies.
        command: Its experiment; empty where that cannot be read.
        status: What became of it so far, one of :data:`STATES`.
        created: When it was started, ISO 8601; empty where that cannot be read.
        summary: What was found, in one line, or what is wrong.
        seconds: Wall-clock seconds that it took; None of one that has not ended.
    """

    folder: Path
    command: str
    status: str
    created: str
    summary: str
    seconds: float | None

    @property
    def duration(self) -> str:
        """How long it took, in words."""
        return "" if self.seconds is None else format_duration(self.seconds)

    @property
    def started(self) -> str:
        """When it was started, to the minute."""
        return self.created[:16].replace("T", " ")

    def link(self, place: Path) -> str:
        """Where its page is from that folder on, as a link; empty if there is none."""
        page = self.folder / "report.html"
        return quote(f"./{page.relative_to(place).as_posix()}") if page.is_file() else ""


def write_runs_page(place: Path, runs: Sequence[Listed]) -> Path:
    """Write ``index.html`` into a folder of runs, newest first as they are given, and return its path.

    Raises:
        InputError: There is something else of that name.
    """
    path = place / INDEX
    known = dict(_KEPT.findall(path.read_text("utf-8", errors="replace"))) if path.is_file() else {}
    rows = [(run, run.link(place), *_picture(run.folder, place, known)) for run in runs]
    counts = {state: sum(run.status == state for run in runs) for state in STATES}
    text = (
        environment()
        .get_template("runs.html.j2")
        .render(
            rows=rows,
            place=place.resolve().name,
            counts={state: count for state, count in counts.items() if count},
            style=asset("page.css") + asset("runs.css"),
            guard=asset("guard.js"),
            script=asset("runs.js"),
            footer=f"Made by onsphere {__version__}; write it again with onsphere runs --page.",
        )
    )
    write_text(path, text)
    return path


def _picture(folder: Path, place: Path, known: dict[str, str]) -> tuple[str, str]:
    """What tells a run's first figure from any other, and the small picture of it in base64; both empty for none."""
    try:
        found = [(path.lstat(), path) for path in (folder / "figures").glob("*.png") if not path.is_symlink()]
    except OSError:
        return "", ""
    if not found:
        return "", ""
    stat, path = min(found, key=lambda pair: (pair[0].st_mtime_ns, pair[1]))  # they are drawn in the page's order
    key = quote(f"{path.relative_to(place).as_posix()}:{stat.st_mtime_ns}:{stat.st_size}")
    if key not in known:
        known[key] = thumbnail(path)
    return (key, known[key]) if known[key] else ("", "")


def thumbnail(path: Path) -> str:
    """A small picture of a figure as PNG in base64; empty for what is no picture."""
    from matplotlib.image import imread, imsave

    try:
        pixels = np.asarray(imread(path, format="png"))  # [height, width, colours], 0 to 1
        high, wide, colours = pixels.shape
        block = max(1, -(-wide // SIZE[0]), -(-high // SIZE[1]))
        rows, columns = high // block, wide // block
        cut = np.ascontiguousarray(pixels[: rows * block, : columns * block])
        lines = cut.reshape(rows, block, columns * block * colours).mean(1)  # first down, where memory is in a row
        small = lines.reshape(rows, columns, block, colours).mean(2)
        colour, ground = small[..., :3], small[..., 3:]
        if colours == 4:
            colour = colour * ground + (1 - ground)  # figures are for white paper
        written = BytesIO()
        imsave(written, np.rint(colour * (LEVELS - 1)) / (LEVELS - 1), format="png", pil_kwargs={"optimize": True})
    except Exception:  # whatever is wrong with a picture, the list goes on
        return ""
    return b64encode(written.getvalue()).decode("ascii")
