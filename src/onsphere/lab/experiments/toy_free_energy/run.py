"""Run the free-energy toy: every model at every ELR."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from onsphere.dynamics import temperature_interval
from onsphere.dynamics.toys import ObjectsRun, simulate_objects
from onsphere.dynamics.toys.objects import MOST_STEPS, OVER, UNDER, objects_steps
from onsphere.lab.calling import takes
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.toy_free_energy.page import printed, report
from onsphere.lab.experiments.toy_free_energy.result import ObjectsRow, ToyFreeEnergyResult, answer, describe
from onsphere.lab.experiments.toy_free_energy.spec import ToyFreeEnergySpec
from onsphere.lab.options import InputError
from onsphere.lab.result import Backend
from onsphere.lab.store.files import write_table

_OBJECTS = {"under": UNDER, "over": OVER}


@takes(ToyFreeEnergySpec)
def toy_free_energy(**given: Any) -> ToyFreeEnergyResult:
    """Train on objects of a sphere at many ELRs: energy, entropy and temperature, under- and over-parameterised.

    Args:
        **given: The fields of :class:`~onsphere.lab.experiments.toy_free_energy.spec.ToyFreeEnergySpec`, and ``out``,
            ``progress`` and ``stop`` of :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>`.

    Returns:
        One row an ELR and model; everything is also on disk.

    Raises:
        InputError: A field is wrong; the message is one line.
        Interrupted: ``stop`` returned True; ``onsphere resume`` runs it again.

    Source: Sadrtdinov et al. 2025 (free energy), toy example; :func:`onsphere.dynamics.toys.simulate_objects`.
    """
    return EXPERIMENT.start(**given)


def prepare(spec: ToyFreeEnergySpec, *_: Any) -> None:
    """Refuse what takes too long to settle, before there is a folder (InputError)."""
    for model in spec.models:
        steps = sum(_steps(spec, model))
        if steps.max() > MOST_STEPS:
            raise InputError(
                f"--elrs: {spec.elrs[int(steps.argmax())]:g} is not allowed: {spec.points} points of {spec.copies} "
                f"copies need {steps.max():,} steps there, more than {MOST_STEPS:,}; take larger --elrs, more --copies "
                "or fewer --points"
            )


def _steps(spec: ToyFreeEnergySpec, model: str) -> tuple[Any, Any]:
    """Steps to settle and to measure at every ELR."""
    return objects_steps(spec.elrs, objects=_OBJECTS[model], snapshots=-(-spec.points // spec.copies))


def measure(session: Session[ToyFreeEnergySpec, None]) -> dict[str, Any]:
    """Run every model, one ELR after another; ``settings.parquet`` keeps the rows as well."""
    spec, rows = session.spec, list[ObjectsRow]()
    for number, model in enumerate(spec.models):
        lengths = np.sum(_steps(spec, model), axis=0)
        session.progress.begin(f"objects, {model}", spec.copies * int(lengths.sum()))
        runs = []
        for place, elr in enumerate(spec.elrs):
            if session.stop():
                raise Interrupted
            child = np.random.SeedSequence([spec.seed, number, place])
            runs.append(
                simulate_objects(
                    elr,
                    objects=_OBJECTS[model],
                    copies=spec.copies,
                    entropy_points=spec.points,
                    neighbours=spec.neighbours,
                    seed=int(child.generate_state(1, np.uint64)[0]),
                )
            )
            session.progress.advance(spec.copies * int(lengths[place]))
        rows += rows_of(model, runs)
    table = {one.name: [getattr(row, one.name) for row in rows] for one in fields(ObjectsRow)}
    write_table(session.run.table_path("settings"), table)
    return {"rows": rows, "engine": Backend("numpy")}


def rows_of(model: str, runs: list[ObjectsRun]) -> list[ObjectsRow]:
    """The rows of a model, with the temperatures at which each of its states has the least free energy."""
    energy, entropy = (np.array([float(getattr(run, name)[0]) for run in runs]) for name in ("energy", "entropy"))
    known, low, high = np.isfinite(entropy), np.full(len(runs), np.nan), np.full(len(runs), np.nan)
    if known.sum() > 1:
        found = temperature_interval(energy[known], entropy[known])
        low[known], high[known] = found.low, found.high
        low[high == -np.inf] = np.nan  # as much entropy as a state of lower energy: at no temperature
    same = {one.name for one in fields(ObjectsRow)} - {"model", "low", "high"}
    return [
        ObjectsRow(
            model=model,
            low=float(low[i]),
            high=float(high[i]),
            **{name: float(getattr(run, name)[0]) for name in same},
        )
        for i, run in enumerate(runs)
    ]


EXPERIMENT = Experiment(
    spec=ToyFreeEnergySpec,
    result=ToyFreeEnergyResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: len(result.rows) * result.spec.copies,
    printed=printed,
)
