"""The IDX file format of MNIST and its relatives, plain or gzip-compressed (its first bytes say which), read strictly.

    bytes 0-1   zero
    byte  2     type of the elements (8: unsigned byte, the only one used here)
    byte  3     number of dimensions d
    4 d bytes   the dimensions, big-endian
    the rest    exactly their product of bytes, C order

Format: http://yann.lecun.com/exdb/mnist/, last section.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.data.checks import DataError

LARGEST = 1 << 30  # bytes that a header may announce; the largest official file has 47 million
_PIECE = 1 << 20
_GZIP = b"\x1f\x8b"

Check = Callable[[tuple[int, ...]], None]


def read_idx(path: Path, dimensions: int, check: Check = lambda shape: None) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    Args:
        path: The file; whether it is compressed is told by its content, not by its name.
        dimensions: How many dimensions it must have.
        check: Called with the announced shape, to refuse it before more than a first piece is unpacked.

    Returns:
        uint8 array of that many dimensions, none of them 0.

    Raises:
        DataError: The file is damaged, cut off, too long, too large, or of another kind.
        OSError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == _GZIP
            file.seek(0)
            if not compressed:
                return _parse(file, path, dimensions, check, os.fstat(file.fileno()).st_size)
            with gzip.open(file, "rb") as unpacked:
                return _parse(cast("BinaryIO", unpacked), path, dimensions, check, None)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip data are damaged or cut off ({error}); fetch the file again") from error


def _parse(file: BinaryIO, path: Path, dimensions: int, check: Check, length: int | None) -> NDArray[np.uint8]:
    """The array of an opened file; ``length`` is the whole file's where that is known before it is read."""
    magic = file.read(4)
    wanted = bytes((0, 0, 8, dimensions))
    if magic != wanted:
        raise DataError(
            f"{path}: starts with the bytes {magic.hex(' ') or '(none)'}; an IDX file of unsigned bytes with "
            f"{dimensions} dimension{'s' if dimensions > 1 else ''} starts with {wanted.hex(' ')}; is it the right "
            "file?"
        )
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{path}: ends inside its header; fetch the file again")
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", header)
    if 0 in shape:
        raise DataError(f"{path}: its header announces the shape {shape}; every dimension must be at least 1")
    size = math.prod(shape)
    if length is not None:
        _check_size(path, shape, length - len(magic) - len(header))
    content = _read_at_most(file, min(size + 1, _PIECE))
    if len(content) < min(size, _PIECE):
        _check_size(path, shape, len(content))
    check(shape)
    if size > LARGEST:
        raise DataError(f"{path}: its header announces {size} bytes for the shape {shape}; allowed: {LARGEST}")
    content += _read_at_most(file, size + 1 - len(content))  # one byte more than allowed shows a file that is too long
    _check_size(path, shape, len(content))
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _check_size(path: Path, shape: tuple[int, ...], found: int) -> None:
    size = math.prod(shape)
    if found != size:
        holds = "more" if found > size else f"only {found}"
        raise DataError(
            f"{path}: its header announces {size} bytes for the shape {shape}, it holds {holds}; fetch the file again"
        )


def _read_at_most(file: BinaryIO, size: int) -> bytearray:
    """Read in pieces, so that a header that lies about its size cannot ask for the whole memory at once."""
    content = bytearray()
    while len(content) < size:
        piece = file.read(min(_PIECE, size - len(content)))
        if not piece:
            break
        content += piece
    return content
