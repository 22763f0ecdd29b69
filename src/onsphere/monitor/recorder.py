"""The monitor's hooks on one optimiser: which steps are read, and when around a step what is copied.

Nothing is read back to the host until the ring is taken, and nothing that the optimiser sees is changed. Steps that are
not read cost a counter. The ring may be taken from any thread, between two steps or within one. Whatever goes wrong
here stays here: reading stops, which is said once, and training goes on.

Of tensors that are spread over processes each reads its part, and nothing is sent. One in which reading has failed goes
on counting steps and says at each flush that it has nothing: the others, which would wait for it, leave them out too.
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
from onsphere.sharding import is_spread, part, same_layout

__all__ = ["Recorder"]

Array = NDArray[np.float64]

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
        spread: Whether tensors of this optimiser, or of another whose ring is emptied together with this one's, are
            spread over processes.

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
        *,
        spread: bool,
    ) -> None:
        self.optimizer, self.tensors, self.param_groups = optimizer, list(tensors), tuple(param_groups)
        self.every, self.capacity, self.count, self.used = every, capacity, 0, 0
        self._spread = spread
        self.failure: str | None = None
        self._good = 0  # readings in the ring that were made before the failure
        self._full = full
        self._steps: list[int] = []
        self._settings: list[list[tuple[Any, ...]]] = []  # those that differ from the reading before, ...
        self._changed: list[int] = []  # ... and at which readings
        self._reading = self._gradients_read = self._running = False
        self._lock = RLock()
        places: dict[torch.device, list[int]] = {}
        parts = [part(tensor.detach()) for tensor in self.tensors]
        for i, mine in enumerate(parts):
            if mine.numel():
                places.setdefault(mine.device, []).append(i)
        self._places = list(places.values())
        self._spaces = [workspace([parts[i] for i in indices], capacity) for indices in self._places]
        self._plain = [[self.tensors[i] for i in indices] for indices in self._places]
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
            self._spaces, self._places, self._plain = [], [], []
            self._drop()

    def take(self) -> tuple[NDArray[np.int64], Tensor, Array]:
        """Take all readings out of the ring.

        Returns:
            Step numbers ``[n]``; float64 sums ``[tensors, n, 6]`` over what this process holds, as in
            :data:`onsphere.monitor.readings.SUMS` and then whether the reading is missing here, on the host or, if a
            tensor is spread over processes, on the device of the first such tensor; and settings
            ``[n, param groups, 5]`` as in :data:`onsphere.monitor.readings.SETTINGS`.
        """
        with self._lock:
            device = next((part(t.detach()).device for t in self.tensors if is_spread(t)), torch.device("cpu"))
            sums = torch.zeros(len(self.tensors), self.used, 6, dtype=torch.float64, device=device)
            try:
                for space, indices in zip(self._spaces, self._places, strict=True):
                    taken = space.take(under_way=self._reading).to(device).double()
                    n = min(taken.shape[1], self.used)
                    sums[indices, :n, :5] = taken[:, :n]
            except Exception as error:
                if not self._spread:
                    raise
                self._give_up(error)
                self._good = 0
            if self.failure is not None and self._spread:
                sums[:, self._good :] = sums.new_tensor([0.0] * 5 + [1.0])
                self._good = 0
            distinct = np.array([[_plain(group) for group in row] for row in self._settings], dtype=np.float64)
            distinct = distinct.reshape(len(self._settings), len(self.param_groups), 5)
            settings = np.repeat(distinct, np.diff([*self._changed, self.used]), axis=0)
            steps = np.array(self._steps, dtype=np.int64)
            self._drop()
            return steps, sums, settings

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
                given = self._gradients() if gradients else None
                if self.failure is None:
                    for k, (space, weights) in enumerate(zip(self._spaces, self._weights(), strict=True)):
                        space.before(weights, None if given is None else given[k])
        finally:
            torch._C._set_grad_enabled(tracked)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._reading:
            return
        self._end(optimizer)
        if self.used >= self.capacity:
            self._running = True
            try:
                self._full()
            except Exception as error:
                self._give_up(error)
            finally:
                self._running = False

    def _end(self, optimizer: Optimizer) -> None:
        tracked = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        settings = [_NONE] * len(self.param_groups)
        try:
            with self._lock:
                try:
                    if not self._gradients_read:
                        self._read_gradients()
                    if self.failure is None:
                        for space, weights in zip(self._spaces, self._weights(), strict=True):
                            space.after(weights)
                    groups = optimizer.param_groups
                    settings = [_settings(groups[j]) if j < len(groups) else _NONE for j in self.param_groups]
                except Exception as error:
                    self._give_up(error)
                if not self._reading:
                    return
                self._reading = False
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
        given = self._gradients()
        if self.failure is None:
            for space, gradients in zip(self._spaces, given, strict=True):
                space.gradients(gradients)

    def _weights(self) -> list[list[Tensor]]:
        """The weights held here, for each work space."""
        if not self._spread:
            return self._plain
        # Looked up anew: FSDP may have put other memory behind a parameter.
        return [[part(tensor) for tensor in tensors] for tensors in self._plain]

    def _gradients(self) -> list[list[Tensor | None]]:
        """The gradients held here, for each work space."""
        if not self._spread:
            return [[tensor.grad for tensor in tensors] for tensors in self._plain]
        # Of all tensors, also those of which nothing is held here: a gradient that is laid out in another way (a sum
        # still to be taken, as some of tensor parallelism are) is sent round, as it is once more in the step itself.
        found = [None if (g := t.grad) is None else part(same_layout(g, t)) for t in self.tensors]
        return [[found[i] for i in indices] for indices in self._places]

    def fail(self, failure: str) -> None:
        """Read no more and say why, once; training goes on without the monitor."""
        if self.failure is None:
            self.failure, self._good = failure, self.used
            say(f"{failure}; training goes on. Attach a new one if the model's tensors changed")

    def _give_up(self, error: Exception) -> None:
        if not self._spread:
            self._stop()
        self.fail(f"reading stopped at step {self.count - 1} ({type(error).__name__}: {error})")

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
