"""Where the boundaries come from: an ended map, numbers, or a quick map made first.

The spec of a run holds what was read, so that a run can be resumed and repeated when the map's folder is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onsphere.lab.experiments.regimes.boundaries import find_boundaries, next_cells
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.experiments.schedule.spec import FROM_MAP, ScheduleSpec
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy
from onsphere.lab.store import Run
from onsphere.lab.training import Trainer
from onsphere.optim import ProposedElrs, propose_elrs

QUICK_ELRS = tuple(10 ** (-4 + i / 2) for i in range(9))
QUICK_SEEDS = 2
QUICK_ROUNDS = 2
QUICK_FACTOR = 1.5


def with_map(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with what the map that they name hands down; fields that are given win.

    Args:
        fields: What the user gave, ``map`` perhaps among it.

    Raises:
        InputError: The folder holds no ended regime map, the map is of arrays that were not given, or it does not say
            where convergence ends.
    """
    if fields.get("map") is None:
        return dict(fields)
    run = Run.open(Path(fields["map"]))
    command = run.manifest["command"]
    if command != "regimes":
        raise InputError(f"--map: {fields['map']} is a run of onsphere {command}; give one of onsphere regimes")
    result = run.result()
    if "model" not in fields:
        run.check_code(result, "--map")
    inherited = {name: result["spec"][name] for name in FROM_MAP if name in result["spec"] and name not in fields}
    if inherited.get("data") == "arrays":
        raise InputError(
            f"--map: {fields['map']} was made of arrays in Python; compare schedules there as well and give them again"
        )
    return inherited | boundaries_of(result, str(fields["map"])) | dict(fields)


def boundaries_of(result: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``convergence``, ``divergence`` where it is known, and the ``basis`` of the former.

    Raises:
        InputError: The map says neither where convergence ends nor where divergence begins.
    """
    try:
        proposed = propose_elrs(result)
    except ValueError as error:
        raise InputError(f"--map: {where}: {error}") from None
    divergence = result["boundaries"]["divergence"]["low"]
    found: dict[str, Any] = {"convergence": proposed.bracket, "basis": proposed.basis}
    return found | ({} if divergence is None else {"divergence": divergence})


def propose(spec: ScheduleSpec, convergence: tuple[float, ...], divergence: float | None) -> ProposedElrs:
    """The proposal of a spec from numbers."""
    regimes = {"convergence": (convergence[0], convergence[-1]), "divergence": divergence}
    return propose_elrs(regimes, start_factor=spec.start_factor, end_factor=spec.end_factor)


def quick_map(spec: ScheduleSpec, trainer: Trainer) -> dict[str, Any]:
    """A map of half-decades with two seeds, bisected twice: boundaries and cells as in the result of a regime map."""
    cells: list[Cell] = []
    wanted = [(elr, seed) for seed in range(QUICK_SEEDS) for elr in QUICK_ELRS]
    for number in range(QUICK_ROUNDS + 1):
        title = "quick map" if number == 0 else f"quick map, round {number}: {len(wanted)} runs"
        for shard in trainer.round(f"map{number}", [Copy(seed, elr) for elr, seed in wanted], title):
            cells += read_cells(shard, number)
        wanted = next_cells(cells, QUICK_FACTOR)
        if not wanted:
            break
    cells.sort(key=lambda cell: (cell.elr, cell.seed))
    return {
        "boundaries": {name: boundary.to_dict() for name, boundary in find_boundaries(cells).items()},
        "cells": [cell.to_dict() for cell in cells],
    }
