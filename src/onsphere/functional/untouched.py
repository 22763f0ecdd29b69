"""A model looked at without being touched: private copies, hooks dropped, random states given back.

Whatever measures a model runs a copy of it, so that nothing that happens there (buffers written, flags set, hooks run,
random numbers drawn) reaches the user's. :func:`private_copy` has tensors of its own, :func:`shared_copy` shares the
user's and is given others by name in every call.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from onsphere.normalisation import without_running_statistics

__all__ = ["drop_hooks", "eager", "mapped", "private_copy", "shared_copy", "untouched", "untouched_random_state"]


@contextmanager
def untouched_random_state(model: nn.Module) -> Iterator[None]:
    """Give back the random states of torch (the model's devices), numpy and Python as they were."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def untouched(model: nn.Module, *loaders: Any) -> Iterator[None]:
    """Give back the random states as they were, whatever runs inside (those of shuffling loaders included)."""
    holders = [holder for loader in loaders for holder in (loader, getattr(loader, "sampler", None))]
    held = [getattr(holder, "generator", None) for holder in holders]
    generators = [generator for generator in held if isinstance(generator, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        with untouched_random_state(model), torch.inference_mode(False):
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode, without gradients and without the user's hooks."""
    # Parameters are leaves without their .grad, which deepcopy would copy as well.
    memo: dict[int, Any] = {}
    for p in model.parameters():
        if id(p) not in memo and type(p) is nn.Parameter:
            memo[id(p)] = nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            memo |= {id(hook): hook for hook in hooks.values()}  # they may hold anything; removed below
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # whatever a user's module does when it is copied
        raise ValueError(f"the model cannot be copied ({error}); it must be, so that nothing happens to it") from error
    for module in copied.modules():
        drop_hooks(module)
    return copied.eval()


def shared_copy(model: nn.Module, mode: Literal["train", "eval"]) -> nn.Module:
    """A copy of the modules that shares every tensor, in the mode wanted, without the user's hooks."""
    shared: dict[int, Any] = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    for module in model.modules():
        shared |= {id(v): v for v in vars(module).values() if isinstance(v, Tensor)}
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            shared |= {id(hook): hook for hook in hooks.values()}  # they may hold anything; removed below
    try:
        network = copy.deepcopy(model, dict(shared))
    except Exception as error:
        raise ValueError(
            f"the model cannot be copied (copy.deepcopy says: {error}); measurements run on a copy of its modules, so "
            "that nothing leaks into yours"
        ) from error
    for module in network.modules():
        drop_hooks(module)
        # Instance norms with running statistics follow the same rule as batch norms.
        module.training = mode == "train" and isinstance(module, _NormBase)
    return without_running_statistics(network) if mode == "train" else network


def eager() -> Any:
    """Compiled parts run as they were written: a compiler would start again for float64."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


def drop_hooks(module: nn.Module) -> None:
    """Remove hooks, which may record or change things elsewhere, but those torch computes weights with."""
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        hooks = getattr(module, name)
        for key, hook in list(hooks.items()):
            if not type(hook).__module__.startswith("torch.nn.utils"):
                del hooks[key]


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a nest with every tensor changed; everything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    if type(value) in (list, tuple):
        return type(value)(mapped(item, change) for item in value)
    if isinstance(value, Mapping):
        converted = {key: mapped(item, change) for key, item in value.items()}
        return converted if type(value) is dict else _same_kind(value, converted)
    return value


def _same_kind(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """``items`` in a mapping of the given one's class, or as a plain dict if that takes something else."""
    try:
        return type(mapping)(items)  # type: ignore[call-arg]
    except TypeError:
        return items
