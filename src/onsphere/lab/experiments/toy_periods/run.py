"""Run the periods toy: one run with its traces, and the periods at other floors and weight decays around it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from onsphere.dynamics.toys import PeriodsRun, pair_threshold, period_law, simulate_periods
from onsphere.lab.calling import takes
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.toy_periods.page import printed, report
from onsphere.lab.experiments.toy_periods.result import Jump, LawRow, ToyPeriodsResult, answer, describe
from onsphere.lab.experiments.toy_periods.spec import ToyPeriodsSpec
from onsphere.lab.result import Backend
from onsphere.lab.store.files import write_table
from onsphere.lab.toy_options import check_backend

_FLOORS = (1e-8, 1e-16, 1e-24, 1e-32, 1e-40)
_FACTORS = (1 / 3, 1.0, 3.0)  # of the weight decay
_LEAST_DECAY = 1e-5  # of lr weight_decay: below, neighbours would take longer than the run itself
_READINGS = 8000  # of the traces, about


@takes(ToyPeriodsSpec)
def toy_periods(**given: Any) -> ToyPeriodsResult:
    """Train the pairs toy with weight decay and compare its periods with √(2 ln(1/floor) / (lr weight_decay)).

    Args:
        **given: The fields of :class:`~onsphere.lab.experiments.toy_periods.spec.ToyPeriodsSpec`, and ``out``,
            ``progress`` and ``stop`` of :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>`.

    Returns:
        Jumps, periods, their law, and the law's neighbourhood; everything is also on disk.

    Raises:
        InputError: A field is wrong; the message is one line.
        Interrupted: ``stop`` returned True; ``onsphere resume`` runs it again.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021 (the mechanism); :func:`onsphere.dynamics.toys.period_law`.
    """
    return EXPERIMENT.start(**given)


def measure(session: Session[ToyPeriodsSpec, None]) -> dict[str, Any]:
    """Run it once with traces, which ``trace.parquet`` keeps, then at other floors and weight decays."""
    spec = session.spec
    if session.stop():
        raise Interrupted
    expected = _expected_steps(spec)
    session.progress.begin("pairs with weight decay", expected)
    every = max(1, expected // _READINGS)
    run = _simulate(spec, spec.weight_decay, spec.floor, steps=spec.steps, record_every=every)
    session.progress.advance(expected)
    if session.stop():
        raise Interrupted
    trace = {
        "step": run.recorded_steps,
        "elr": run.recorded_elr[0],
        "log_radius": run.recorded_log_radius[0],
        "loss": run.recorded_loss[0],
        "effective_gradient_norm": run.recorded_effective_gradient_norm[0],
        "angle": run.recorded_angle[0],
    }
    write_table(session.run.table_path("trace"), trace)
    return _values(run) | {"law": _law(spec), "engine": Backend(run.backend)}


def _simulate(spec: ToyPeriodsSpec, weight_decay: Any, floor: Any, **given: Any) -> PeriodsRun:
    same: dict[str, Any] = {"alphas": spec.alphas, "seed": spec.seed, "backend": spec.backend}
    return simulate_periods(spec.lr, weight_decay, floor=floor, **same, **given)


def _expected_steps(spec: ToyPeriodsSpec) -> int:
    """About how many steps the run takes: given, or the descent to the threshold and twelve periods."""
    if spec.steps is not None:
        return spec.steps
    decay = spec.lr * spec.weight_decay
    law = float(period_law(spec.lr, spec.weight_decay, spec.floor))
    return round(math.log(10) / (2 * decay) + 12 * law) if math.isfinite(law) else round(20 / decay)


def _values(run: PeriodsRun) -> dict[str, Any]:
    zero = np.flatnonzero(run.recorded_loss[0] > 0)
    vanished = int(zero[-1]) + 1 if zero.size else 0
    gone = bool((run.fractions[0] == 0).all()) and vanished < len(run.recorded_steps)
    return {
        "outcome": "instability" if gone else "periods" if len(run.jumps[0]) > 1 else "undecided",
        "period": _known(run.period[0]),
        "predicted_period": _known(run.predicted_period[0]),
        "periods": run.periods[0].tolist(),
        "jumps": _jumps(run),
        "threshold": pair_threshold(run.alphas),
        "steps": run.steps,
        "burn_in": int(run.burn_in[0]),
        "vanished": int(run.recorded_steps[vanished]) if gone else None,
        "log_radius": [float(run.recorded_log_radius[0, 0]), float(run.log_radius[0])],
    }


def _jumps(run: PeriodsRun) -> list[Jump]:
    """Each jump with the ELR at its peak and the least one after it, read from the traces."""
    jumps, steps, elr = run.jumps[0], run.recorded_steps, run.recorded_elr[0]
    at = np.searchsorted(steps, jumps).clip(max=len(steps) - 1)
    rows = []
    for (first, last), step in zip(pairwise([*at, len(steps)]), jumps.tolist(), strict=True):
        peak, trough = float(elr[first]), float(elr[first : max(last, first + 1)].min())
        rows.append(Jump(step, peak, trough, peak / trough))
    return rows


def _law(spec: ToyPeriodsSpec) -> list[LawRow]:
    """Periods at other floors and weight decays, the given ones among them."""
    floors = sorted({*_FLOORS, *([spec.floor] if spec.floor else [])}, reverse=True)
    factors = [factor for factor in _FACTORS if _LEAST_DECAY <= spec.lr * spec.weight_decay * factor < 1]
    grid = [(spec.weight_decay * factor, floor) for factor in factors for floor in floors]
    if not grid:
        return []
    run = _simulate(spec, [decay for decay, _ in grid], [floor for _, floor in grid])
    return [
        LawRow(
            lr=spec.lr,
            weight_decay=decay,
            floor=floor,
            jumps=len(run.jumps[k]),
            period=_known(run.period[k]),
            predicted_period=float(run.predicted_period[k]),
            strength=spec.lr * decay * math.log(1 / floor),
        )
        for k, (decay, floor) in enumerate(grid)
    ]


def _known(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


EXPERIMENT = Experiment(
    spec=ToyPeriodsSpec,
    result=ToyPeriodsResult,
    prepare=check_backend,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: 1 + len(result.law),
    printed=printed,
)
