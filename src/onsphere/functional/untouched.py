"""A model looked at without being touched: private copies, hooks dropped, random states given back.

Whatever measures a model runs a copy of it, so that nothing that happens there (buffers written, flags set, hooks run,
random numbers drawn) reaches the user's. :func:`private_copy` has tensors of its own, :func:`shared_copy` shares the
user's and is given others by name in every call. Both are made by :func:`copied`, and compute the function that is
trained by plain means: without wrappers, compilers, recomputation, grouped kernels or talk between processes.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from onsphere.functional.copying import copied, drop_hooks
from onsphere.functional.recomputation import without_recomputation
from onsphere.normalisation import without_running_statistics
from onsphere.normalisation.frozen import frozen_norms, mark_frozen

__all__ = ["drop_hooks", "eager", "private_copy", "shared_copy", "untouched", "untouched_random_state"]


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
    """Give back the random states as they were (those of shuffling loaders too); nothing inside is recomputed."""
    holders = [holder for loader in loaders for holder in (loader, getattr(loader, "sampler", None))]
    held = [getattr(holder, "generator", None) for holder in holders]
    generators = [generator for generator in held if isinstance(generator, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        with untouched_random_state(model), torch.inference_mode(False), without_recomputation():
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode, without gradients and without the user's hooks.

    Parameters and buffers have the model's names. Norms that are frozen in the model are so in the copy
    (:func:`~onsphere.normalisation.frozen.frozen_norms`).

    Raises:
        ValueError: The model cannot be copied, or holds no numbers.
    """
    copy = copied(model)
    mark_frozen(copy, frozen_norms(model))
    return copy.eval()


def shared_copy(model: nn.Module, mode: Literal["train", "eval"]) -> nn.Module:
    """A copy of the modules that shares parameters and buffers, in the mode wanted, without the user's hooks.

    In mode "train" batch norms use the statistics of each batch, but for those that are frozen in the model.

    Raises:
        ValueError: The model cannot be copied, or holds no numbers.
    """
    shared: dict[int, Any] = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    frozen = frozen_norms(model) if mode == "train" else {}
    network = copied(model, shared)
    for name, module in network.named_modules():
        # Instance norms with running statistics follow the same rule as batch norms.
        module.training = mode == "train" and isinstance(module, _NormBase) and name not in frozen
    mark_frozen(network, frozen)
    return without_running_statistics(network) if mode == "train" else network


def eager() -> Any:
    """Compiled parts run as they were written: a compiler would start again for float64."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and the import takes seconds
        return nullcontext()
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")
