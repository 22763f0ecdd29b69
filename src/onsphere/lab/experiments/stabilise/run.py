"""See the stationary state from inside: change the ELR, wait, compare; then look how far the runs have wandered.

round "stay"    every ELR x every seed, from start to end, weights kept at growing lags after the middle
round "change"  every ELR of the chaotic equilibrium into every other x every seed, changed in the middle
barriers        between the middle and later times of the runs that stay
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session, trained
from onsphere.lab.experiments.stabilise.analyse import courses, levels, memory_course, remaining
from onsphere.lab.experiments.stabilise.page import printed, report
from onsphere.lab.experiments.stabilise.result import StabiliseResult
from onsphere.lab.experiments.stabilise.spec import StabiliseSpec
from onsphere.lab.experiments.stabilise.wander import distances, measure_ways, stays
from onsphere.lab.experiments.stabilise.words import answer, describe
from onsphere.lab.population import Copy, Phase, Problem
from onsphere.lab.training import Data, Model


@takes(StabiliseSpec)
def stabilise(model: Model = "mlp", data: Data = "digits", **given: Any) -> StabiliseResult:
    """Change the ELR inside the chaotic equilibrium and see what is remembered; see how far runs wander.

    A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).

    Args:
        model: The network, as :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>` takes it.
        data: The data, as it takes them.
        **given: The fields of :class:`~onsphere.lab.experiments.stabilise.spec.StabiliseSpec`, and ``out``,
            ``progress`` and ``stop`` of :meth:`~onsphere.lab.experiment.Experiment.start`, which also says what is
            raised.

    Returns:
        The result; everything is also on disk.

    Source: Kodryan et al., NeurIPS 2022, sections 5 and 6.

    Example:
        >>> from onsphere.lab import stabilise
        >>> stabilise(elrs=[0.02, 0.05], seeds=3)  # doctest: +SKIP
    """
    return EXPERIMENT.start(model, data, **given)


def measure(session: Session[StabiliseSpec, Problem]) -> dict[str, Any]:
    """Train the runs that stay and those that change, compare their levels, measure how far the former wander."""
    spec, change, lags = session.spec, session.spec.change_used, session.spec.lags()
    staying = [Copy(seed, elr) for elr in (*spec.elrs, *spec.divergence_elrs) for seed in range(spec.seeds)]
    changing = [
        Copy(seed, after, phases=(Phase(0, before), Phase(change, after)))
        for before, after in spec.changes()
        for seed in range(spec.seeds)
    ]
    kept = replace(session.given, snapshots=tuple(change + lag for lag in lags))
    shards = session.train(kept, "stay", staying, "runs at one ELR")
    changed = session.train(session.given, "change", changing, "changes of the ELR")
    runs = [run for shard in (*shards, *changed) for run in courses(shard, change) if run.after in spec.elrs]
    runs.sort(key=lambda run: (run.after, run.before, run.seed))
    far = [row for shard in shards for row in distances(shard, change, lags)]
    ways = measure_ways(session, shards)
    return {
        "levels": levels(runs, change),
        "memory": remaining(runs, change),
        "memory_course": memory_course(runs, change),
        "stays": stays(shards, change, far, ways),
        "distances": far,
        "ways": ways,
    }


EXPERIMENT = Experiment(
    spec=StabiliseSpec,
    result=StabiliseResult,
    prepare=trained,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: result.runs,
    printed=printed,
)
resume_stabilise = EXPERIMENT.resume
