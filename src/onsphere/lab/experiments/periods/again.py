"""Train an ended shard once more, to the same bits: training is a function of seed and step, so any step can be seen.

What a follow-up wants to know of the weights between the steps that are kept is found on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch

from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Session
from onsphere.lab.experiments.periods.setups import Ready
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.population import Engine, ShardFolder, State

__all__ = ["Again", "trained_again"]

PIECE = 256  # steps between two looks at ``stop``
Again = Session[PeriodsSpec, Ready]


def trained_again(session: Again, shard: ShardFolder, steps: Collection[int]) -> Iterator[tuple[Engine, State]]:
    """Train a shard again and yield engine and state after each of some steps, ascending.

    Args:
        session: Whose plan it was trained by; its progress is told the copy-steps done.
        shard: The shard.
        steps: After which steps.

    Raises:
        Interrupted: The run was asked to stop.
    """
    problem, copies = session.given.problem, tuple(shard.copies())
    engine = Engine(problem, copies, session.execution.plan)
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
