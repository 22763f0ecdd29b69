"""The methods that are compared: the proposal that follows from the boundaries of the regimes, and its rivals.

    proposed        start ELR held, then down to the end ELR
    constant        one ELR on the sphere
    cosine          from a peak ELR to 0 on the sphere
    space-constant  one lr with weight decay, the same weights in the whole space
    space-cosine    from a peak lr to 0 with weight decay, likewise

Every method takes the same steps from the same initial directions on the same batches. The boundaries are those of an
ended map, numbers, or those of a quick map that is made first; the spec of a run holds what was read, so that a run can
be resumed and repeated when the map's folder is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onsphere.lab.experiment import Session
from onsphere.lab.experiments.regimes.classify import Cell, find_boundaries, next_cells, settled
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.experiments.schedule.result import Boundaries
from onsphere.lab.experiments.schedule.spec import FROM_MAP, Family, ScheduleSpec
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy
from onsphere.lab.population.phases import Phase
from onsphere.lab.regime_map import map_run, proposed_by
from onsphere.lab.result import plain_of
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.training import Trainer
from onsphere.optim import ProposedElrs, propose_elrs

QUICK_ELRS = tuple(10 ** (-4 + i / 2) for i in range(9))
QUICK_SEEDS, QUICK_ROUNDS, QUICK_FACTOR = 2, 2, 1.5


@dataclass(frozen=True)
class Setting:
    """One method with its numbers.

    Attributes:
        family: Which method it is.
        lr: Its first learning rate, on the sphere the effective one.
        end_lr: Its last one; equal to ``lr`` if constant.
        weight_decay: In the whole space; 0 on the sphere.
        phases: How the learning rate goes.
    """

    family: Family
    lr: float
    end_lr: float
    weight_decay: float = 0.0
    phases: tuple[Phase, ...] = ()

    @property
    def on_sphere(self) -> bool:
        """Whether it trains on the sphere."""
        return not self.family.startswith("space")


def settings_of(spec: ScheduleSpec, proposed: ProposedElrs) -> list[Setting]:
    """All methods, the proposal first, families together."""
    found = [proposal(spec, proposed)]
    found += [_constant("constant", factor * proposed.threshold) for factor in sorted(spec.constant)]
    found += [_cosine("cosine", factor * proposed.threshold) for factor in sorted(spec.peaks)]
    rates = [(lr, decay) for lr in sorted(spec.lr) for decay in sorted(spec.weight_decay)]
    found += [_constant("space-constant", lr, decay) for lr, decay in rates]
    return found + [_cosine("space-cosine", lr, decay) for lr, decay in rates]


def proposal(spec: ScheduleSpec, proposed: ProposedElrs) -> Setting:
    """The proposed schedule as phases: the course of :class:`onsphere.optim.RegimeSchedule`."""
    first, last = round(spec.hold * spec.steps), round((1 - spec.tail) * spec.steps)
    parts = (
        (first > 0, Phase(0, proposed.start)),
        (first < last, Phase(first, proposed.start, proposed.end, spec.shape)),
        (last < spec.steps, Phase(last, proposed.end)),
    )
    return Setting("proposed", proposed.start, proposed.end, phases=tuple(phase for there, phase in parts if there))


def copies_of(settings: Sequence[Setting], seeds: int) -> list[Copy]:
    """The copies of all settings: settings outermost, then seeds."""
    return [Copy(seed, one.lr, one.weight_decay, phases=one.phases) for one in settings for seed in range(seeds)]


def _constant(family: Family, lr: float, weight_decay: float = 0.0) -> Setting:
    return Setting(family, lr, lr, weight_decay, (Phase(0, lr),))


def _cosine(family: Family, lr: float, weight_decay: float = 0.0) -> Setting:
    return Setting(family, lr, 0.0, weight_decay, (Phase(0, lr, 0.0, "cosine"),))


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
    cells = settled(sorted(cells, key=lambda cell: (cell.elr, cell.seed)))
    return dict(plain_of({"boundaries": find_boundaries(cells), "cells": cells}))
