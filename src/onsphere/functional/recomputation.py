"""Forward passes without recomputation: activation checkpointing changes memory, not the function.

A checkpointed part throws its activations away and runs again in the backward pass, by then with the weights that the
modules hold themselves, outside every ``functional_call`` and every mode. Where a copy is given other weights for one
call, gradients would be those of another network, without a word. So no copy of ours recomputes anything.

Models bind ``checkpoint`` early (``from torch.utils.checkpoint import checkpoint``), so what is exchanged is what that
function looks up when it is called. Other threads, which may be training the model, recompute as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch.utils.checkpoint

__all__ = ["without_recomputation"]

_module: Any = torch.utils.checkpoint
_REENTRANT, _PLAIN = "CheckpointFunction", "_checkpoint_without_reentrant_generator"

_lock = threading.Lock()
_users = 0  # of all threads: what is exchanged goes back with the last of them
_here = threading.local()


@contextmanager
def without_recomputation() -> Iterator[None]:
    """Run parts under ``torch.utils.checkpoint`` as if they were not, in this thread; may be nested.

    Both kinds (``use_reentrant`` True and False) and what is built on them: ``checkpoint_sequential``, torch's
    ``checkpoint_wrapper``, ``gradient_checkpointing_enable()`` of Hugging Face. Frameworks that recompute by functions
    of their own are not reached.
    """
    _exchange(1)
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1
        _exchange(-1)


def _exchange(change: int) -> None:
    global _users
    with _lock:
        _users += change
        for name, stand_in in ((_REENTRANT, _Reentrant), (_PLAIN, _Plain)):
            present = getattr(_module, name, None)
            if _users and present is not None and not isinstance(present, stand_in):
                setattr(_module, name, stand_in(present))
            elif not _users and isinstance(present, stand_in):
                setattr(_module, name, present.original)


def _off() -> bool:
    return bool(getattr(_here, "depth", 0))


class _Reentrant:
    """Stands for the autograd function of the reentrant kind."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def apply(self, function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args) if _off() else self.original.apply(function, preserve_rng_state, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class _Plain:
    """Stands for the generator around a call of the other kind."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __call__(
        self,
        function: Callable[..., Any],
        preserve_rng_state: bool = True,
        context_fn: Callable[[], tuple[Any, Any]] = _module.noop_context_fn,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if _off():
            return _once(context_fn)
        return self.original(function, preserve_rng_state, context_fn, *args, **kwargs)


def _once(context_fn: Callable[[], tuple[Any, Any]]) -> Iterator[None]:
    """The caller's context for the forward pass (autocast, say), unless it only keeps tensors for a second one."""
    context: AbstractContextManager[Any] = context_fn()[0]
    if type(context).__module__ == _module.__name__:
        context = nullcontext()
    with context:
        yield
