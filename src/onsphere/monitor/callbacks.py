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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import new_class
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from onsphere.monitor.monitor import Monitor
from onsphere.monitor.sinks import imported

if TYPE_CHECKING:
    from onsphere.monitor.findings import Finding
    from onsphere.monitor.sinks import Sink

__all__ = ["HuggingFaceMonitor", "LightningMonitor"]

Groups = Iterable[Mapping[str, Any]]

_log = logging.getLogger("onsphere.monitor")
#: Classes made of one of ours and a trainer's.
_MADE: dict[tuple[type, type], type] = {}


class _TrainerMonitor:
    """What both callbacks share; ``monitor`` is that of this training run or the last one, None before the first."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """An instance of this class and of the trainer's callback class."""
        return object.__new__(_with_base(cls, cls._trainers_class()))

    def __init__(
        self,
        every: int = 10,
        groups: Groups | Callable[[nn.Module], Groups] | None = None,
        *,
        on_alarm: Callable[[Finding], object] | None = None,
        sinks: Iterable[Sink] = (),
        prefix: str = "onsphere/",
        **options: Any,
    ) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._trainer: Any = None
        self._groups, self._every, self._on_alarm, self._options = groups, every, on_alarm, options
        self._sinks, self._prefix = list(sinks), prefix
        self._saved: Mapping[str, Any] | None = None
        self._first = 0

    def __reduce__(self) -> Any:
        # The class was made at run time, so a copy is made by making it again.
        mine = next(c for c in type(self).__mro__ if (c, self._trainers_class()) in _MADE)
        return _again, (mine, {**self.__dict__, "monitor": None, "_trainer": None, "_progress": None})

    @classmethod
    def _trainers_class(cls) -> type:
        raise NotImplementedError

    def _attach(self, optimizers: Sequence[Any], model: nn.Module, step: int) -> None:
        """Make the monitor, at the trainer's step number ``step``."""
        self._detach()
        groups = self._groups(model) if callable(self._groups) else self._groups
        monitor = Monitor(
            list(optimizers),
            groups,
            self._every,
            on_alarm=self._alarmed,
            sinks=[*self._sinks, _ToTrainer(self)],
            model=model,
            **self._options,
        )
        self.monitor, self._first = monitor, step
        if self._saved is not None:
            saved, self._saved = self._saved, None
            try:
                monitor.load_state_dict(saved["monitor"])
                self._first = int(saved["first"])
            except ValueError as error:
                _log.warning("readings start anew, because the checkpoint's do not fit: %s", error)

    def _detach(self) -> None:
        if self.monitor is not None:
            self.monitor.detach()

    def _state(self) -> dict[str, Any]:
        return {} if self.monitor is None else {"monitor": self.monitor.state_dict(), "first": self._first}

    def _alarmed(self, finding: Finding) -> None:
        self._say([finding])
        if self._on_alarm is not None:
            self._on_alarm(finding)

    def _read(self, step: int, values: dict[str, float]) -> None:
        """Readings of the trainer's step ``step``."""
        raise NotImplementedError

    def _say(self, findings: Sequence[Finding]) -> None:
        """Log what was found."""
        raise NotImplementedError


class _ToTrainer:
    """The sink that hands readings to the callback."""

    def __init__(self, callback: _TrainerMonitor) -> None:
        self._callback = callback

    def write(self, step: int, values: Mapping[str, float]) -> None:
        prefix = self._callback._prefix
        self._callback._read(self._callback._first + step, {prefix + name: value for name, value in values.items()})

    def close(self) -> None:
        """Do nothing: no file is held."""


class LightningMonitor(_TrainerMonitor):
    """A monitor as a callback of ``lightning`` or ``pytorch-lightning``.

    Readings go to every logger of the trainer under the number of the optimiser step they belong to. Findings go there
    too, alarms when they are raised and all others when training ends: their number by severity, the sentences where a
    logger takes text (TensorBoard, W&B), and everything to Python's log ``onsphere.monitor``. The state is in the
    checkpoints. Only the process with rank zero attaches a monitor.

    Args:
        every: Steps 0, ``every``, 2 ``every``, ... are read.
        groups: As for :class:`onsphere.Monitor`, or a function that gets the LightningModule when training starts
            and returns them.
        on_alarm: As for :class:`onsphere.Monitor`; alarms are logged in any case.
        sinks: More places for readings.
        prefix: Put before every name that is logged.
        options: More for :class:`onsphere.Monitor`: ``select``, ``capacity``, ``keep``.

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
        if trainer.is_global_zero:
            self._trainer = trainer
            self._attach(trainer.optimizers, pl_module, trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what was found, and detach."""
        if self.monitor is not None and self._trainer is not None:
            self._say(self.monitor.diagnose())
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach the monitor, as at the end of training."""
        self._stop()

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        return self._state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint when training starts."""
        self._saved = state_dict or None

    def _stop(self) -> None:
        self._detach()
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


class HuggingFaceMonitor(_TrainerMonitor):
    """A monitor as a callback of ``transformers.Trainer``.

    Whenever the trainer logs (``logging_steps``), the latest readings are logged too, with the step they belong to as
    ``{prefix}step``; all readings are in ``callback.monitor`` and go to ``sinks``. Findings are logged as sentences,
    alarms when they are raised and all others when training ends, and go to Python's log ``onsphere.monitor``. With
    ``trainer`` everything goes through ``trainer.log``: to the history, the progress bar and whatever ``report_to``
    names; without it to the history alone, since a callback gets no hold of its trainer. The state is saved in every
    checkpoint's folder and read when training resumes from there. Only the process with rank zero attaches a monitor.

    Args:
        every: Steps 0, ``every``, 2 ``every``, ... are read.
        groups: As for :class:`onsphere.Monitor`, or a function that gets the model when training starts and returns
            them.
        trainer: The trainer it is added to.
        on_alarm: As for :class:`onsphere.Monitor`; alarms are logged in any case.
        sinks: More places for readings.
        prefix: Put before every name that is logged.
        options: More for :class:`onsphere.Monitor`: ``select``, ``capacity``, ``keep``.

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
        if not state.is_world_process_zero:
            return
        self._progress, self._latest = state, {}
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE
        if state.global_step and saved.exists():
            self._saved = torch.load(saved, map_location="cpu", weights_only=True)
        self._attach([given["optimizer"]], given["model"], state.global_step)

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
        if self._progress is not None and folder.is_dir():
            torch.save(self._state(), folder / self.FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Log what was found, and detach."""
        if self._progress is not None and self.monitor is not None:
            self._say(self.monitor.diagnose())
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


def _with_base(cls: type, base: type) -> type:
    """A class made of both, the same one each time."""
    if issubclass(cls, base):
        return cls
    if (cls, base) not in _MADE:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _MADE[cls, base] = new_class(cls.__name__, (cls, base), {}, lambda space: space.update(names))
    return _MADE[cls, base]


def _again(cls: type[_TrainerMonitor], attributes: dict[str, Any]) -> Any:
    made = cls.__new__(cls)
    made.__dict__.update(attributes)
    return made


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {severity: sum(f.severity == severity for f in findings) for severity in ("alarm", "warning", "info")}


def _listed(findings: Sequence[Finding]) -> str:
    return "\n".join(f"- {finding.severity}: {finding.message}" for finding in findings)


def _write_log(findings: Sequence[Finding]) -> None:
    for finding in findings:
        _log.log(logging.INFO if finding.severity == "info" else logging.WARNING, "%s", finding.message)
