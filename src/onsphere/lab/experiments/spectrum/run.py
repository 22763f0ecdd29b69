"""Map the spectrum of regime 1: train a grid of small ELRs, measure at matched loss and at the end, compare minima.

round "spectrum"   every effective learning rate x every seed on the sphere
matched            the same shards once more, to keep the weights where the loss first reached the target
measured           gradient norm, sharpness, losses, errors, angle from init at both places; angles and barriers
                   between the minima of a seed
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.regimes.classify import Cell, settled
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.experiments.spectrum.measure import Key, lowest_common, measure_pair, measure_point
from onsphere.lab.experiments.spectrum.page import printed, report
from onsphere.lab.experiments.spectrum.result import Pair, Point, SpectrumResult, SpectrumRun, trends_of
from onsphere.lab.experiments.spectrum.spec import SpectrumSpec
from onsphere.lab.experiments.spectrum.words import answer, describe
from onsphere.lab.networks.matched import Search, matched_weights
from onsphere.lab.population import Copy, Problem, ShardFolder, Stage
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, prepared, problem_of

KEPT = "measurements"  # the file of everything that is measured once, by name


@takes(SpectrumSpec)
def map_spectrum(model: Model = "mlp", data: Data = "digits", **given: Any) -> SpectrumResult:
    """Compare the minima of different effective learning rates: sharpness, test loss, distance, barriers.

    A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).

    Args:
        model: The network, as :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>` takes it.
        data: The data, as it takes them.
        **given: The fields of :class:`~onsphere.lab.experiments.spectrum.spec.SpectrumSpec`, and ``out``, ``progress``
            and ``stop`` of :meth:`~onsphere.lab.experiment.Experiment.start`, which also says what is raised.

    Returns:
        The result; everything is also on disk.

    Source: Kodryan et al., NeurIPS 2022, section 5.1 (regime 1: sharpness, angles and paths between minima).
    """
    return EXPERIMENT.start(model, data, **given)


def prepare(spec: SpectrumSpec, model: Model, data: Data, progress: Progress) -> Problem:
    """The problem, with the widths that a spectrum has by default."""
    return prepared(problem_of(spec, model, data, widths=spec.widths_used), progress)


def measure(session: Session[SpectrumSpec, Problem]) -> dict[str, Any]:
    """Train the grid, find every run at matched loss, measure all of them, compare the minima of each seed."""
    spec, problem = session.spec, session.given
    # by ELR first: copies of a shard then reach the target at about the same time
    copies = [Copy(seed, elr) for elr in spec.elr for seed in range(spec.seeds)]
    shards = session.train(problem, "spectrum", copies, "grid")
    cells, losses = _read(shards)
    target = spec.target if spec.target is not None else lowest_common(losses, cells, spec.window)
    search: Search[Key] = Search(
        problem=problem,
        window=spec.window,
        gradients=spec.gradients,
        key=lambda copy: (copy.lr, copy.seed),
        plan=session.execution.plan,
        progress=session.progress,
        stop=session.stop,
    )
    matched = {} if target is None else matched_weights(search, shards, losses, target)
    finals = {
        (copy.lr, copy.seed): {name: weights[name][k] for name in problem.trained}
        for shard in shards
        for weights in [shard.weights()]
        for k, copy in enumerate(shard.copies())
    }
    alive = [(cell.elr, cell.seed) for cell in cells if cell.finite]
    wanted = [("matched", key, match.weights, match.step) for key, match in matched.items()]
    wanted += [("end", key, finals[key], spec.steps) for key in alive]
    both = [(low, high, s) for s in range(spec.seeds) for low, high in combinations(spec.elr, 2)]
    both = [(low, high, s) for low, high, s in both if {(low, s), (high, s)} <= set(alive)]
    session.progress.begin("measuring", len(wanted) + len(both))
    points, pairs = {}, []
    for where, key, weights, step in session.each(wanted):
        found = partial(measure_point, spec, problem, weights, key[1], step)
        points[where, key] = session.kept(KEPT, Point, found, units=0, key=f"{where}/{key[0]!r}/{key[1]}")
    for low, high, seed in session.each(both):
        between = partial(measure_pair, spec, problem, (low, finals[low, seed]), (high, finals[high, seed]), seed)
        pairs.append(session.kept(KEPT, Pair, between, units=0, key=f"pair/{low!r}/{high!r}/{seed}"))
    runs = [
        SpectrumRun(*key, cell.regime, cell.finite, points.get(("matched", key)), points.get(("end", key)))
        for cell in cells
        for key in [(cell.elr, cell.seed)]
    ]
    return {"target": target, "trends": trends_of(runs, pairs), "runs": runs, "pairs": pairs}


def _read(shards: Sequence[ShardFolder]) -> tuple[list[Cell], dict[Key, NDArray[np.float64]]]:
    """The labelled runs, by ELR and seed, and their minibatch losses [T]."""
    cells: list[Cell] = []
    losses: dict[Key, NDArray[np.float64]] = {}
    for shard in shards:
        cells += read_cells(shard, 0)
        loss = shard.readings().loss
        losses |= {(copy.lr, copy.seed): loss[:, k] for k, copy in enumerate(shard.copies())}
    return settled(sorted(cells, key=lambda cell: (cell.elr, cell.seed))), losses


def stages(spec: SpectrumSpec, problem: Problem) -> list[Stage]:
    """The one round of training: every ELR with every seed."""
    return [Stage("grid", problem, [Copy(seed, elr) for elr in spec.elr for seed in range(spec.seeds)])]


EXPERIMENT = Experiment(
    spec=SpectrumSpec,
    result=SpectrumResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: len(result.runs),
    printed=printed,
    stages=stages,
    beside="sharpness and barriers, measured after training",
)
resume_spectrum = EXPERIMENT.resume
