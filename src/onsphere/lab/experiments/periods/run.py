"""Study the periods: train the population, measure every run, follow up on the sphere and at the periods' minima.

round "space"   every learning rate x weight decay x seed in the whole space
round "sphere"  on request, the same network at fixed ELRs around those measured
minima          on request, the same shards once more, to keep the weights at the loss minimum of each period
sharpness       on request, once more up to the first jumps, to measure the sharpness before them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.periods.page import printed, report
from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun
from onsphere.lab.experiments.periods.science.minima import find_minima
from onsphere.lab.experiments.periods.science.runs import analyse
from onsphere.lab.experiments.periods.science.setups import Ready, ready
from onsphere.lab.experiments.periods.science.sharpness import measure_sharpness
from onsphere.lab.experiments.periods.science.sphere import SphereSide, compare, sphere_side
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.experiments.periods.words import answer, describe
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, ShardFolder
from onsphere.lab.population.copies import Schedule
from onsphere.lab.population.course import courses_of
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, problem_of


@takes(PeriodsSpec)
def train_periods(model: Model = "mlp", data: Data = "digits", **given: Any) -> PeriodsResult:
    """Train with weight decay in the whole space and measure jumps, periods and the equilibrium.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new module.
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        **given: The fields of :class:`~onsphere.lab.experiments.periods.spec.PeriodsSpec`, and ``out``, ``progress``
            and ``stop`` of :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>`.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_periods` continues the run.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021.

    Example:
        >>> from onsphere.lab import train_periods
        >>> train_periods(lr=1.0, weight_decay=3e-3, train=512, batch_size="full")  # doctest: +SKIP
    """
    return EXPERIMENT.start(model, data, **given)


def prepare(spec: PeriodsSpec, model: Model, data: Data, progress: Progress) -> Ready:
    """The problem in the whole space with the network of the set-up."""
    space = {"geometry": "space", "radius": None, "schedule": spec.schedule, "augment": spec.augment}
    problem = problem_of(spec, model, data, widths=spec.widths_used, eps=spec.eps, **space)
    given = ready(problem, spec.setup, progress, spec.counted)
    if spec.compare_sphere and set(given.invariant) != set(given.problem.trained):
        raise InputError(
            f"--elr-of: {spec.elr_of!r} is not allowed with --compare-sphere: it counts {len(given.invariant)} of "
            f"{len(given.problem.trained)} tensors that are on the sphere together, which fixes the ELR of all of them"
        )
    return given


def measure(session: Session[PeriodsSpec, Ready]) -> dict[str, Any]:
    """Train the settings, measure them, and do what else was asked for."""
    spec, problem, invariant = session.spec, session.given.problem, session.given.invariant
    settings, runs = spec.settings(), list[PeriodsRun]()

    def told(ended: Sequence[ShardFolder]) -> str:
        runs.extend(read_runs(ended[-1], invariant, spec.burn_in, spec.schedule))
        runs.sort(key=lambda run: (settings.index(run.setting), run.seed))
        return describe(runs)

    copies = [Copy(seed, lr, decay, spec.momentum_used) for lr, decay in settings for seed in range(spec.seeds)]
    shards = session.train(problem, "space", copies, "whole space", told=told)
    side = on_sphere(session, runs) if spec.compare_sphere else SphereSide([], [])
    return {
        "runs": runs,
        "comparison": side.comparison,
        "sphere": side.runs,
        "minima": find_minima(session, shards, runs) if spec.minima else [],
        "sharpness": measure_sharpness(session, shards, runs) if spec.sharpness else [],
        "engine": {"invariant": invariant},
    }


def on_sphere(session: Session[PeriodsSpec, Ready], runs: Sequence[PeriodsRun]) -> SphereSide:
    """Train at fixed ELRs around the measured ones and compare."""
    problem, wanted = sphere_side(session.given.problem, runs)
    if not wanted:
        return SphereSide([], [])
    shards = session.train(problem, "sphere", [Copy(seed, elr) for _, _, elr, seed in wanted], "sphere")
    return compare(runs, wanted, shards, session.spec.burn_in)


def read_runs(
    shard: ShardFolder, invariant: Sequence[str] | None, burn_in: int = 100, schedule: Schedule = "constant"
) -> list[PeriodsRun]:
    """The runs of an ended shard in numbers."""
    _, evaluations = shard.evaluations()
    found = courses_of(shard, invariant, schedule)
    return [analyse(course, evaluations[-1, k], burn_in=burn_in) for k, course in enumerate(found)]


EXPERIMENT = Experiment(
    spec=PeriodsSpec,
    result=PeriodsResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=lambda result: describe(result.runs),
    runs=lambda result: len(result.runs) + len(result.sphere),
    printed=printed,
)
resume_periods = EXPERIMENT.resume
