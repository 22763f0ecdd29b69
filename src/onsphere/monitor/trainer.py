"""What the callbacks for trainers share: when a monitor is made, on which processes, and what is kept of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import new_class
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from onsphere.monitor.monitor import Monitor
from onsphere.optim.wrappers import torch_optimizers
from onsphere.sharding import agree, is_spread

if TYPE_CHECKING:
    from onsphere.monitor.findings import Finding
    from onsphere.monitor.sinks import Sink

__all__ = ["Groups", "TrainerMonitor"]

Groups = Iterable[Mapping[str, Any]]

_log = logging.getLogger("onsphere.monitor")
#: Classes made of one of ours and a trainer's.
_MADE: dict[tuple[type, type], type] = {}


class TrainerMonitor:
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
        self._spread, self._zero = False, True

    def __reduce__(self) -> Any:
        # The class was made at run time, so a copy is made by making it again.
        mine = next(c for c in type(self).__mro__ if (c, self._trainers_class()) in _MADE)
        return _again, (mine, {**self.__dict__, "monitor": None, "_trainer": None, "_progress": None})

    @classmethod
    def _trainers_class(cls) -> type:
        raise NotImplementedError

    def _attach(self, optimizers: Sequence[Any], model: nn.Module, step: int, *, zero: bool) -> None:
        """Make the monitor, at the trainer's step number ``step``, where one is needed.

        That is on the process with rank zero, and if parameters are spread over processes on all of them.
        """
        self._detach()
        saved, self._saved = self._saved, None
        stepped = [group for one in torch_optimizers(list(optimizers), "Monitor") for group in one.param_groups]
        tensors = [p for group in stepped for p in group["params"]]
        self._spread, self._zero = any(map(is_spread, tensors)), zero
        if not (zero or self._spread):
            self.monitor = None
            return
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
        try:
            agree("a checkpoint of a Monitor", tensors, ["none" if saved is None else f"one, from step {step}"])
            if saved is not None:
                monitor.load_state_dict(saved["monitor"])
                self._first = int(saved["first"])
        except ValueError as error:
            _log.warning("readings start anew, because the checkpoint's do not fit: %s", error)

    def _detach(self, *, flush: bool = True) -> None:
        if self.monitor is not None:
            self.monitor.detach(flush=flush)

    def _findings(self) -> list[Finding]:
        """What is found when training ends; nothing where it is not to be said."""
        if self.monitor is None:
            return []
        self.monitor.flush()
        return self.monitor.diagnose() if self._zero else []

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

    def __init__(self, callback: TrainerMonitor) -> None:
        self._callback = callback

    def write(self, step: int, values: Mapping[str, float]) -> None:
        prefix = self._callback._prefix
        self._callback._read(self._callback._first + step, {prefix + name: value for name, value in values.items()})

    def close(self) -> None:
        """Do nothing: no file is held."""


def _with_base(cls: type, base: type) -> type:
    """A class made of both, the same one each time."""
    if issubclass(cls, base):
        return cls
    if (cls, base) not in _MADE:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _MADE[cls, base] = new_class(cls.__name__, (cls, base), {}, lambda space: space.update(names))
    return _MADE[cls, base]


def _again(cls: type[TrainerMonitor], attributes: dict[str, Any]) -> Any:
    made = cls.__new__(cls)
    made.__dict__.update(attributes)
    return made
