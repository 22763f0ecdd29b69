"""Wrappers around modules (compiled, data-parallel, checkpointed) and what stands for them in a copy.

A wrapper computes what the module inside computes, by other means: with a compiler, over several devices, with
recomputation. A copy wants none of these, and a wrapper's own copy would start processes talking or refer to the
original. So in a copy a plain module takes its place, under the same names of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import nn

__all__ = ["Transparent", "inside", "matched_names", "plain_name", "unwrapped"]

# Class names by module, so that nothing is imported for those who have no wrappers: attribute that holds the module.
_WRAPPERS = {
    ("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod",
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "module",
    ("torch.nn.parallel.data_parallel", "DataParallel"): "module",
    ("torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "CheckpointWrapper"): "_checkpoint_wrapped_module",
    ("torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "OffloadWrapper"): "_checkpoint_wrapped_module",
}
#: Parts of names that wrappers alone use (the last is FSDP 1's), wherever they stand; ``module`` may be a model's own.
_PRIVATE = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
# Wrappers that leave their own name out of what they list.
_SILENT = ("_orig_mod", "_checkpoint_wrapped_module")

T = TypeVar("T")


def inside(module: nn.Module) -> str | None:
    """The name under which a wrapper holds the module it wraps; None of a module that is no wrapper."""
    for kind in type(module).__mro__:
        found = _WRAPPERS.get((kind.__module__, kind.__name__))
        if found is not None:
            return found
    return None


def unwrapped(model: nn.Module) -> nn.Module:
    """``model`` without the wrappers around all of it that users do not see in names: compiled, checkpointed."""
    while (name := inside(model)) in _SILENT:
        assert name is not None
        model = getattr(model, name)
    return model


def matched_names(given: Mapping[str, T], own: Mapping[str, object]) -> dict[str, T]:
    """Entries of a state dict under the names a model has, where the two differ by wrappers' prefixes alone.

    Args:
        given: Values by name, such as ``module.0.weight`` or ``0._orig_mod.weight``.
        own: What has the names wanted.

    Returns:
        The values; names that match nothing stay as they are.
    """
    if all(name in own for name in given):
        return dict(given)
    for plain in (_without_module, plain_name):
        known = {plain(name): name for name in own}
        if len(known) == len(own):  # else there is a module that is called "module" beside one that is not
            return {name if name in own else known.get(plain(name), name): value for name, value in given.items()}
    return dict(given)


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers around a model, or around a part of it, have put there.

    Args:
        name: A name such as ``_orig_mod.module.0._orig_mod.weight``.

    Returns:
        The name that the unwrapped model has for it, ``0.weight``. ``module`` goes where it leads alone: further
        inside a model may call a module of its own so.
    """
    parts = [part for part in name.split(".") if part not in _PRIVATE]
    while len(parts) > 1 and parts[0] == "module":
        del parts[0]
    return ".".join(parts)


def _without_module(name: str) -> str:
    return ".".join(part for part in plain_name(name).split(".") if part != "module")


class Transparent(nn.Module):
    """Stands for a wrapper: the same name inside, the same attributes, and nothing but the module it holds.

    Args:
        name: What the wrapper calls the module.
        module: The module that is wrapped.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self._name = name
        self.add_module(name, module)
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module inside gives."""
        return self._held(*args, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """As the wrapper has it: torch's checkpoint wrapper leaves its own name out."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            hidden = self._name == "_checkpoint_wrapped_module"
            yield name.replace(f"{self._name}.", "") if hidden else name, parameter

    @property
    def _held(self) -> Any:
        return self._modules[self._name]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            held = self.__dict__.get("_modules", {}).get(self.__dict__.get("_name"))
            if held is None:
                raise
            return getattr(held, name)

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, key: Any) -> Any:
        return self._held[key]
