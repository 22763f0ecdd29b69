"""Run the regimes toy: every starting direction at every effective learning rate, in pieces that Ctrl-C can stop.

A seed starts in the same direction at all effective learning rates, so runs differ by their ELR alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics.toys import PairsRun, pair_loss, pair_threshold, simulate_pairs
from onsphere.lab.calling import takes
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.toy_regimes.page import printed, report
from onsphere.lab.experiments.toy_regimes.result import CONVERGED, RegimesRow, ToyRegimesResult, answer, describe
from onsphere.lab.experiments.toy_regimes.spec import ToyRegimesSpec
from onsphere.lab.result import Backend
from onsphere.lab.store.files import write_table
from onsphere.lab.toy_options import check_backend

Array = NDArray[np.float64]

_PIECE = 20_000_000  # pair updates between two looks at stop, about: one ELR with all its seeds at least
_POINTS = 160  # readings of a course, even in log steps
_DENSE = 128  # steps that are read one by one; later ones every so many
_COARSE = 1500  # readings that are kept of the later ones, before they are thinned to points
_KEPT_SEEDS = 10  # whose course goes to disk


@takes(ToyRegimesSpec)
def toy_regimes(**given: Any) -> ToyRegimesResult:
    """Train the pairs toy at many effective learning rates and compare the loss with (A - 1/ELR) / 2.

    Args:
        **given: The fields of :class:`~onsphere.lab.experiments.toy_regimes.spec.ToyRegimesSpec`, and ``out``,
            ``progress`` and ``stop`` of :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>`.

    Returns:
        One row an effective learning rate; everything is also on disk.

    Raises:
        InputError: A field is wrong; the message is one line.
        Interrupted: ``stop`` returned True; ``onsphere resume`` runs it again.

    Source: Kodryan et al., NeurIPS 2022, section 3; :func:`onsphere.dynamics.toys.pair_loss`.
    """
    return EXPERIMENT.start(**given)


def measure(session: Session[ToyRegimesSpec, None]) -> dict[str, Any]:
    """Run every starting direction at every ELR; ``course.parquet`` keeps the course of the first seeds."""
    spec, progress = session.spec, session.progress
    alphas, elrs = np.array(spec.alphas), np.array(spec.chosen())
    starts = np.random.default_rng(spec.seed).standard_normal((spec.seeds, len(alphas), 2))
    size = max(1, _PIECE // (spec.steps * spec.seeds * len(alphas)))
    pieces = [elrs[first : first + size] for first in range(0, len(elrs), size)]
    progress.begin("pairs", len(elrs) * spec.seeds * spec.steps)
    rows, courses = list[RegimesRow](), list[dict[str, Array]]()
    for piece in pieces:
        if session.stop():
            raise Interrupted
        run, course = _piece(spec, piece, starts)
        rows += _rows(alphas, piece, run)
        courses.append(course)
        progress.advance(len(piece) * spec.seeds * spec.steps)
    table = {name: np.concatenate([course[name] for course in courses]) for name in courses[0]}
    write_table(session.run.table_path("course"), table)
    threshold = pair_threshold(alphas)
    return {"alphas": alphas.tolist(), "threshold": threshold, "rows": rows, "engine": Backend(run.backend)}


def _rows(alphas: Array, elrs: Array, run: PairsRun) -> list[RegimesRow]:
    at_random = float(alphas.sum()) / 2
    loss = run.loss.reshape(len(elrs), -1)
    individual = 1 / (1 / run.individual_elrs.reshape(*loss.shape, -1)).mean(axis=1)
    return [
        RegimesRow(
            elr=float(elr),
            relative_elr=float(elr * alphas.sum()),
            loss=float(found.mean()),
            loss_low=float(found.min()),
            loss_high=float(found.max()),
            predicted_loss=float(predicted),
            loss_at_random=at_random,
            converged=bool(found.max() < CONVERGED * at_random),
            individual_elrs=own.tolist(),
        )
        for elr, found, predicted, own in zip(elrs, loss, pair_loss(alphas, elrs), individual, strict=True)
    ]


def _piece(spec: ToyRegimesSpec, elrs: Array, starts: Array) -> tuple[PairsRun, dict[str, Array]]:
    """Some effective learning rates with all seeds, and the first seeds' course at steps that are even in log."""

    def run(steps: int, seeds: int, record_every: int) -> PairsRun:
        return simulate_pairs(
            spec.alphas,
            np.repeat(elrs, seeds),
            steps,
            start=np.tile(starts[:seeds], (len(elrs), 1, 1)),
            record_every=record_every,
            backend=spec.backend,
        )

    seeds = min(spec.seeds, _KEPT_SEEDS)
    late, early = run(spec.steps, seeds, max(1, spec.steps // _COARSE)), run(min(spec.steps, _DENSE), seeds, 1)
    later = _thinned(late.recorded_steps, spec.steps) & (late.recorded_steps > early.steps)
    kept = [(early, _thinned(early.recorded_steps, spec.steps)), (late, later)]
    steps = np.concatenate([one.recorded_steps[here] for one, here in kept])
    loss = np.concatenate([one.recorded_loss[:, here] for one, here in kept], axis=1)
    own = np.concatenate([one.recorded_elrs[:, here] for one, here in kept], axis=1)
    points = len(steps)
    course: dict[str, Array] = {
        "elr": np.repeat(elrs, seeds * points),
        "seed": np.tile(np.repeat(np.arange(seeds), points), len(elrs)),
        "step": np.tile(steps, len(elrs) * seeds),
        "loss": loss.reshape(-1),
        **{f"elr_{i + 1}": own[..., i].reshape(-1) for i in range(len(spec.alphas))},
    }
    return late if seeds == spec.seeds else run(spec.steps, spec.seeds, 0), course


def _thinned(steps: NDArray[np.int64], last: int) -> NDArray[np.bool_]:
    """Which of the steps stay so that up to ``last`` they are about even in log: each that opens a new bin."""
    bins = np.floor(np.log1p(steps) / np.log1p(last) * _POINTS)
    opens: NDArray[np.bool_] = np.diff(bins, prepend=-1) > 0
    return opens


EXPERIMENT = Experiment(
    spec=ToyRegimesSpec,
    result=ToyRegimesResult,
    prepare=check_backend,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: len(result.rows) * result.spec.seeds,
    printed=printed,
)
