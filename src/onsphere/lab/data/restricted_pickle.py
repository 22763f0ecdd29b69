"""Reading a pickle that should hold arrays and nothing else, without letting it run anything.

A pickle may name any importable object and call it. This reader knows the few names that a pickled numpy
array needs and answers each with an inert stand-in of its own, so that not even numpy's own reconstruction
code runs on the file's behalf:

    numpy.core.multiarray._reconstruct, numpy.ndarray, numpy.dtype      an array in protocols 0 to 4
    numpy.core.numeric._frombuffer, numpy.dtype                         an array in protocol 5
    _codecs.encode, bytes                                               Python 3's bytes in protocols 0 to 2

(or the same in numpy._core).

Every other name is refused; bytes, numbers, strings, lists and dicts need no names.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.data.checks import DataError


def load_arrays(path: Path) -> dict[str, Any]:
    """Read a pickled dict of arrays, lists and plain values (Python 2 or 3, any protocol).

    Args:
        path: The file.

    Returns:
        The dict with its keys as str; arrays at its top level as numpy arrays, other values as they are
        (strings of Python 2 stay bytes).

    Raises:
        DataError: The pickle asks for anything but arrays, is damaged, or holds no dict.
        OSError: The file cannot be read.
    """
    content = path.read_bytes()
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        values = {_text(key): _plain(item) for key, item in value.items()} if isinstance(value, dict) else None
    except _RefusedError as error:
        raise DataError(
            f"{path}: this pickle asks for {error}; only numpy arrays and plain values are allowed; "
            "do not trust the file, fetch it again from its official place"
        ) from None
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(
            f"{path}: is not a whole pickle ({type(error).__name__}: {error}); fetch the file again"
        ) from error
    if values is None:
        raise DataError(f"{path}: holds a {type(value).__name__}; a dict of arrays is needed; is it the right file?")
    return values


def _text(key: object) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def _plain(item: object) -> object:
    return item.array if isinstance(item, _Array) else item


class _RefusedError(Exception):
    """The pickle named something that is not allowed; the message is its name."""


class _DType:
    """Stand-in for ``numpy.dtype``: a plain number type, nothing structured and no objects."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        order = _ascii(state[1])
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {order!r}")
        self.order = order

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array:
    """Stand-in for ``numpy.ndarray``: filled once, from bytes whose number is checked."""

    __slots__ = ("array",)

    array: NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


class _Name:
    """What a permitted global becomes: a callable without attributes that a pickle could write to."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("a function has no state")


def _ascii(text: str | bytes) -> str:
    return text.decode("ascii") if isinstance(text, bytes) else text


def _from_bytes(raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _DType) or not isinstance(shape, tuple):
        raise ValueError("an array that is not bytes, a number type and a shape")
    kind = dtype.dtype
    if any(not isinstance(n, int) or n < 0 for n in shape) or math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes do not make an array of shape {shape} and type {kind}")
    return np.frombuffer(raw, dtype=kind).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*_: object) -> object:
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> object:
    array = _Array()
    array.array = _from_bytes(raw, dtype, shape, order)
    return array


def _dtype(code: Any, *_: object) -> object:
    text = _ascii(code)
    if text not in ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"):
        raise _RefusedError(f"an array of type {text!r}")
    return _DType(text)


def _encode(text: Any, encoding: Any = "latin1") -> object:
    if not isinstance(text, str) or _ascii(encoding) not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin-1")


def _empty_bytes() -> object:
    return b""


def _marker(*_: object) -> NoReturn:
    raise pickle.UnpicklingError("numpy.ndarray is not callable here")


_PERMITTED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _marker,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "bytes"): _empty_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        call = _PERMITTED.get((module, name))
        if call is None:
            raise _RefusedError(f"{module}.{name}")
        return _Name(call)
