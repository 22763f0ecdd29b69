"""``engine.json`` of a run: the plan by which its shards are executed, the workers, the timings behind the choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onsphere.lab.population import Plan
from onsphere.lab.store import Damaged, Run
from onsphere.lab.store.files import read_json
from onsphere.lab.store.shape import check_shape

ENGINE = "engine.json"


def read_engine(run: Run) -> dict[str, Any]:
    """What ``engine.json`` says.

    Raises:
        Damaged: It cannot be read, was changed, or holds no plan.
    """
    path = run.folder / ENGINE
    engine = read_json(path)
    workers = engine.get("workers")
    try:
        plan = Plan(**engine["plan"])
        check_shape(plan)
        if not isinstance(workers, int) or workers < 1 or plan.chunk < 1:
            raise ValueError("workers and chunk must be whole numbers from 1")
        if not isinstance(engine["data"], str) or not isinstance(engine["timings"], dict):
            raise ValueError("data and timings are not what they were")
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(path, f"is damaged: it holds no plan ({error})") from None
    return engine


def engine_summary(engine: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says about its execution: mode, chunk, compiled, workers."""
    return {name: engine["plan"][name] for name in ("mode", "chunk", "compiled")} | {"workers": engine["workers"]}
