"""What a run is going to be, told before anything is trained: copies, steps, shards, time, memory, disk, the end.

    time of a stage = workers' start (where it opens new ones) + the time at which the last worker has no shard left

Shards are given out as the executor gives them out: in order, each to whoever is free first. Of the workers as many are
at work at a time as there are processors. Seconds are those of this machine with nothing else to do.
"""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from onsphere.lab.engine_file import Execution
from onsphere.lab.options import InputError
from onsphere.lab.population import Cost, Plan, Stage, measure_cost, same_cost
from onsphere.lab.report.page import Table
from onsphere.lab.report.words import format_duration, format_number
from onsphere.lab.result import Engine
from onsphere.lab.store.seal import plain
from onsphere.lab.training import shard_size

_WORKER = "import torch, onsphere.lab.workers as w; w.trace(torch.neg, torch.zeros(1))"  # what each does first


@dataclass(frozen=True)
class PlannedStage:
    """A round of training as it is planned.

    Attributes:
        title: What it is called.
        copies: How many copies it has.
        sure: Whether it has so many whatever is found before it.
        steps: Training steps of each copy.
        shards: How many shards they make.
        shard_copies: Copies of a shard, at most.
        step_seconds: Processor seconds a copy and step, measured.
        copy_bytes: Memory of a copy: weights, gradients, optimiser state, and what a forward pass keeps.
        worker_bytes: Memory of a worker's copies together, without Python, the libraries and the data.
        disk_bytes: What it leaves on disk, about.
        processor_seconds: Processor seconds of its shards together.
        seconds: How long it takes.
    """

    title: str
    copies: int
    sure: bool
    steps: int
    shards: int
    shard_copies: int
    step_seconds: float
    copy_bytes: int
    worker_bytes: int
    disk_bytes: int
    processor_seconds: float
    seconds: float


