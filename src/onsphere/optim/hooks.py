"""Hooks around the steps of an optimiser, where a step inside a step is part of it.

torch wraps ``step`` of every optimiser class that was ever made. A subclass whose ``step`` calls ``super().step()``
therefore runs the hooks twice, and the inner step ends before the outer one has done its part: only the outermost step
is a step. Steps that end in an exception run no hook at their end, so depth is not counted but read off the call stack
wherever more than one step might be under way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

__all__ = ["StepHooks"]

Before = Callable[[Optimizer, Any, Any], Any]
After = Callable[[Optimizer, Any, Any], None]


def _step(self: Optimizer) -> None:
    """What torch wraps below, to know the code of its wrapper."""


_WRAPPER = Optimizer.profile_hook_step(_step).__code__


class StepHooks:
    """``before`` and ``after`` are called once around every outermost step of an optimiser.

    Args:
        optimizer: The optimiser whose steps are watched.
        before: Called with the optimiser and the step's arguments; may return other ones, as torch's own hook may.
        after: Called when the step has ended, unless an exception ended it.
        opaque: Whether ``torch.compile`` is to call the two as they are, instead of tracing and guarding them.
    """

    def __init__(self, optimizer: Optimizer, before: Before | None, after: After, *, opaque: bool = False) -> None:
        self._before, self._after, self._depth = before, after, 0
        hide: Callable[[Any], Any] = torch._dynamo.disable if opaque else lambda hook: hook
        self._at_start, self._at_end = hide(self._start), hide(self._end)
        self._handles = [
            optimizer.register_step_pre_hook(self._at_start),
            optimizer.register_step_post_hook(self._at_end),
        ]

    def remove(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()

    def move_to_the_end(self, optimizer: Optimizer) -> None:
        """Be the last to be called after a step: hooks run in the order of registration."""
        mine: RemovableHandle = self._handles[1]
        if next(reversed(optimizer._optimizer_step_post_hooks), None) != mine.id:
            mine.remove()
            self._handles[1] = optimizer.register_step_post_hook(self._at_end)

    def _start(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._depth and _under_way(optimizer) > 1:
            self._depth += 1
            return None
        self._depth = 1
        return None if self._before is None else self._before(optimizer, args, kwargs)

    def _end(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._depth > 1 and _under_way(optimizer) > 1:
            self._depth -= 1
            return
        self._depth = 0
        self._after(optimizer, args, kwargs)


def _under_way(optimizer: Optimizer) -> int:
    """How many steps of an optimiser the call stack holds."""
    frame, found = sys._getframe(1), 0
    while frame is not None:
        code = frame.f_code
        compiled = code.co_filename == _WRAPPER.co_filename and "_in_wrapper_" in code.co_name  # by torch.compile
        if (code is _WRAPPER or compiled) and any(value is optimizer for value in frame.f_locals.values()):
            found += 1
        frame = frame.f_back  # type: ignore[assignment]
    return found
