"""Train every setting to its stationary state, measure the last window of every run, and hold the laws to it.

round "fixed_elr", "fixed_lr", "sphere"   of the study gas: rates x weight decays x seeds, independent batches
round "under", "over"                     of the study free-energy: ELRs x seeds on the sphere, two networks
measured/                                 windows, entropies and noise, one file a run

Weights that were kept for the entropies are removed once all of their shard are measured.

Source: Sadrtdinov et al. 2025 (ideal gas; free energy).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.thermo.analyse import (
    curves,
    energy_map,
    powers,
    relation,
    row_of,
    settings_of,
    temperatures,
)
from onsphere.lab.experiments.thermo.measure import Measured, measured
from onsphere.lab.experiments.thermo.page import printed, report
from onsphere.lab.experiments.thermo.result import ThermoResult
from onsphere.lab.experiments.thermo.spec import SMALL, ThermoSpec
from onsphere.lab.experiments.thermo.words import answer, describe
from onsphere.lab.population import Copy, Problem, ShardFolder, Stage
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, prepared, problem_of

Run = tuple[Copy, Measured, float]


@takes(ThermoSpec)
def measure_thermo(model: Model = "mlp", data: Data = "digits", **given: Any) -> ThermoResult:
    """Measure the thermodynamics of a network's stationary state: the ideal gas, or the free energy over the ELR.

    A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).

    Args:
        model: The network, as :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>` takes it.
        data: The data, as it takes them.
        **given: The fields of :class:`~onsphere.lab.experiments.thermo.spec.ThermoSpec`, and ``out``, ``progress`` and
            ``stop`` of :meth:`~onsphere.lab.experiment.Experiment.start`, which also says what is raised.

    Returns:
        The result; everything is also on disk.

    Source: Sadrtdinov et al. 2025 (ideal gas; free energy).

    Example:
        >>> from onsphere.lab import measure_thermo
        >>> measure_thermo(study="free-energy", seeds=3)  # doctest: +SKIP
    """
    return EXPERIMENT.start(model, data, **given)


def prepare(spec: ThermoSpec, model: Model, data: Data, progress: Progress) -> dict[str, Problem]:
    """The problem of every population.

    Raises:
        InputError: Data, batch size, device or model are not usable.
    """
    small = spec.widths or SMALL
    kept = tuple(step for window in spec.window_steps() for step in window)
    shared: dict[str, Any] = {"independent": True, "snapshots": kept}
    first = prepared(problem_of(spec, model, data, widths=small, **shared), progress)
    if spec.study == "free-energy":
        wide = replace(first, model_options=first.model_options | {"widths": spec.over_widths})
        return {"under": first, "over": prepared(replace(wide, trained=(), surgery=False), progress)}
    free = replace(first, geometry="space", radius=None)
    every = {"fixed_elr": replace(free, keep_elr=True), "fixed_lr": free, "sphere": first}
    return {name: every[name] for name in spec.populations()}


def measure(session: Session[ThermoSpec, Mapping[str, Problem]]) -> dict[str, Any]:
    """Train the populations one after another and measure every run."""
    spec = session.spec
    runs = {name: _population(session, name, problem) for name, problem in session.given.items()}
    rows = {name: [row_of(name, *one) for one in own] for name, own in runs.items()}
    free = [relation(name, rows[name]) for name in ("fixed_elr", "fixed_lr") if name in rows]
    energies = spec.study == "free-energy"
    return {
        "rows": [row for own in rows.values() for row in own],
        "settings": [one for own in rows.values() for one in settings_of(own)],
        "relations": [one for one in free if one is not None],
        "maps": [energy_map(name, own) for name, own in rows.items()],
        "temperatures": [one for name, own in rows.items() for one in temperatures(name, own)] if energies else [],
        "powers": [one for name, own in rows.items() for one in powers(name, own)] if energies else [],
        "curves": [p for name, own in runs.items() for p in curves(name, [r[:2] for r in own])] if energies else [],
    }


def _population(session: Session[ThermoSpec, Mapping[str, Problem]], name: str, problem: Problem) -> list[Run]:
    """Train one population and measure its runs: copy, what was measured, training error at the end."""
    spec = session.spec
    copies = _copies(spec, name)
    most = spec.seeds * max(len(spec.settings(other)) for other in spec.populations())
    shards = session.train(problem, name, copies, name.replace("_", " "), most=most)
    session.progress.begin(f"measuring {name.replace('_', ' ')}", len(copies))
    found: list[Run] = []
    for shard in shards:
        found += _shard(session, problem, shard)
        shutil.rmtree(shard.folder / "snapshots", ignore_errors=True)
    order = {copy: number for number, copy in enumerate(copies)}
    return sorted(found, key=lambda run: order[run[0]])


def _shard(session: Session[ThermoSpec, Mapping[str, Problem]], problem: Problem, shard: ShardFolder) -> Sequence[Run]:
    spec, readings, errors = session.spec, shard.readings(), shard.evaluations()[1][-1, :, 1]
    windows, found = spec.window_steps(), []
    for row, copy in enumerate(shard.copies()):

        def one(row: int, copy: Copy) -> Measured:
            whole = measured(problem, shard, readings, row, copy, windows, spec.windows_used, spec.gradients)
            session.progress.advance(1)
            return whole

        kept = session.kept(f"measured/{shard.folder.name}-{row:03d}", Measured, partial(one, row, copy), key="run")
        found.append((copy, kept, float(errors[row])))
    return found


def stages(spec: ThermoSpec, given: Mapping[str, Problem]) -> list[Stage]:
    """The runs of every population."""
    most = spec.seeds * max(len(spec.settings(name)) for name in given)
    return [Stage(name.replace("_", " "), one, _copies(spec, name), most=most) for name, one in given.items()]


def _copies(spec: ThermoSpec, name: str) -> list[Copy]:
    return [Copy(seed, rate, decay) for rate, decay in spec.settings(name) for seed in range(spec.seeds)]


EXPERIMENT = Experiment(
    spec=ThermoSpec,
    result=ThermoResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: len(result.rows),
    printed=printed,
    stages=stages,
    beside="entropies and noise, measured after every population",
)
resume_thermo = EXPERIMENT.resume
