"""Symmetries in a file: JSON that says which format it has, and is checked when it is read."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from onsphere.symmetry.lattice import generators_of

if TYPE_CHECKING:
    from onsphere.symmetry.result import Symmetries

__all__ = ["read", "write"]

FORMAT = 1

S = TypeVar("S", bound="Symmetries")


def write(path: str | PathLike[str], values: Mapping[str, Any]) -> None:
    """Write the values of :meth:`onsphere.Symmetries.to_dict` beside ``path`` and rename the file: whole, or not there.

    Args:
        path: The file, which is replaced if there is one.
        values: Plain values; numbers that are not finite become null.
    """
    path = Path(path)
    finite = {"gap": _finite(values["gap"]), "broken_by_eps": [_finite(change) for change in values["broken_by_eps"]]}
    lines = [
        f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}"
        for name, value in {"format": FORMAT, **values, **finite}.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | PathLike[str], make: Callable[[Mapping[str, Any]], S]) -> S:
    """Read what :func:`write` wrote.

    Args:
        path: The file that was written.
        make: Makes the symmetries of plain values.

    Returns:
        The symmetries, checked for being consistent in themselves.

    Raises:
        OSError: The file is not there or cannot be read.
        ValueError: It is damaged, of another kind or of another format.
    """
    data = Path(path).read_bytes()
    try:
        values = json.loads(data)
        if not isinstance(values, dict) or "format" not in values:
            raise ValueError("it does not say its format")
        found = make(values) if values["format"] == FORMAT else None
        if found is not None:
            _check(found)
    except KeyError as error:
        raise ValueError(f"{path} is damaged or no file of Symmetries.save: it lacks {error}") from error
    except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no file of Symmetries.save: {error}") from error
    if found is None:
        raise ValueError(f"{path} has format {values['format']!r}; this version of onsphere reads format {FORMAT}")
    return found


def _check(found: Symmetries) -> None:
    """Refuse what no search gives (ValueError, TypeError)."""
    names = set(found.names)
    members = [name for group in found.groups for name in group]
    parts = [
        set(members),
        *map(set, found.rescalings),
        set(found.without_effect),
        set(found.row_invariant or ()),
    ]
    whole = [found.dimension, *(n for shape in found.shapes for n in shape)]
    numbers = [found.gap, *found.broken_by_eps, *(c for exponents in found.rescalings for c in exponents.values())]
    sound = {
        "names": len(names) == len(found.names) and all(isinstance(name, str) for name in (*names, *found.notes)),
        "shapes": len(found.shapes) == len(found.names) and all(type(n) is int and n >= 0 for n in whole),
        "groups": len(set(members)) == len(members) and len(found.broken_by_eps) == len(found.groups),
        "tensors": all(part <= names for part in parts),
        "numbers": all(type(x) in (int, float) for x in numbers),
    }
    shapes = dict(zip(found.names, found.shapes, strict=True))
    sound["blocks"] = all(
        block.dim in (0, 1)
        and len(shapes.get(block.name, ())) > 1
        and len(block.rows) > 0
        and set(block.rows) <= set(range(shapes[block.name][block.dim]))
        for own in (found.blocks or {}).values()
        for block in own
    )
    wrong = [what for what, right in sound.items() if not right]
    if wrong:
        raise ValueError(f"its {' and '.join(wrong)} do not fit together")
    expected = generators_of(found.names, found.groups, found.rescalings, found.without_effect)
    if not np.array_equal(found.generators, expected):
        raise ValueError("its generators are not those of its groups and rescalings")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
