"""Training the ended shards again: it is a function of seed and step to the last bit, so any step can be seen again."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch

from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Session
from onsphere.lab.experiments.periods.science.setups import Ready
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.population import Engine, Plan, Problem, ShardFolder, State
from onsphere.lab.population.course import Course

PIECE = 256  # steps between two looks at ``stop``
Key = tuple[float, float, int]  # lr, weight decay, seed
Again = Session[PeriodsSpec, Ready]


def key_of(course: Course) -> Key:
    """Which run a course is that of."""
    return course.copy.lr, course.copy.weight_decay, course.copy.seed


def trained_again(session: Again, shard: ShardFolder, steps: Collection[int]) -> Iterator[tuple[Engine, State]]:
    """Train a shard of this run again and yield engine and state after each of some steps, ascending.

    Args:
        session: Whose plan it was trained by; its progress is told the copy-steps done.
        shard: A shard whose training has ended.
        steps: The steps after which the state is yielded.

    Raises:
        Interrupted: The run was asked to stop.
    """
    yield from trained_to(session, session.given.problem, session.execution.plan, shard, steps)


def trained_to(
    session: Again, problem: Problem, plan: Plan, shard: ShardFolder, steps: Collection[int]
) -> Iterator[tuple[Engine, State]]:
    """The same for the shard of a problem that was trained by some plan."""
    copies = tuple(shard.copies())
    engine = Engine(problem, copies, plan)
    state = engine.initial_state()
    ring = torch.empty((PIECE, len(copies), engine.columns), dtype=problem.dtype, device=problem.device)
    for step in sorted(set(steps)):
        while state.step < step:
            before = state.step
            state = engine.advance(state, min(step, before + PIECE), ring)
            session.progress.advance((state.step - before) * len(copies))
            if session.stop():
                raise Interrupted
        yield engine, state
