"""``engine.json`` of a run: the plan by which its shards are executed, the workers, the timings behind the choice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from onsphere.lab.options import misfit
from onsphere.lab.population import Plan
from onsphere.lab.result import typed
from onsphere.lab.store import Damaged, Run
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.store.seal import KEY

ENGINE = "engine.json"


@dataclass(frozen=True)
class Execution:
    """How the shards of a run are executed; a resumed run keeps it.

    Attributes:
        plan: How the copies of a shard are executed.
        workers: How many processes share a round.
        timings: CPU seconds a copy and step of every plan that was tried.
        data: Fingerprint of the data.
    """

    plan: Plan
    workers: int
    timings: dict[str, Any]
    data: str

    @property
    def summary(self) -> dict[str, Any]:
        """What a result says about it: mode, chunk, compiled, workers."""
        plan = self.plan
        return {"mode": plan.mode, "chunk": plan.chunk, "compiled": plan.compiled, "workers": self.workers}


def write_execution(run: Run, execution: Execution) -> None:
    """Write ``engine.json`` of a run."""
    write_json(run.folder / ENGINE, asdict(execution))


def read_execution(run: Run) -> Execution | None:
    """What ``engine.json`` says; None if there is no such file.

    Raises:
        Damaged: It cannot be read, was changed, or holds no plan.
    """
    path = run.folder / ENGINE
    if not path.exists():
        return None
    values = {name: value for name, value in read_json(path).items() if name != KEY}
    try:
        found = typed(Execution, values)
        if found.workers < 1 or found.plan.chunk < 1:
            raise ValueError("workers and chunk must be whole numbers from 1")
    except ValueError as error:
        raise Damaged(path, f"is damaged: it holds no plan ({misfit(error)})") from None
    return found
