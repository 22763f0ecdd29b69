"""Going on from a step of another run of periods: its networks and batches, with this run's lr, decay and schedule.

The first run's shards are trained once more up to the step, to the same bits, so that it need not have kept anything.
With its norm fixed a run goes on at the ELR that the checkpoint has, by projection after each step,

    w <- ρ (w (1 - lr wd) - lr g) / ‖...‖,    which is the sphere's step at ELR = lr / ((1 - lr wd) ρ²)

Source: Lobacheva, Kodryan et al., NeurIPS 2021 (published code: resuming at an epoch, fixing the norm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onsphere.dynamics import default_delta
from onsphere.lab.engine_file import Execution, read_execution
from onsphere.lab.experiment import Refused
from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun
from onsphere.lab.experiments.periods.science.again import Again, trained_to
from onsphere.lab.experiments.periods.science.rows import FixedNorm
from onsphere.lab.experiments.periods.science.runs import count_jumps
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, Problem, ShardFolder
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_tensors, write_tensors
from onsphere.lab.training import validated

STARTS = "starts.safetensors"
#: Fields in which a run must be as the one that it continues: what the network computes, sees, and starts from.
SAME = (
    *("data", "train", "test", "label_noise", "label_noise_kind", "pool", "standardise"),
    *("model", "width", "widths_used", "head_norm_used"),
    *("setup", "momentum_used", "loss", "batch_size", "augment", "eps", "seed", "dtype"),
)
#: Steps between the batches of two orders: more than any run has.
APART = 10**10


@dataclass(frozen=True)
class Origin:
    """The run that is continued.

    Attributes:
        run: Where everything of it lies.
        spec: What it was asked for.
        execution: How it was executed.
        step: The step at which its networks are taken.
    """

    run: Run
    spec: PeriodsSpec
    execution: Execution
    step: int

    @property
    def first_step(self) -> int:
        """The number of that run's own first step in the stream of batches."""
        return offset_of(self.run) if self.spec.continue_from is not None else 0


def origin_of(spec: PeriodsSpec, problem: Problem) -> Origin | None:
    """The run that a spec continues; None if it continues none.

    Raises:
        InputError: It is no ended run of periods, has several settings, too few seeds or steps, or another network or
            other data than this one.
    """
    if spec.continue_from is None:
        return None
    named = f"--continue-from: {spec.continue_from}"
    run = Run.open(Path(spec.continue_from))
    if run.manifest["command"] != "periods":
        raise InputError(f"{named} is a run of {run.manifest['command']}; it must be one of periods")
    if not run.done:
        raise InputError(f"{named} has not ended; onsphere resume {spec.continue_from} goes on with it")
    first, execution = validated(PeriodsSpec, run.manifest["spec"], f"{run.manifest_path}: "), read_execution(run)
    if execution is None:
        raise InputError(f"{named} has no engine.json, so that it cannot be trained again")
    for name in SAME:
        theirs, own = getattr(first, name), getattr(spec, name)
        if theirs != own:
            option = name.removesuffix("_used").replace("_", "-")
            raise InputError(f"{named} was trained with --{option} {_said(theirs)}, and this run has {_said(own)}")
    settings = len(first.settings()) * len(first.each_width or (0,))
    if settings > 1 or first.each_width:
        raise InputError(f"{named} has {settings} settings of lr, weight decay and width; it must have one, by --width")
    if spec.seeds > first.seeds:
        raise InputError(f"--seeds: {spec.seeds} is not allowed: {spec.continue_from} has {first.seeds}")
    step = first.steps if spec.at is None else spec.at
    if step > first.steps:
        raise InputError(f"--at: {step} is not allowed: {spec.continue_from} has {first.steps} steps")
    if execution.data != problem.data.fingerprint():
        raise InputError(f"{named} was trained on other data than this run has")
    return Origin(run, first, execution, step)


def offset_of(run: Run) -> int:
    """The number of a continued run's first step in the stream of batches, which stands beside its starts."""
    return int(read_tensors(run.folder / STARTS)[1]["offset"])


def continued(session: Again) -> Again:
    """The session with a problem that begins where the first run is taken; trains that run once more if need be.

    Raises:
        Interrupted: The run was asked to stop before the first run's networks were taken.
        InputError: A network of the first run is not finite at that step.
    """
    path = session.run.folder / STARTS
    if not path.exists():
        origin = origin_of(session.spec, session.given.problem)
        assert origin is not None
        offset = origin.first_step + origin.step + APART * session.spec.order
        write_tensors(path, _taken(session, origin), {"offset": str(offset)})
    problem = replace(session.given.problem, starts=path, offset=offset_of(session.run))
    return replace(session, given=replace(session.given, problem=problem))


