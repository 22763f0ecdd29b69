"""Listing a thousand runs: seconds of the list and of its page, first with all pictures to make, then with none."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

from benchmarks.measure import line
from onsphere.lab import map_regimes
from onsphere.lab.cli import run_command

RUNS = 1000


def thousand() -> Iterator[str]:
    """``onsphere runs`` and ``onsphere runs --page`` over copies of a small map."""
    fields = {"train": 80, "widths": (8,), "elrs": 4, "seeds": 2, "steps": 100, "refine": 1, "workers": 1}
    with TemporaryDirectory() as folder:
        place = Path(folder) / "runs"
        map_regimes(out=place / "0000", mode="loop", compiled="no", **fields)
        for number in range(1, RUNS):
            copytree(place / "0000", place / f"{number:04d}", ignore=lambda _, names: {"shards"} & set(names))
        for name, more, bar in (
            ("list", [], 3.0),
            ("page, all pictures to make", ["--page"], 60.0),
            ("page again", ["--page"], 3.0),
        ):
            started, spent = time.perf_counter(), time.process_time()
            with redirect_stdout(io.StringIO()):
                assert run_command(["runs", str(place), *more]) == 0
            wall, cpu = time.perf_counter() - started, time.process_time() - spent
            yield line(f"{RUNS} runs, {name}, seconds", (wall, cpu, wall), bar, at_most=True)
        size = (place / "index.html").stat().st_size / 1e6
        yield f"    the page has {size:.1f} MB; in brackets processor seconds, then wall-clock seconds"
