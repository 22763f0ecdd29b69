"""A monitor inside somebody else's trainer: callbacks for Lightning and for the Hugging Face Trainer.

    lightning.Trainer(callbacks=[LightningMonitor(every=10)])
    trainer.add_callback(HuggingFaceMonitor(every=10, trainer=trainer))

Each makes a :class:`onsphere.Monitor` when training starts and detaches it when training ends; readings and findings
go through the trainer's own loggers, and the monitor's state into the trainer's checkpoints. The monitor stays in
``callback.monitor``, to be asked afterwards.

The trainers are imported when a callback is made: ``LightningMonitor(...)`` is then an instance both of the class
here and of the trainer's ``Callback``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onsphere.monitor.sinks import imported
from onsphere.monitor.trainer import Groups, TrainerMonitor

if TYPE_CHECKING:
    from onsphere.monitor.findings import Finding
    from onsphere.monitor.sinks import Sink

__all__ = ["HuggingFaceMonitor", "LightningMonitor"]

_log = logging.getLogger("onsphere.monitor")


class LightningMonitor(TrainerMonitor):
    """A monitor as a callback of ``lightning`` or ``pytorch-lightning``.

    Readings go to every logger of the trainer under the number of the optimiser step they belong to. Findings go there
    too, alarms when they are raised and all others when training ends: their number by severity, the sentences where a
    logger takes text (TensorBoard, W&B), and everything to Python's log ``onsphere.monitor``. The state is in the
    checkpoints. Only the process with rank zero attaches a monitor, or every one if parameters are DTensors;
    only the one with rank zero logs.

    Args:
        every: Steps 0, ``every``, 2 ``every``, ... are read.
        groups: As for :class:`onsphere.Monitor`, or a function that gets the LightningModule when training starts
            and returns them.
        on_alarm: As for :class:`onsphere.Monitor`; alarms are logged in any case.
        sinks: More places for readings.
        prefix: Put before every name that is logged.
        options: More for :class:`onsphere.Monitor`: ``select``, ``only``, ``capacity``, ``keep``.

    Raises:
        ImportError: Neither package is installed.

    Example::

        groups = lambda module: onsphere.sphere_groups(module.net, batch)
        trainer = lightning.Trainer(callbacks=[LightningMonitor(every=10, groups=groups)])
    """

    @classmethod
    def _trainers_class(cls) -> type:
        # The package that is in use already: a trainer wants callbacks of its own kind.
        for name in ("lightning.pytorch", "pytorch_lightning"):
            if sys.modules.get(name) is not None:
                return sys.modules[name].Callback  # type: ignore[no-any-return]
        try:
            imported("pytorch_lightning", "")
        except ImportError:
            imported("lightning", "LightningMonitor")
            return imported("lightning.pytorch", "LightningMonitor").Callback  # type: ignore[no-any-return]
        return sys.modules["pytorch_lightning"].Callback  # type: ignore[no-any-return]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the monitor to the trainer's optimisers."""
        self._trainer = trainer
        self._attach(trainer.optimizers, pl_module, trainer.global_step, zero=trainer.is_global_zero)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what was found, and detach."""
        if self.monitor is not None and self._trainer is not None:
            self._say(self._findings())
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach the monitor, as at the end of training; other processes are not waited for."""
        self._stop(flush=not self._spread)

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        return self._state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint when training starts."""
        self._saved = state_dict or None

    def _stop(self, *, flush: bool = True) -> None:
        self._detach(flush=flush)
        self._trainer = None

    def _read(self, step: int, values: dict[str, float]) -> None:
        for logger in self._loggers():
            logger.log_metrics(values, step=step)

    def _say(self, findings: Sequence[Finding]) -> None:
        _write_log(findings)
        if not findings or self._trainer is None:
            return
        step, name = self._trainer.global_step, f"{self._prefix}findings"
        counts = {f"{name}/{severity}": float(n) for severity, n in _counts(findings).items()}
        for logger in self._loggers():
            logger.log_metrics(counts, step=step)
            if hasattr(logger, "log_text"):
                rows = [[finding.severity, finding.kind, finding.message] for finding in findings]
                logger.log_text(key=name, columns=["severity", "kind", "message"], data=rows)
            elif hasattr(getattr(logger, "experiment", None), "add_text"):
                logger.experiment.add_text(name, _listed(findings), step)

    def _loggers(self) -> list[Any]:
        return [] if self._trainer is None else list(self._trainer.loggers)


class HuggingFaceMonitor(TrainerMonitor):
    """A monitor as a callback of ``transformers.Trainer``.

    Whenever the trainer logs (``logging_steps``), the latest readings are logged too, with the step they belong to as
    ``{prefix}step``; all readings are in ``callback.monitor`` and go to ``sinks``. Findings are logged as sentences,
    alarms when they are raised and all others when training ends, and go to Python's log ``onsphere.monitor``. With
    ``trainer`` everything goes through ``trainer.log``: to the history, the progress bar and whatever ``report_to``
    names; without it to the history alone, since a callback gets no hold of its trainer. The state is saved in every
    checkpoint's folder and read when training resumes from there. Only the process with rank zero attaches a monitor,
    or every one if parameters are DTensors; only the one with rank zero logs and saves.

    Args:
        every: Steps 0, ``every``, 2 ``every``, ... are read.
        groups: As for :class:`onsphere.Monitor`, or a function that gets the model when training starts and returns
            them.
        trainer: The trainer it is added to.
        on_alarm: As for :class:`onsphere.Monitor`; alarms are logged in any case.
        sinks: More places for readings.
        prefix: Put before every name that is logged.
        options: More for :class:`onsphere.Monitor`: ``select``, ``only``, ``capacity``, ``keep``.

    Raises:
        ImportError: ``transformers`` is not installed.

    Example::

        trainer.add_callback(HuggingFaceMonitor(every=10, trainer=trainer))
    """

    #: The state's file in a checkpoint's folder.
    FILE = "onsphere_monitor.pt"

    @classmethod
    def _trainers_class(cls) -> type:
        return imported("transformers", "HuggingFaceMonitor").TrainerCallback  # type: ignore[no-any-return]

    def __init__(
        self,
        every: int = 10,
        groups: Groups | Callable[[nn.Module], Groups] | None = None,
        *,
        trainer: Any = None,
        on_alarm: Callable[[Finding], object] | None = None,
        sinks: Iterable[Sink] = (),
        prefix: str = "onsphere/",
        **options: Any,
    ) -> None:
        super().__init__(every, groups, on_alarm=on_alarm, sinks=sinks, prefix=prefix, **options)
        self._trainer = trainer
        self._progress: Any = None
        self._latest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach the monitor to the trainer's optimiser."""
        self._progress, self._latest = state, {}
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE
        if state.global_step and saved.exists():
            self._saved = torch.load(saved, map_location="cpu", weights_only=True)
        zero = state.is_world_process_zero
        self._attach([given["optimizer"]], given["model"], state.global_step, zero=zero)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Log the latest readings if the trainer is about to log."""
        if control.should_log and self._progress is not None and self.monitor is not None:
            self.monitor.flush()
            if self._latest:
                latest, self._latest = self._latest, {}
                self._put(latest)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Save the monitor's state beside the trainer's."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self._progress is not None and self.monitor is not None:
            mine = self._state()
            if self._zero and folder.is_dir():
                torch.save(mine, folder / self.FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Log what was found, and detach."""
        if self._progress is not None and self.monitor is not None:
            self._say(self._findings())
        self._detach()
        self._progress = None

    def _read(self, step: int, values: dict[str, float]) -> None:
        self._latest = {f"{self._prefix}step": step, **values}

    def _say(self, findings: Sequence[Finding]) -> None:
        _write_log(findings)
        if findings and self._progress is not None:
            self._put({f"{self._prefix}findings": _listed(findings)})

    def _put(self, logs: dict[str, Any]) -> None:
        if self._trainer is not None:
            about_to = self._trainer.control.should_log
            self._trainer.log(logs)
            self._trainer.control.should_log = about_to  # else what the trainer itself wants to log now is left out
        else:
            self._progress.log_history.append({**logs, "step": self._progress.global_step})


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {severity: sum(f.severity == severity for f in findings) for severity in ("alarm", "warning", "info")}


def _listed(findings: Sequence[Finding]) -> str:
    return "\n".join(f"- {finding.severity}: {finding.message}" for finding in findings)


def _write_log(findings: Sequence[Finding]) -> None:
    for finding in findings:
        _log.log(logging.INFO if finding.severity == "info" else logging.WARNING, "%s", finding.message)
