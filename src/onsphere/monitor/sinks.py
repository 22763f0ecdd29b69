"""Where a monitor's readings go besides the monitor: TensorBoard, Weights & Biases, MLflow, trackio, or your own.

A sink is anything with ``write(step, values)`` and ``close()``; ``values`` maps names such as ``sphere/elr`` to
numbers, and ``step`` counts optimiser steps. Readings arrive when the monitor flushes, so several steps come at once
and late. Each sink below imports its package when it is made, and puts ``prefix`` before the names.

A monitor leaves its sinks open: close them when training is over, or use them in a ``with`` statement.
"""

from __future__ import annotations

import math
import re
import time
import weakref
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

__all__ = ["MLflowSink", "Sink", "TensorBoardSink", "TrackioSink", "WandbSink", "imported"]

#: MLflow takes at most so many numbers in one request.
_BATCH = 1000
#: A request is sent at most so often, seconds.
_SECONDS = 5.0


@runtime_checkable
class Sink(Protocol):
    """Something that takes readings."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the readings of one step; they may be NaN or infinite."""

    def close(self) -> None:
        """Nothing more will come."""


class _Closing:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more will come."""
        raise NotImplementedError


class TensorBoardSink(_Closing):
    """Writes readings as scalars for TensorBoard.

    Non-finite values are written as they are; TensorBoard marks them in its charts.

    Args:
        where: Folder of the event files, or a ``SummaryWriter`` that you use already. Only a writer that the sink made
            itself is closed by it; yours is flushed.
        prefix: Put before every name.

    Raises:
        ImportError: ``tensorboard`` is not installed.

    Example::

        with TensorBoardSink("runs/mine") as sink:
            monitor = onsphere.Monitor(optimizer, groups, sinks=[sink])
            train()
            monitor.detach()
    """

    def __init__(self, where: str | Path | Any, *, prefix: str = "onsphere/") -> None:
        self._own = isinstance(where, (str, Path))
        if not self._own and not hasattr(where, "add_scalar"):
            raise TypeError(f"where is a {type(where).__name__}; it must be a folder or a SummaryWriter")
        if self._own:
            imported("tensorboard", "TensorBoardSink")
            self.writer = imported("torch.utils.tensorboard", "TensorBoardSink").SummaryWriter(str(where))
        else:
            self.writer = where
        self.prefix = prefix

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the readings of one step."""
        for name, value in values.items():
            self.writer.add_scalar(self.prefix + name, value, step)

    def close(self) -> None:
        """Flush, and close the writer if it is the sink's own."""
        self.writer.close() if self._own else self.writer.flush()


