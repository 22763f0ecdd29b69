"""The monitor's hooks on one optimiser: which steps are read, and when around a step what is copied.

Nothing is read back to the host until the ring is taken, and nothing that the optimiser sees is changed. Steps that are
not read cost a counter. The ring may be taken from any thread, between two steps or within one. Whatever goes wrong
here stays here: reading stops, which is said once, and training goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from threading import RLock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from onsphere.monitor.say import say
from onsphere.monitor.workspace import workspace
from onsphere.optim.hooks import StepHooks

__all__ = ["Recorder"]

Array = NDArray[np.float64]

#: Where <w,w>, <w,g>, <g,g>, <w,D>, <D,D> are among the products.
_ROW, _COLUMN = [0, 0, 1, 2, 2], [0, 1, 1, 0, 2]
#: A stride that no run reaches.
_NEVER = 1 << 62


class Recorder:
    """Reads every so manyth step of one optimiser.

    Args:
        optimizer: The optimiser whose steps are read.
        tensors: Those of its parameters that are read.
        param_groups: Indices of the param groups whose settings are recorded too.
        every: Steps 0, ``every``, 2 ``every``, ... are read.
        capacity: Readings that the ring holds.
        full: Called when the ring is full; it has to :meth:`take`.

    Attributes:
        count: Steps that the optimiser began since the recorder was attached (or what was loaded).
        used: Readings in the ring.
        failure: Why it reads no more, if a reading failed.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        tensors: Sequence[Tensor],
        param_groups: Sequence[int],
        every: int,
        capacity: int,
        full: Callable[[], None],
    ) -> None:
        self.optimizer, self.tensors, self.param_groups = optimizer, list(tensors), tuple(param_groups)
        self.every, self.capacity, self.count, self.used = every, capacity, 0, 0
        self.failure: str | None = None
        self._full = full
        self._steps: list[int] = []
        self._settings: list[list[tuple[Any, ...]]] = []  # those that differ from the reading before, ...
        self._changed: list[int] = []  # ... and at which readings
        self._reading = self._gradients_read = self._running = False
        self._lock = RLock()
        places: dict[torch.device, list[int]] = {}
        for i, tensor in enumerate(self.tensors):
            places.setdefault(tensor.device, []).append(i)
        self._places = list(places.values())
        self._spaces = [workspace([self.tensors[i] for i in indices], capacity) for indices in self._places]
        self._hooks = StepHooks(optimizer, self._before, self._after, opaque=True)

    @property
    def device_bytes(self) -> tuple[int, int]:
        """Bytes of the ring, and of the work space."""
        return sum(space.ring.nbytes for space in self._spaces), sum(space.nbytes for space in self._spaces)

    def detach(self) -> None:
        """Read nothing any more and free the ring and the work space; what was in the ring is lost."""
        self._stop()
        if not self._running:  # else torch is walking through the hooks just now: they stay and do nothing
            self._hooks.remove()
        with self._lock:
            self._spaces, self._places = [], []
            self._drop()

    def take(self) -> tuple[NDArray[np.int64], Array, Array]:
        """Take all readings out of the ring.

        Returns:
            Step numbers ``[n]``, sums ``[n, tensors, 5]`` as in :data:`onsphere.monitor.readings.SUMS`, and settings
            ``[n, param groups, 5]`` as in :data:`onsphere.monitor.readings.SETTINGS`.
        """
        with self._lock:
            sums = np.zeros((self.used, len(self.tensors), 5))
            for space, indices in zip(self._spaces, self._places, strict=True):
                sums[:, indices] = space.take(under_way=self._reading)[:, :, _ROW, _COLUMN]
            distinct = np.array([[_plain(group) for group in row] for row in self._settings], dtype=np.float64)
            distinct = distinct.reshape(len(self._settings), len(self.param_groups), 5)
            settings = np.repeat(distinct, np.diff([*self._changed, self.used]), axis=0)
            taken = np.array(self._steps, dtype=np.int64), sums, settings
            self._drop()
            return taken

    def _drop(self) -> None:
        self.used, self._steps, self._settings, self._changed = 0, [], [], []

    # -- the hooks ----------------------------------------------------------------------------------------------------

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        step = self.count
        self.count = step + 1
        if step % self.every:
            self._reading = False
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        try:
            # Last again, so that projections by other hooks are part of the update.
            self._hooks.move_to_the_end(optimizer)
            # Optimisers may overwrite gradients: they are read before the step. But a closure computes them in it, and
            # with a gradient scaler a fused step finds them scaled and leaves them unscaled.
            self._begin(gradients=closure is None and optimizer.__dict__.get("grad_scale") is None)
        except Exception as error:
            self._give_up(error)
        if not callable(closure):
            return None
        wrapped = self._wrapped(closure)
        return ((args[0], wrapped, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": wrapped})

    def _begin(self, *, gradients: bool) -> None:
        tracked = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # what no_grad does, at a third of its price
        try:
            with self._lock:
                self._reading, self._gradients_read = True, gradients
                for space in self._spaces:
                    space.before(gradients=gradients)
        finally:
            torch._C._set_grad_enabled(tracked)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._reading:
            return
        try:
            self._end(optimizer)
            if self.used >= self.capacity:
                self._running = True
                self._full()
        except Exception as error:
            self._give_up(error)
        finally:
            self._running = False

    def _end(self, optimizer: Optimizer) -> None:
        tracked = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            with self._lock:
                if not self._gradients_read:
                    self._read_gradients()
                for space in self._spaces:
                    space.after()
                self._reading = False
                groups = optimizer.param_groups
                settings = [_settings(groups[j]) if j < len(groups) else _NONE for j in self.param_groups]
                if not self._settings or settings != self._settings[-1]:
                    self._settings.append(settings)
                    self._changed.append(self.used)
                self._steps.append(self.count - 1)
                self.used += 1
        finally:
            torch._C._set_grad_enabled(tracked)

    def _wrapped(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        """The closure; after its first evaluation, the one at the weights before the step, gradients are read."""

        def evaluate(*args: Any, **kwargs: Any) -> Any:
            result = closure(*args, **kwargs)
            if self._reading and not self._gradients_read:
                try:
                    with self._lock:
                        self._read_gradients()
                except Exception as error:
                    self._give_up(error)
            return result

        return evaluate

    @torch.no_grad()
    def _read_gradients(self) -> None:
        self._gradients_read = True
        for space in self._spaces:
            space.gradients()

    def _give_up(self, error: Exception) -> None:
        """Training goes on without the monitor."""
        self._stop()
        self.failure = f"reading stopped at step {self.count - 1} ({type(error).__name__}: {error})"
        say(f"{self.failure}; training goes on. Attach a new one if the model's tensors changed")

    def _stop(self) -> None:
        self._reading, self.every = False, _NEVER


_NONE: tuple[Any, ...] = (None,) * 5


class _OnDevice:
    """A number that is not read yet, and so equal to no other."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __float__(self) -> float:
        return float(self.value) if self.value.numel() == 1 else float("nan")


def _settings(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """lr, weight decay, momentum and betas."""
    betas = group.get("betas")
    pair = tuple(betas) if isinstance(betas, Sequence) and len(betas) == 2 else (None, None)
    return *(_held(group.get(name)) for name in ("lr", "weight_decay", "momentum")), *map(_held, pair)


def _held(setting: Any) -> float | _OnDevice | None:
    """A number; one on the device is copied there, not read; None for what is none."""
    if isinstance(setting, Tensor):
        return _OnDevice(setting.detach().clone())
    return float(setting) if isinstance(setting, Real) else None


def _plain(settings: tuple[Any, ...]) -> list[float]:
    """lr, weight decay, momentum, β1, β2; NaN for what is missing or no number."""
    return [float("nan") if x is None else float(x) for x in settings]
