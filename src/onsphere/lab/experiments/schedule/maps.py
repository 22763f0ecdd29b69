"""Where the boundaries come from: an ended map, numbers, or a quick map made first.

The spec of a run holds what was read, so that a run can be resumed and repeated when the map's folder is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onsphere.lab.experiment import Session
from onsphere.lab.experiments.regimes.classify import Cell, find_boundaries, next_cells
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.experiments.schedule.result import Boundaries
from onsphere.lab.experiments.schedule.spec import FROM_MAP, ScheduleSpec
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy
from onsphere.lab.regime_map import map_run, proposed_by
from onsphere.lab.result import plain_of
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.training import Trainer
from onsphere.optim import ProposedElrs, propose_elrs

QUICK_ELRS = tuple(10 ** (-4 + i / 2) for i in range(9))
QUICK_SEEDS = 2
QUICK_ROUNDS = 2
QUICK_FACTOR = 1.5


def with_map(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with what the map that they name hands down; fields that are given win.

    Args:
        fields: What the user gave; ``map`` may be a folder, or the result of :func:`onsphere.lab.map_regimes`.

    Raises:
        InputError: The folder holds no ended regime map, the map is of arrays that were not given, or it does not say
            where convergence ends.
    """
    given = dict(fields)
    if given.get("map") is None:
        return given
    run = map_run(given["map"])
    folder = given["map"] = str(run.folder)
    result = run.result()
    if "model" not in given:
        run.check_code(result, "--map")
    inherited = {name: result["spec"][name] for name in FROM_MAP if name in result["spec"] and name not in given}
    if inherited.get("data") == "arrays":
        raise InputError(
            f"--map: {folder} was made of arrays in Python; compare schedules there as well and give them again"
        )
    return inherited | known(result, folder) | given


def known(result: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``convergence``, ``divergence`` where it is known, and the ``basis`` of the former.

    Raises:
        InputError: The map says neither where convergence ends nor where divergence begins.
    """
    proposed = proposed_by(result, where)
    divergence = result["boundaries"]["divergence"]["low"]
    found: dict[str, Any] = {"convergence": proposed.bracket, "basis": proposed.basis}
    return found | ({} if divergence is None else {"divergence": divergence})


def boundaries_of(session: Session[ScheduleSpec, Any], trainer: Trainer) -> tuple[Boundaries, ProposedElrs]:
    """The boundaries as they are used, and the proposal; a quick map is made if nothing else says where they are.

    Raises:
        InputError: The quick map says neither where convergence ends nor where divergence begins.
        Interrupted: The run was asked to stop.
    """
    spec, path = session.spec, session.run.folder / "map.json"
    convergence, divergence, basis = spec.convergence, spec.divergence, spec.basis
    if convergence is None:
        if not path.exists():
            write_json(path, quick_map(trainer))
        try:
            read = known(read_json(path), "the quick map")
        except InputError as error:
            raise InputError(str(error).replace("--map: ", "", 1)) from None
        convergence, basis = read["convergence"], read["basis"]
        divergence = read.get("divergence") if divergence is None else divergence
    regimes = {"convergence": (convergence[0], convergence[-1]), "divergence": divergence}
    proposed = propose_elrs(regimes, start_factor=spec.start_factor, end_factor=spec.end_factor)
    return Boundaries(proposed.bracket, divergence), replace(proposed, basis=basis)


def quick_map(trainer: Trainer) -> dict[str, Any]:
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
    return dict(plain_of({"boundaries": find_boundaries(cells), "cells": cells}))
