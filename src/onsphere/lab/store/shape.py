"""Whether a result that was read has the types that its classes say, for files that no digest vouches for."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_shape(value: Any, where: str = "") -> None:
    """Compare the fields of a dataclass, and of those within it, with their annotations.

    Numbers may be None, which JSON writes for what is not finite.

    Raises:
        TypeError: One of them is something else; the message names it.
    """
    try:
        hints = get_type_hints(type(value))
    except NameError:  # annotations that only a type checker sees
        return
    for field in fields(value):
        name = f"{where}.{field.name}" if where else field.name
        _check(getattr(value, field.name), hints.get(field.name, Any), name)


def _check(value: Any, hint: Any, where: str) -> None:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(value) and not isinstance(value, type):
        check_shape(value, where)
    elif not _fits(value, hint):
        wanted = getattr(hint, "__name__", str(hint))
        raise TypeError(f"{where} is {str(value)[:40]!r}, a {type(value).__name__}, not a {wanted}")
    elif isinstance(value, Mapping) and len(arguments) == 2:
        for name, item in value.items():
            _check(item, arguments[1], f"{where}.{name}")
    elif isinstance(value, list | tuple) and arguments and origin not in (Union, types.UnionType, Literal):
        each = arguments if origin is tuple and arguments[-1] is not Ellipsis else (arguments[0],) * len(value)
        for number, (item, kind) in enumerate(zip(value, each, strict=True)):
            _check(item, kind, f"{where}[{number}]")


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if hint is float:
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or hint
    if kind in (list, tuple, Sequence):
        return isinstance(value, list | tuple)
    return isinstance(value, kind) if isinstance(kind, type) else True