@dataclass(frozen=True, repr=False)
class TrainingPlan:
    """What a run is going to be; nothing of it has been trained.

    Attributes:
        command: Command of the experiment, without ``onsphere``.
        engine: How copies are going to be executed.
        processors: How many processors this machine has.
        stages: The rounds of training, in order.
        data_bytes: Memory of the data.
        process_bytes: The most memory that the measuring process had in all; None where the system does not say.
        disk_bytes: What the run leaves on disk, about; figures and page not counted.
        preparing_seconds: Time before the first step: checks, the choice of a plan, the start of the workers.
        seconds: Time from the start to the end of training.
        ends: When that is, if it is started now: local time as ISO 8601 has it.
        beside: What is done after training and is in none of these numbers.
    """

    command: str
    engine: Engine
    processors: int
    stages: tuple[PlannedStage, ...]
    data_bytes: int
    process_bytes: int | None
    disk_bytes: int
    preparing_seconds: float
    seconds: float
    ends: str
    beside: str = ""

    @property
    def processor_seconds(self) -> float:
        """Processor seconds of all shards."""
        return sum(stage.processor_seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--plan --json`` prints."""
        return dict(plain(asdict(self)))

    def table(self) -> Table:
        """The stages as rows of a table."""
        columns = ["round", "copies", "steps each", "shards", "a step", "a copy", "a worker's", "disk", "time"]
        rows = [
            [
                one.title,
                ("" if one.sure else "about ") + str(one.copies),
                str(one.steps),
                f"{one.shards} of at most {one.shard_copies}",
                f"{format_number(1000 * one.step_seconds)} ms",
                format_bytes(one.copy_bytes),
                format_bytes(one.worker_bytes),
                format_bytes(one.disk_bytes),
                format_duration(one.seconds),
            ]
            for one in self.stages
        ]
        return Table([(name, "") for name in columns], rows, numeric=frozenset({1, 2, 4, 5, 6, 7, 8}))

    def lines(self) -> list[str]:
        """What is to be said below the table."""
        copies, steps = sum(s.copies for s in self.stages), sum(s.copies * s.steps for s in self.stages)
        guess = "" if all(stage.sure for stage in self.stages) else "; how many a later round has is an estimate"
        memory = max((stage.worker_bytes for stage in self.stages), default=0)
        parts = [f"{format_bytes(memory)} for its copies", f"{format_bytes(self.data_bytes)} for the data"]
        if self.process_bytes is not None:
            parts.append(f"the process that measured this had {format_bytes(self.process_bytes)} with Python and all")
        said = [
            f"{copies} {'copy' if copies == 1 else 'copies'}, {steps:,} copy-steps{guess}",
            f"engine: {self.engine}, {min(self.engine.workers, self.processors)} at a time",
            f"memory of a worker: {', '.join(parts)}",
            f"disk: about {format_bytes(self.disk_bytes)}",
            f"expected time: {format_duration(self.seconds)}, {format_duration(self.preparing_seconds)} of it before "
            f"the first step; started now it ends {self.ends.replace('T', ' at ')}",
        ]
        return said + ([f"not in these numbers: {self.beside}"] if self.beside else [])

    def __repr__(self) -> str:
        stages = (f"  {s.title}: {s.copies} x {s.steps} steps, {format_duration(s.seconds)}" for s in self.stages)
        return "\n".join([f"plan of onsphere {self.command}", *stages, *(f"  {line}" for line in self.lines())])


def format_bytes(number: float) -> str:
    """Write a number of bytes in the unit a person would choose, by thousands."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{format_number(number if unit != 'B' else int(number))} {unit}"
        number /= 1000
    return f"{format_number(float(number))} TB"


def plan_of(
    command: str, stages: Sequence[Stage], execution: Execution, preparing: float, beside: str = ""
) -> TrainingPlan:
    """Measure what stages cost and put the plan together.

    Args:
        command: Command of the experiment, without ``onsphere``.
        stages: Its rounds, in order.
        execution: How they are executed.
        preparing: Seconds that the checks and the choice of the plan took, which a run needs as well.
        beside: What is done after training and is not planned.

    Raises:
        InputError: A stage cannot be trained by this plan.
    """
    plan, workers = execution.plan, execution.workers
    processors = os.cpu_count() or 1
    opening = _seconds_of_a_worker() if workers > 1 else 0.0
    known: dict[Any, Cost] = {}
    planned = list[PlannedStage]()
    for number, stage in enumerate(stages):
        size = shard_size(plan, len(stage.copies), workers)
        key = (size, *same_cost(stage.problem))
        if key not in known:
            try:
                known[key] = measure_cost(stage.problem, stage.copies[:size], plan)
            except RuntimeError as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise InputError(f"--plan: {stage.title} cannot be trained by this plan ({reason})") from error
        begins = opening if number and not stage.joined else 0.0  # those of the first start while the plan is chosen
        planned.append(_planned(stage, known[key], plan, min(workers, processors), size, begins))
    preparing = max(preparing, opening)
    seconds = preparing + sum(stage.seconds for stage in planned)
    ends = datetime.now().astimezone() + timedelta(seconds=seconds)
    data = stages[0].problem.data
    tensors = (data.x_train, data.y_train, data.x_test, data.y_test)
    return TrainingPlan(
        command=command,
        engine=Engine(**execution.summary),
        processors=processors,
        stages=tuple(planned),
        data_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        process_bytes=_peak(),
        disk_bytes=sum(stage.disk_bytes for stage in planned),
        preparing_seconds=preparing,
        seconds=seconds,
        ends=ends.isoformat(timespec="seconds"),
        beside=beside,
    )


def _planned(stage: Stage, cost: Cost, plan: Plan, at_once: int, size: int, begins: float) -> PlannedStage:
    copies = len(stage.copies)
    sizes = [min(size, copies - first) for first in range(0, copies, size)]
    one = cost.state + cost.saved
    each = [cost.seconds(stage.problem, own) for own in sizes]
    together = size * one if plan.mode == "vmap" else size * cost.state + cost.saved
    return PlannedStage(
        title=stage.title,
        copies=copies,
        sure=stage.sure,
        steps=stage.problem.steps,
        shards=len(sizes),
        shard_copies=size,
        step_seconds=cost.step,
        copy_bytes=one,
        worker_bytes=together,
        disk_bytes=sum(cost.disk(stage.problem, own) for own in sizes),
        processor_seconds=sum(each),
        seconds=begins + last_end(each, at_once),
    )


def last_end(seconds: Sequence[float], workers: int) -> float:
    """When the last of some shards ends, each in turn being given to the worker that is free first."""
    free = [0.0] * workers
    for one in seconds:
        heapq.heappush(free, heapq.heappop(free) + one)
    return max(free)


def _seconds_of_a_worker() -> float:
    """Seconds until a new process is ready to train."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", _WORKER], check=False, capture_output=True)
    return time.monotonic() - started


def _peak() -> int | None:
    """The most memory that this process has had, bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
