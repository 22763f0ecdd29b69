"""Run the thermodynamics toy: every protocol at a grid of settings, one rate after another."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from onsphere.dynamics.maxwell import maxwell_residuals
from onsphere.dynamics.toys import NoiseRun, simulate_noise
from onsphere.lab.calling import takes
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.toy_thermo.page import printed, report
from onsphere.lab.experiments.toy_thermo.result import MaxwellRow, ThermoRow, ToyThermoResult, answer, describe
from onsphere.lab.experiments.toy_thermo.spec import Protocol, ToyThermoSpec
from onsphere.lab.result import Backend
from onsphere.lab.store.files import write_table

#: The rate and the knob that each protocol varies.
_VARIED = {"fixed_elr": ("elr", "weight_decay"), "fixed_lr": ("lr", "weight_decay"), "sphere": ("elr", "radius")}


@takes(ToyThermoSpec)
def toy_thermo(**given: Any) -> ToyThermoResult:
    """Train the isotropic-noise model under three protocols and compare it with the laws of an ideal gas.

    Args:
        **given: The fields of :class:`~onsphere.lab.experiments.toy_thermo.spec.ToyThermoSpec`, and ``out``,
            ``progress`` and ``stop`` of :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>`.

    Returns:
        One row a setting and the Maxwell relations; everything is also on disk.

    Raises:
        InputError: A field is wrong; the message is one line.
        Interrupted: ``stop`` returned True; ``onsphere resume`` runs it again.

    Source: Sadrtdinov et al. 2025 (ideal gas); :func:`onsphere.dynamics.toys.simulate_noise`.
    """
    return EXPERIMENT.start(**given)


def measure(session: Session[ToyThermoSpec, None]) -> dict[str, Any]:
    """Run every protocol at its settings, which ``settings.parquet`` keeps as well."""
    spec = session.spec
    rows: list[ThermoRow] = []
    relations: list[MaxwellRow] = []
    for protocol in dict.fromkeys(spec.protocols):
        rates, knobs = (_grid(spec, name) for name in _VARIED[protocol])
        settings = spec.copies * len(knobs)
        lengths = [sum(spec.lengths(protocol, rate)) for rate in rates]
        session.progress.begin(f"noise, {protocol}", settings * sum(lengths))
        runs: list[NoiseRun] = []
        for number, (rate, length) in enumerate(zip(rates, lengths, strict=True)):
            if session.stop():
                raise Interrupted
            runs.append(_run(spec, protocol, rate, number))
            session.progress.advance(settings * length)
        rows += [row for run in runs for row in _rows(run)]
        relations += _maxwell(spec, protocol, runs)
    table = {one.name: [getattr(row, one.name) for row in rows] for one in fields(ThermoRow)}
    write_table(session.run.table_path("settings"), table)
    return {"rows": rows, "maxwell": relations, "engine": Backend("numpy")}


def _grid(spec: ToyThermoSpec, name: str) -> list[float]:
    """The values of a rate or a knob, ascending, each once."""
    given = {"elr": spec.elrs, "lr": spec.lrs, "weight_decay": spec.weight_decays, "radius": spec.radii}
    return sorted(set(given[name]))


def _run(spec: ToyThermoSpec, protocol: Protocol, rate: float, number: int) -> NoiseRun:
    """All settings of one rate: they need the same number of steps, other rates other numbers."""
    order = list(_VARIED).index(protocol)
    child = np.random.SeedSequence([spec.seed, order, number])  # so that no two rates share their noise
    varied, knob = _VARIED[protocol]
    burn_in, steps = spec.lengths(protocol, rate)
    given: dict[str, Any] = {varied: rate, knob: np.array(_grid(spec, knob))}
    return simulate_noise(
        spec.dimension,
        protocol=protocol,
        sigma=spec.sigma,
        copies=spec.copies,
        burn_in=burn_in,
        steps=steps,
        entropy_points=spec.points,
        neighbours=spec.neighbours,
        seed=int(child.generate_state(1, np.uint64)[0]),
        **given,
    )


def _rows(run: NoiseRun) -> list[ThermoRow]:
    law, corrected, state = run.predicted, run.corrected, run.state
    columns: dict[str, Any] = {
        **{name: getattr(run, name) for name in ("elr", "lr", "weight_decay", "temperature")},
        **{name: getattr(run, name) for name in ("energy", "radius", "pressure", "entropy")},
        **{f"{name}_error": getattr(run, f"{name}_error") for name in ("energy", "radius", "pressure", "entropy")},
        **{f"predicted_{name}": getattr(law, name) for name in ("energy", "radius", "pressure", "entropy")},
        **{f"corrected_{name}": getattr(corrected, name) for name in ("radius", "pressure")},
        "gas_law": state.gas_law_residual,
    }
    wide = {name: np.broadcast_to(values, run.energy.shape).tolist() for name, values in columns.items()}
    fixed: dict[str, Any] = {"protocol": run.protocol, "burn_in": run.burn_in, "steps": run.steps}
    return [ThermoRow(**fixed, **{name: values[i] for name, values in wide.items()}) for i in range(len(run.energy))]


def _maxwell(spec: ToyThermoSpec, protocol: Protocol, runs: list[NoiseRun]) -> list[MaxwellRow]:
    """The protocol's relation, or nothing where its settings do not tell the slope."""

    def column(name: str) -> Any:
        return np.concatenate([np.broadcast_to(getattr(run, name), run.energy.shape) for run in runs])

    measured = {name: column(name) for name in ("entropy", "entropy_error", *_VARIED[protocol])}
    try:
        test = maxwell_residuals(protocol, dimension=spec.dimension, **measured)
    except ValueError:  # too few settings, or none at the same temperature
        return []
    return [MaxwellRow(**test.to_dict())]


EXPERIMENT = Experiment(
    spec=ToyThermoSpec,
    result=ToyThermoResult,
    prepare=lambda *given: None,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: len(result.rows) * result.spec.copies,
    printed=printed,
)
