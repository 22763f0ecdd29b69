"""Tensors in whatever a model takes or gives: nests, data classes, objects, arrays, sparse and nested tensors.

:func:`mapped` makes a copy of such a value with every tensor in it changed; :func:`tensors_in` lists them.
"""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["mapped", "tensors_in", "tensors_outside_objects", "widened", "without_caches"]

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, Enum, nn.Module, torch.dtype, torch.device)
_CODE = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, torch.Generator)
_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_ARRAYS = (np.float16, np.float32, np.float64, np.complex64, np.complex128)
_WIDE = {torch.complex64: torch.complex128, torch.complex32: torch.complex128}


def widened(tensor: Tensor) -> Tensor:
    """A tensor in double precision: float64, complex128, or whole numbers as they are."""
    if tensor.is_floating_point():
        return tensor.double()
    return tensor.to(_WIDE[tensor.dtype]) if tensor.dtype in _WIDE else tensor


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a nest with the numbers of every tensor changed; everything else as it is.

    Args:
        value: A tensor, a nest of tuples, lists and mappings, a data class or another object with attributes.
        change: Takes and gives a plain tensor; of a sparse or nested one it gets the values stored, and arrays of
            numbers as tensors.

    Returns:
        A value of the same kinds. Objects are copied with what they hold, those without attributes not at all.
    """
    return _mapped(value, change, {})


def _mapped(value: Any, change: Callable[[Tensor], Tensor], done: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return _of_tensor(value, change)
    if isinstance(value, (*_PLAIN, *_CODE)):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype not in _ARRAYS:
            return value
        return change(torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))).numpy()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change, done) for item in value))
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, change, done) for item in value)
    if isinstance(value, Mapping):
        converted = {key: _mapped(item, change, done) for key, item in value.items()}
        return converted if type(value) is dict else _same_kind(value, converted)
    return _of_object(value, change, done)


def _of_tensor(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    if tensor.is_nested:
        if tensor.layout is torch.jagged:
            jagged: Any = tensor
            values = change(jagged.values())
            return torch.nested.nested_tensor_from_jagged(values, jagged.offsets(), jagged.lengths())
        return torch.nested.as_nested_tensor([change(part) for part in tensor.unbind()])
    if tensor.layout is torch.sparse_coo:
        whole = tensor.detach().coalesce()
        return torch.sparse_coo_tensor(
            whole.indices(), change(whole.values()), whole.shape, is_coalesced=True, check_invariants=False
        )
    if tensor.layout in _COMPRESSED:
        rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
        outer, inner = (
            (tensor.crow_indices(), tensor.col_indices()) if rows else (tensor.ccol_indices(), tensor.row_indices())
        )
        return torch.sparse_compressed_tensor(
            outer, inner, change(tensor.values()), tensor.shape, layout=tensor.layout, check_invariants=False
        )
    return change(tensor)


def _of_object(value: Any, change: Callable[[Tensor], Tensor], done: dict[int, Any]) -> Any:
    """A copy of an object with its attributes changed; the object itself where it has none."""
    if id(value) in done:
        return done[id(value)][1]
    attributes = _attributes(value)
    try:
        twin = copy.copy(value) if attributes or isinstance(value, list) else value
    except Exception:  # locks, files and the like: what cannot be copied holds no batch
        twin = value
    done[id(value)] = (value, twin)  # the value is kept alive, so that nothing else gets its id
    if twin is value:
        return value
    new = {name: _mapped(item, change, done) for name, item in attributes.items()}
    for name, item in new.items():
        if item is not attributes[name]:
            object.__setattr__(twin, name, item)
    if isinstance(value, list):
        twin[:] = [_mapped(item, change, done) for item in value]
    return twin


def _attributes(value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    slots = [slot for kind in type(value).__mro__ for slot in _slots(kind)]
    found = {name: getattr(value, name) for name in [*names, *slots] if hasattr(value, name)}
    return {**found, **getattr(value, "__dict__", {})}


def _slots(kind: type) -> tuple[str, ...]:
    slots: Any = vars(kind).get("__slots__", ())
    own = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in own if not name.startswith("__"))


def _same_kind(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """``items`` in a mapping of the given one's class, or as a plain dict if that takes something else."""
    try:
        return type(mapping)(items)  # type: ignore[call-arg]
    except TypeError:
        return items


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in a value as a plain one: sparse ones dense, of nested ones their parts."""
    yield from _tensors_in(value, set())


def tensors_outside_objects(value: Any) -> Iterator[Tensor]:
    """Tensors in a nest of lists, tuples and mappings; not those within objects (a cache is no output)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_outside_objects(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_outside_objects(item)


#: What language models give back beside their output, to generate the next token with.
_CACHES = ("past_key_values", "past_key_value", "past_buckets_states", "cache_params", "mems")


def without_caches(output: Any) -> tuple[Any, bool]:
    """A model's output without what it keeps for the next token, and whether there was such a thing.

    A cache holds keys and values as they are before they meet queries: a function of the weights that no loss sees.
    """
    if isinstance(output, Mapping):
        given = {key: value for key, value in output.items() if value is not None}
        caches = [key for key, value in given.items() if key in _CACHES or type(value).__name__.endswith("Cache")]
        kept: Any = {key: value for key, value in output.items() if key not in caches}
        return (kept, True) if caches and kept else (output, False)
    if type(output) in (list, tuple):
        parts = [item for item in output if not type(item).__name__.endswith("Cache")]
        return (parts, True) if 0 < len(parts) < len(output) else (output, False)
    return output, False


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_nested:
            yield from [value.values()] if value.layout is torch.jagged else value.unbind()
        else:
            yield value if value.layout is torch.strided else value.to_dense()
    elif isinstance(value, (*_PLAIN, *_CODE)) or id(value) in seen:
        return
    else:
        seen.add(id(value))
        if isinstance(value, Mapping):
            items = list(value.values())
        else:
            items = list(value) if isinstance(value, list | tuple) else list(_attributes(value).values())
        for item in items:
            yield from _tensors_in(item, seen)
