"""The IDX file format of MNIST and its relatives, plain or gzip-compressed, read strictly.

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
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.data.checks import DataError

_PIECE = 1 << 20


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    Args:
        path: The file; a name that ends in ``.gz`` is decompressed.
        dimensions: How many dimensions it must have.

    Returns:
        uint8 array of that many dimensions, none of them 0.

    Raises:
        DataError: The file is damaged, cut off, too long, or of another kind.
        OSError: It cannot be read.
    """
    try:
        with _open(path) as file:
            return _parse(file, path, dimensions)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip data are damaged or cut off ({error}); fetch the file again") from error


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _parse(file: BinaryIO, path: Path, dimensions: int) -> NDArray[np.uint8]:
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
    content = _read_at_most(file, size + 1)  # one byte more than allowed shows a file that is too long
    if len(content) != size:
        found = "more" if len(content) > size else f"only {len(content)}"
        raise DataError(
            f"{path}: its header announces {size} bytes for the shape {shape}, it holds {found}; fetch the file again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_at_most(file: BinaryIO, size: int) -> bytes:
    """Read in pieces, so that a header that lies about its size cannot ask for the whole memory at once."""
    content = bytearray()
    while len(content) < size:
        piece = file.read(min(_PIECE, size - len(content)))
        if not piece:
            break
        content += piece
    return bytes(content)
