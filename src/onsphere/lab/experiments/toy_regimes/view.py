"""What the page of the regimes toy draws: the rows and the course of every run, read back from the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.toy_regimes.result import RegimesRow, ToyRegimesResult
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_table

Array = NDArray[np.float64]

_MOST_FRAMES = 60  # of the slider; more ELRs are thinned


@dataclass(frozen=True, eq=False)
class Course:
    """One run's course.

    Attributes:
        row: The row of its effective learning rate.
        steps: Step numbers, ``[T]``.
        loss: Loss before these steps, ``[T]``.
        elrs: Individual ELRs of the pairs before these steps, ``[T, n]``.
    """

    row: RegimesRow
    steps: Array
    loss: Array
    elrs: Array


def courses(run: Run, result: ToyRegimesResult, seed: int = 0) -> list[Course]:
    """The course of one seed at every effective learning rate, or at 60 of them spread over the whole range."""
    table = read_table(run.table_path("course"))
    chosen: Any = np.unique(np.linspace(0, len(result.rows) - 1, _MOST_FRAMES).round().astype(int))
    mine = {name: column[table["seed"] == seed] for name, column in table.items()}
    found = []
    for row in (result.rows[i] for i in chosen):
        here = mine["elr"] == row.elr
        elrs = np.stack([mine[f"elr_{i + 1}"][here] for i in range(len(result.alphas))], axis=-1)
        found.append(Course(row, mine["step"][here].astype(np.float64), mine["loss"][here], elrs))
    return found


def selected(found: list[Course], relative: tuple[float, ...] = (0.5, 1.1, 2.0, 20.0)) -> list[Course]:
    """The few courses whose ELR is nearest, in log, to the given multiples of the threshold; each once."""
    if len(found) <= len(relative):
        return found
    nearest = {min(range(len(found)), key=lambda i: abs(np.log(found[i].row.relative_elr / c))) for c in relative}
    return [found[i] for i in sorted(nearest)]


def law(result: ToyRegimesResult, points: int = 400) -> tuple[Array, Array]:
    """The closed form over the range of effective learning rates: ELRs and losses, ``[points]``."""
    from onsphere.dynamics.toys import pair_loss

    low, high = result.rows[0].elr, result.rows[-1].elr
    elrs = np.geomspace(low / 1.1, high * 1.1, points)
    elrs = np.sort(np.append(elrs, result.threshold))  # its corner
    return elrs, np.asarray(pair_loss(result.alphas, elrs))