def _taken(session: Again, origin: Origin) -> dict[str, Tensor]:
    """Trained tensors ``NAME`` and momentum buffers ``buffer0/NAME`` at the step, each [seeds, ...]."""
    first, names = first_problem(session.given.problem, origin), session.given.problem.trained
    found: dict[int, dict[str, Tensor]] = {}
    session.progress.begin("the first run once more", origin.step * origin.spec.seeds)
    for folder in origin.run.shard_folders("space"):
        shard = ShardFolder(folder)
        for _, state in trained_to(session, first, origin.execution.plan, shard, [origin.step]):
            for k, copy in enumerate(shard.copies()):
                if not bool(state.alive[k]):
                    where = f"seed {copy.seed} of {origin.run.folder} is not finite there"
                    raise Refused(f"--at: {origin.step} is not allowed: {where}")
                own = dict(zip(names, (values[k] for values in state.params), strict=True))
                buffers = zip(names, (values[k] for values in state.buffers[: len(names)]), strict=False)
                found[copy.seed] = own | {f"buffer0/{name}": value for name, value in buffers}
    rows = [found[seed] for seed in range(session.spec.seeds)]
    return {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}


def first_problem(problem: Problem, origin: Origin) -> Problem:
    """What the first run trained, from the problem of the run that continues it."""
    spec, starts = origin.spec, origin.run.folder / STARTS
    scaled = {}
    if spec.norm_scale != 1:
        scaled = dict.fromkeys(PeriodsResult.load(origin.run).engine.invariant, spec.norm_scale)
    return replace(
        problem,
        steps=spec.steps,
        schedule=spec.smooth,
        evaluations=spec.evaluations,
        snapshots=(),
        scaled=scaled,
        starts=starts if spec.continue_from is not None else None,
        offset=origin.first_step,
    )


def norms_at_start(session: Again) -> list[float]:
    """The norm that each seed's counted tensors have at the checkpoint."""
    tensors = read_tensors(session.run.folder / STARTS)[0]
    squares = [tensors[name].double().flatten(1).square().sum(1) for name in session.given.invariant]
    return [float(norm) for norm in torch.stack(squares).sum(0).sqrt()]


def with_norm_fixed(session: Again, copies: Sequence[Copy], runs: Sequence[PeriodsRun]) -> list[FixedNorm]:
    """Train the same copies with the norm fixed at the checkpoint's, and set them beside those whose norm is free.

    Args:
        session: The session whose problem begins at the checkpoint.
        copies: The copies in the whole space.
        runs: What was measured of them.

    Raises:
        Interrupted: The run was asked to stop.
    """
    norms = norms_at_start(session)
    problem = replace(session.given.problem, geometry="sphere", radius=None, snapshots=())
    elrs = [c.lr / ((1 - c.lr * c.weight_decay) * norms[c.seed] ** 2) for c in copies]
    wanted = [Copy(c.seed, elr, start=c.start) for c, elr in zip(copies, elrs, strict=True)]
    shards = session.train(problem, "fixed", wanted, "norm fixed")
    free = {run.key: run for run in runs}
    found, left = [], iter(copies)
    for shard in shards:
        readings, (_, evaluations) = shard.readings(), shard.evaluations()
        own = shard.copies()
        angles = readings.angular_update(np.array([copy.lr for copy in own]))
        distances = 2 * np.sin(angles / 2) ** 2
        for k, (copy, said) in enumerate(zip(own, left, strict=False)):
            run, loss = free[said.lr, said.weight_decay, said.seed], readings.loss[:, k]
            finite = bool(np.isfinite(loss).all())
            tau = 1 / (2 * said.lr * said.weight_decay)
            delta = default_delta(said.lr, said.weight_decay)
            found.append(
                FixedNorm(
                    lr=said.lr,
                    weight_decay=said.weight_decay,
                    seed=said.seed,
                    norm=norms[said.seed],
                    elr=copy.lr,
                    loss=float(loss[run.start :].mean()) if finite else None,
                    free_loss=run.loss,
                    delta_jumps=count_jumps(distances[:, k], session.spec.burn_in, delta, tau / 5),
                    free_delta_jumps=run.delta_jumps,
                    test_error=float(evaluations[-1, k, 3]) if finite else None,
                    free_test_error=run.test_error,
                )
            )
    return found


def _said(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
