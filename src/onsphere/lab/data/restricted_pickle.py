"""Reading a pickle that should hold arrays and nothing else, without letting it run anything.

A pickle may name any importable object and call it. This reader knows the few names that a pickled numpy
array needs and answers each with an inert stand-in of its own, so that not even numpy's own reconstruction
code runs on the file's behalf:

    numpy.core.multiarray._reconstruct, numpy.ndarray, numpy.dtype      an array in protocols 0 to 4
    numpy.core.numeric._frombuffer, numpy.dtype                         an array in protocol 5
    _codecs.encode, bytes                                               Python 3's bytes in protocols 0 to 2

(or the same in numpy._core).

Every other name is refused; bytes, numbers, strings, lists and dicts need no names. Size, memory and time are
bounded by :mod:`onsphere.lab.data.pickle_machine`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.data.checks import DataError
from onsphere.lab.data.pickle_machine import Function, Stateful, run_pickle

LARGEST = 1 << 29  # bytes of a file; the largest official one has 155 million
_DIMENSIONS = 32


def load_arrays(path: Path) -> dict[str, Any]:
    """Read a pickled dict of arrays, lists and plain values (Python 2 or 3, any protocol).

    Returns:
        The dict with its keys as str; arrays at its top level as numpy arrays, other values as they are
        (strings of Python 2 stay bytes).

    Raises:
        DataError: The pickle asks for anything but arrays, is damaged, is too large, or holds no dict.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise DataError(f"{path}: has {size:,} bytes; allowed: {LARGEST:,}; is it the right file?")
    with path.open("rb") as file:
        content = file.read(size)
    try:
        value = run_pickle(content, _Permitted(len(content)).find)
        values = None
        if isinstance(value, dict):
            keys = (key.decode("latin-1") if isinstance(key, bytes) else key for key in value)
            items = (item.array if isinstance(item, _Array) else item for item in value.values())
            values = dict(zip(keys, items, strict=True))
    except _RefusedError as error:
        raise DataError(
            f"{path}: this pickle asks for {_shown(error)}; only numpy arrays and plain values are allowed; "
            "do not trust the file, fetch it again from its official place"
        ) from None
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(
            f"{path}: is not a whole pickle ({type(error).__name__}: {_shown(error)}); fetch the file again"
        ) from error
    if values is None:
        raise DataError(f"{path}: holds a {type(value).__name__}; a dict of arrays is needed; is it the right file?")
    return values


def _shown(error: Exception) -> str:
    """What an error says, without what a file could do to a terminal."""
    text = str(error).encode("unicode_escape", "backslashreplace").decode("ascii")
    return text if len(text) <= 200 else f"{text[:200]}..."


class _RefusedError(Exception):
    """The pickle named something that is not allowed; the message is its name."""


class _DType(Stateful):
    """Stand-in for ``numpy.dtype``: a plain number type, nothing structured and no objects."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    def set_state(self, state: Any) -> None:
        order = _ascii(state[1])
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {order!r}")
        self.order = order

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array(Stateful):
    """Stand-in for ``numpy.ndarray``: filled from bytes whose number is checked."""

    array: NDArray[Any]

    def set_state(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _ascii(text: str | bytes) -> str:
    if len(text) > 16:
        raise ValueError("a long string where the name of a type or encoding belongs")
    return text.decode("ascii") if isinstance(text, bytes) else text


def _from_bytes(raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _DType) or not isinstance(shape, tuple):
        raise ValueError("an array that is not bytes, a number type and a shape")
    kind = dtype.dtype
    if len(shape) > _DIMENSIONS:
        raise ValueError(f"an array of {len(shape)} dimensions")
    if any(not isinstance(n, int) or n < 0 for n in shape) or math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes do not make an array of shape {shape} and type {kind}")
    return np.frombuffer(raw, dtype=kind).reshape(shape, order="F" if order == "F" else "C")


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> object:
    array = _Array()
    array.array = _from_bytes(raw, dtype, shape, order)
    return array


def _dtype(code: Any, *_: object) -> object:
    text = _ascii(code)
    if text not in ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"):
        raise _RefusedError(f"an array of type {text!r}")
    return _DType(text)


def _marker(*_: object) -> NoReturn:
    raise ValueError("numpy.ndarray is not callable here")


class _Permitted:
    """The names of one file.

    Args:
        size: Bytes of the file; the strings that it has encoded are together not larger.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        multiarray, numeric, empty = Function(lambda *_: _Array()), Function(_frombuffer), Function(lambda: b"")
        self.names = {
            ("numpy", "ndarray"): Function(_marker),
            ("numpy", "dtype"): Function(_dtype),
            ("_codecs", "encode"): Function(self._encode),
            ("__builtin__", "bytes"): empty,
            ("builtins", "bytes"): empty,
            **{(f"numpy.{core}.multiarray", "_reconstruct"): multiarray for core in ("core", "_core")},
            **{(f"numpy.{core}.numeric", "_frombuffer"): numeric for core in ("core", "_core")},
        }

    def find(self, module: str, name: str) -> Function:
        function = self.names.get((module, name))
        if function is None:
            raise _RefusedError(f"{module}.{name}")
        return function

    def _encode(self, text: Any, encoding: Any = "latin1") -> object:
        if not isinstance(text, str) or _ascii(encoding) not in ("latin1", "latin-1"):
            raise ValueError("bytes in an unknown encoding")
        self.left -= len(text)
        if self.left < 0:
            raise ValueError("the same string is encoded again and again")
        return text.encode("latin-1")
