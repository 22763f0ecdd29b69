"""Study the periods: train the population, measure every run, follow up on the sphere and at the periods' minima.

round "space"   every learning rate x weight decay x seed in the whole space ("width8", ...: of several widths)
round "sphere"  on request, the same network at fixed ELRs around those measured
round "fixed"   on request, for a run that goes on from another, the same with its norm fixed at the checkpoint's
minima          on request, the same shards once more, to keep the weights at the loss minimum of each period
traces          on request, the traces of curvature matrices at snapshots along training
sharpness       on request, once more up to the first jumps, to measure the sharpness before them
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.periods.page import printed, report
from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun, round_name
from onsphere.lab.experiments.periods.science.continued import continued, origin_of, with_norm_fixed
from onsphere.lab.experiments.periods.science.minima import find_minima
from onsphere.lab.experiments.periods.science.runs import analyse
from onsphere.lab.experiments.periods.science.setups import Ready, ready
from onsphere.lab.experiments.periods.science.sharpness import measure_sharpness
from onsphere.lab.experiments.periods.science.sphere import FACTORS, SphereSide, compare, sphere_side
from onsphere.lab.experiments.periods.science.traces import measure_traces, trace_steps
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.experiments.periods.words import answer, describe
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, Problem, ShardFolder, Stage
from onsphere.lab.population.copies import Schedule
from onsphere.lab.population.course import courses_of
from onsphere.lab.population.phases import Phase
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
    space: dict[str, Any] = {"geometry": "space", "radius": None, "schedule": spec.smooth, "augment": spec.augment}
    space["subsets"] = True
    space["snapshots"] = trace_steps(spec.steps, spec.traces)
    problem = problem_of(spec, model, data, widths=spec.widths_used, eps=spec.eps, **space)
    if spec.each_width is not None:
        return _of_widths(spec, problem, progress)
    given = ready(problem, spec.setup, progress, spec.counted)
    if (spec.compare_sphere or spec.fix_norm) and set(given.invariant) != set(given.problem.trained):
        raise InputError(
            f"--elr-of: {spec.elr_of!r} is not allowed with --{'fix-norm' if spec.fix_norm else 'compare-sphere'}: it "
            f"counts {len(given.invariant)} of {len(given.problem.trained)} tensors that are on the sphere together, "
            "which fixes the ELR of all of them"
        )
    origin_of(spec, given.problem)
    return _scaled(spec, given)


def _scaled(spec: PeriodsSpec, given: Ready) -> Ready:
    """The same with the initial norm that was asked for."""
    if spec.norm_scale == 1:
        return given
    return replace(given, problem=replace(given.problem, scaled=dict.fromkeys(given.invariant, spec.norm_scale)))


def _of_widths(spec: PeriodsSpec, problem: Problem, progress: Progress) -> Ready:
    """The problem of every width, the first one foremost."""
    found = dict[int, Ready]()
    for width in spec.each_width or ():
        layers = problem.model_options["widths"]
        size = {"widths": (width,) * len(layers)} if layers else {"width": width}
        own = replace(problem, model_options=problem.model_options | size)
        found[width] = _scaled(spec, ready(own, spec.setup, progress, spec.counted))
    first = next(iter(found.values()))
    other = next((w for w, one in found.items() if one.invariant != first.invariant), None)
    if other is not None:
        raise InputError(
            f"--each-width: {other} is not allowed: it has other scale-invariant tensors than the first width"
        )
    return replace(first, widths={width: one.problem for width, one in found.items()})


def measure(session: Session[PeriodsSpec, Ready]) -> dict[str, Any]:
    """Train the settings, measure them, and do what else was asked for."""
    if session.spec.continue_from is not None:
        session = continued(session)
    spec, invariant = session.spec, session.given.invariant
    settings, runs, shards = spec.settings(), list[PeriodsRun](), list[ShardFolder]()
    widths: dict[int | None, Problem] = dict(session.given.widths.items()) or {None: session.given.problem}
    for width, problem in widths.items():

        def told(ended: Sequence[ShardFolder], width: int | None = width) -> str:
            found = read_runs(ended[-1], invariant, spec.burn_in, spec.smooth)
            runs.extend(replace(run, width=width) for run in found)
            runs.sort(key=lambda run: (list(widths).index(run.width), settings.index(run.setting), run.seed))
            return describe(runs)

        shards += session.train(problem, round_name(width), copies_of(spec), title_of(width), told=told)
    side = on_sphere(session, runs) if spec.compare_sphere else SphereSide([], [])
    return {
        "runs": runs,
        "comparison": side.comparison,
        "sphere": side.runs,
        "minima": find_minima(session, shards, runs) if spec.minima else [],
        "sharpness": measure_sharpness(session, shards, runs) if spec.sharpness else [],
        "traces": measure_traces(session, shards, runs) if spec.traces else [],
        "fixed": with_norm_fixed(session, copies_of(spec), runs) if spec.fix_norm else [],
        "engine": {"invariant": invariant},
    }


def title_of(width: int | None) -> str:
    """What a round in the whole space is called."""
    return "whole space" if width is None else f"width {width}"


def copies_of(spec: PeriodsSpec) -> list[Copy]:
    """The runs in the whole space."""
    return [
        Copy(seed, lr, decay, spec.momentum_used, phases_of(spec, lr), seed if spec.continue_from else 0)
        for lr, decay in spec.settings()
        for seed in range(spec.seeds)
    ]


def phases_of(spec: PeriodsSpec, lr: float) -> tuple[Phase, ...]:
    """How a learning rate goes along the run, where that is by steps or straight lines.

    Source: the schedules by quarters of the published code, Lobacheva, Kodryan et al., NeurIPS 2021, are such points.
    """
    points = [(0, lr), *((step, lr * factor) for step, factor in spec.points)]
    if len(points) == 1:
        return ()
    if spec.schedule == "steps":
        return tuple(Phase(step, rate) for step, rate in points)
    lines = [Phase(step, rate, after, "linear") for (step, rate), (_, after) in pairwise(points)]
    return (*lines, *(Phase(*point) for point in points[-1:] if point[0] < spec.steps))


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
    _, everything = shard.evaluated()
    found = courses_of(shard, invariant, schedule)
    runs = [analyse(course, evaluations[-1, k], burn_in=burn_in) for k, course in enumerate(found)]

    def at_the_end(name: str, k: int) -> float | None:
        value = float(everything[name][-1, k]) if name in everything else math.nan
        return value if math.isfinite(value) else None

    return [
        replace(run, clean_error=at_the_end("clean_error", k), corrupted_error=at_the_end("corrupted_error", k))
        for k, run in enumerate(runs)
    ]


def stages(spec: PeriodsSpec, given: Ready) -> list[Stage]:
    """The settings at every width, and beside them what is trained on the sphere or at a fixed norm."""
    copies, widths = copies_of(spec), dict[int | None, Problem](given.widths.items()) or {None: given.problem}
    found = [Stage(title_of(width), problem, copies) for width, problem in widths.items()]
    sphere = replace(given.problem, geometry="sphere", radius=1.0, snapshots=(), schedule="constant")
    if spec.compare_sphere:
        found.append(Stage("sphere", sphere, [Copy(c.seed, 1e-3) for c in copies for _ in FACTORS], sure=False))
    if spec.fix_norm:
        found.append(Stage("norm fixed", replace(sphere, radius=None), [Copy(c.seed, 1e-3) for c in copies]))
    return found


EXPERIMENT = Experiment(
    spec=PeriodsSpec,
    result=PeriodsResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=lambda result: describe(result.runs),
    runs=lambda result: len(result.runs) + len(result.sphere) + len(result.fixed),
    printed=printed,
    stages=stages,
    beside="minima, sharpness and traces, where they are asked for",
)
resume_periods = EXPERIMENT.resume