class WandbSink(_Closing):
    """Rows in the history of a Weights & Biases run.

    The step is logged as ``{prefix}step`` and made the x axis of all that the sink logs; W&B's own step is not set,
    because W&B drops rows whose step is behind the latest one, and readings come late. Non-finite values are kept (W&B
    stores them as "NaN" and "Infinity").

    Args:
        run: What ``wandb.init`` returned; None: the active run.
        prefix: Put before every name.
        commit: True: each reading is a row of its own, which moves W&B's own step. Take False if your loop calls
            ``run.log(..., step=...)``: readings then join your next row, and of several that arrive together only the
            last one is kept.

    Raises:
        ImportError: ``wandb`` is not installed.
        ValueError: No run is active.
    """

    def __init__(self, run: Any = None, *, prefix: str = "onsphere/", commit: bool = True) -> None:
        self.run = imported("wandb", "WandbSink").run if run is None else run
        if self.run is None:
            raise ValueError("no W&B run is active; call wandb.init(...) first, or give WandbSink the run")
        self.prefix, self.commit = prefix, commit
        self.run.define_metric(f"{prefix}step", hidden=True)
        self.run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the readings of one step."""
        row: dict[str, float] = {self.prefix + name: value for name, value in values.items()}
        self.run.log(row | {f"{self.prefix}step": step}, commit=self.commit)

    def close(self) -> None:
        """Do nothing: the run is yours, and so is ``run.finish()``."""


class MLflowSink(_Closing):
    """Metrics of an MLflow run.

    Numbers are sent together, a thousand at a time or every five seconds, and the rest when the sink is closed (or
    Python ends). NaN is kept; an infinity is written as NaN, because MLflow's databases would turn it into 1.8e308.
    Characters that MLflow does not allow in names become ``_``.

    Args:
        run_id: The run; None: the active one (``mlflow.start_run()``).
        tracking_uri: Where it is, ``sqlite:///mlflow.db`` or a server; None: as MLflow is set up.
        prefix: Put before every name.

    Raises:
        ImportError: Neither ``mlflow`` nor ``mlflow-skinny`` is installed.
        ValueError: No run is active.
    """

    def __init__(
        self, run_id: str | None = None, tracking_uri: str | None = None, *, prefix: str = "onsphere/"
    ) -> None:
        mlflow = imported("mlflow", "MLflowSink")
        if run_id is None:
            active = mlflow.active_run()
            if active is None:
                raise ValueError("no MLflow run is active; call mlflow.start_run() first, or give MLflowSink a run_id")
            run_id = active.info.run_id
        self.run_id, self.prefix = run_id, prefix
        self._metric = import_module("mlflow.entities").Metric
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        self._client = mlflow.MlflowClient(tracking_uri=tracking_uri)
        weakref.finalize(self, _send, self._client, run_id, self._waiting)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the readings of one step."""
        now = int(time.time() * 1000)
        for name, value in values.items():
            key = re.sub(r"[^\w\-. /]", "_", self.prefix + name)
            self._waiting.append(self._metric(key, math.nan if math.isinf(value) else value, now, step))
        if len(self._waiting) >= _BATCH or time.monotonic() - self._sent > _SECONDS:
            self._flush()

    def close(self) -> None:
        """Send what is waiting. The run is yours to end."""
        self._flush()

    def _flush(self) -> None:
        self._sent = time.monotonic()
        _send(self._client, self.run_id, self._waiting)


def _send(client: Any, run_id: str | None, waiting: list[Any]) -> None:
    # Taken out first: numbers that a server refuses must not pile up.
    metrics = waiting[:]
    waiting.clear()
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH], synchronous=True)


class TrackioSink(_Closing):
    """Metrics of a trackio run, kept on this machine unless ``options`` say otherwise.

    Non-finite values are kept.

    Args:
        project: Start a run in this project; the sink ends it. None: log to ``run``.
        run: What ``trackio.init`` returned; None: the active run.
        prefix: Put before every name.
        options: More for ``trackio.init``: ``name``, ``config``, ``space_id``, ...

    Raises:
        ImportError: ``trackio`` is not installed.
        ValueError: No run is active, or both ``project`` and ``run`` are given.
    """

    def __init__(
        self, project: str | None = None, run: Any = None, *, prefix: str = "onsphere/", **options: Any
    ) -> None:
        trackio = imported("trackio", "TrackioSink")
        if run is not None and (project is not None or options):
            raise ValueError("both a run and what to start one with are given; give one of them")
        if project is None and options:
            raise ValueError(f"{', '.join(options)} given without a project; name the project to start a run in")
        self._active = import_module("trackio.context_vars").current_run
        if project is None:
            self.run = self._active.get() if run is None else run
            self._end: Any = None
        else:
            yours = self._active.get()
            self._active.set(None)  # init would end the run that it finds
            try:
                self.run = trackio.init(project=project, **options)
            finally:
                if yours is not None:
                    self._active.set(yours)
            self._end = weakref.finalize(self, self.run.finish)
        if self.run is None:
            raise ValueError("no trackio run is active; call trackio.init(...) first, or give TrackioSink a project")
        self.prefix = prefix

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the readings of one step."""
        self.run.log({self.prefix + name: value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """End the run if it is the sink's own."""
        if self._end is not None and self._end.alive:
            self._end()
            if self._active.get() is self.run:
                self._active.set(None)


#: What to install for a module, where the names differ.
_PACKAGES = {
    "torch.utils.tensorboard": "tensorboard",
    "mlflow": "mlflow (or mlflow-skinny)",
    "lightning": "lightning (or pytorch-lightning)",
}


def imported(module: str, who: str) -> Any:
    """The module, or an error that says what to install.

    Args:
        module: Name of the module wanted.
        who: Name of what needs it, for the message.

    Raises:
        ImportError: It is not there.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = _PACKAGES.get(module, module)
        raise ImportError(f"{who} needs {package}: pip install {package.split()[0]} ({error})") from error
