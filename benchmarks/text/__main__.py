"""``python -m benchmarks.text --out FILE``: six schemes on text, settings by validation, five other seeds by test.

Every run is a line of FILE, so that a stopped comparison goes on where it was; ``--steps`` and the other sizes make
another comparison and want another file. The table at the end has 95 % t-intervals over the test seeds and differences
from AdamW, paired by seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.text.run import Size, recipe, train
from benchmarks.text.schemes import GRIDS, Setting
from onsphere.lab.intervals import difference, interval

#: Seeds that settings are chosen by, and those that are reported.
CHOOSE, REPORT = (100, 101), (0, 1, 2, 3, 4)

Job = tuple[Size, str, Setting, int, str]
Row = dict[str, Any]


def compare(size: Size, path: Path, *, schemes: Sequence[str] = tuple(GRIDS), workers: int = 1) -> list[Row]:
    """Run what the file does not hold yet.

    Args:
        size: What to train, and how long.
        path: A file of JSON lines: first what the runs share, then one line a run.
        schemes: Some of ``GRIDS``.
        workers: Processes, each on one thread.

    Returns:
        The rows of all runs of these schemes.

    Raises:
        SystemExit: The file holds runs of other sizes, another text or another torch.
    """
    rows = _opened(path, recipe(size))
    tried = [(s, setting, seed, "validation") for s in schemes for setting in GRIDS[s] for seed in CHOOSE]
    _complete(size, tried, rows, path, workers)
    final = [(s, chosen(rows, s), seed, "test") for s in schemes for seed in REPORT]
    _complete(size, final, rows, path, workers)
    wanted = {_key(*one) for one in [*tried, *final]}
    return [row for row in rows if _key(row["scheme"], row["setting"], row["seed"], row["part"]) in wanted]


def chosen(rows: Sequence[Row], scheme: str) -> Setting:
    """The setting with the least validation loss, averaged over its seeds; one that is not finite is never chosen."""

    def loss(setting: Setting) -> float:
        found = [
            row["loss"]
            for row in rows
            if row["part"] == "validation" and row["scheme"] == scheme and row["setting"] == setting
        ]
        return float(np.nan_to_num(np.mean(found), nan=np.inf))

    return min(GRIDS[scheme], key=loss)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The result as a table of Markdown, best scheme first."""
    losses = {row["scheme"]: _of(rows, row["scheme"], "loss") for row in rows if row["part"] == "test"}
    yield "| scheme | chosen | test loss | minus AdamW's | angle at the peak | mean angle, least to largest matrix |"
    yield "|---|---|---|---|---|---|"
    for scheme in sorted(losses, key=lambda name: np.mean(losses[name])):
        setting = ", ".join(f"{name} {value:g}" for name, value in chosen(rows, scheme).items())
        loss, minus = interval(losses[scheme]), ""
        if scheme != "adamw" and "adamw" in losses:
            gap = difference(losses[scheme], losses["adamw"])
            minus = f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
        peak, mean, least, largest = (
            float(np.mean(_of(rows, scheme, name))) for name in ("peak_angle", "angle", "least_angle", "largest_angle")
        )
        yield (
            f"| {scheme} | {setting} | {loss.mean:.3f} ({loss.low:.3f} to {loss.high:.3f}) | {minus} "
            f"| {peak:.4f} | {mean:.4f}, {least:.4f} to {largest:.4f} |"
        )


def _of(rows: Sequence[Row], scheme: str, name: str) -> list[float]:
    """A number of the test runs of a scheme, by seed."""
    mine = {row["seed"]: row[name] for row in rows if row["part"] == "test" and row["scheme"] == scheme}
    return [mine[seed] for seed in sorted(mine)]


def _key(scheme: str, setting: Setting, seed: int, part: str) -> str:
    return json.dumps([scheme, sorted(setting.items()), seed, part])


def _opened(path: Path, shared: Row) -> list[Row]:
    """The runs of a file, which is begun if it is not there; what a kill left of a line is cut off."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(shared) + "\n", encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    first, *rows = [json.loads(line) for line in whole.splitlines()] or [None]
    if first != shared:
        sys.exit(f"{path} holds runs with {first}, and these are {shared}; give another --out")
    return rows


def _complete(size: Size, wanted: Sequence[tuple[str, Setting, int, str]], rows: list[Row], path: Path, n: int) -> None:
    """Run what is not among the rows, and add it to them and to the file."""
    done = {_key(row["scheme"], row["setting"], row["seed"], row["part"]) for row in rows}
    jobs = [(size, *one) for one in wanted if _key(*one) not in done]
    with path.open("a", encoding="utf-8") as file:
        for row in _results(jobs, n):
            file.write(json.dumps(row) + "\n")
            file.flush()
            rows.append(row)
            print(f"{row['scheme']} {row['setting']} seed {row['seed']}: {row['loss']:.4f}", file=sys.stderr)


def _results(jobs: Sequence[Job], workers: int) -> Iterator[Row]:
    if workers == 1:
        yield from (_train(job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_train, job) for job in jobs]
        yield from (future.result() for future in as_completed(futures))


def _train(job: Job) -> Row:
    torch.set_num_threads(1)
    return train(*job)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/text.jsonl"), help="file of the runs (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    for field in fields(Size):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, help="(%(default)s)")
    given = parser.parse_args(arguments)
    size = Size(**{field.name: getattr(given, field.name) for field in fields(Size)})
    print(json.dumps(recipe(size)))
    print(*table(compare(size, given.out, workers=given.workers)), sep="\n")


if __name__ == "__main__":
    main()
