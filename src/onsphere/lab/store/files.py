"""Files that are either whole or absent: written beside their place, flushed to disk, then renamed onto it.

Every JSON object, safetensors and parquet file carries its digest (:mod:`.seal`), which is compared when it is read;
what is damaged raises :class:`~onsphere.lab.store.seal.Damaged`, which names the file. The libraries that write are
given files that are open, or that were made just before under a name that nobody could foresee: they never follow a
link and never read more into a name than its letters.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onsphere.lab.options import InputError
from onsphere.lab.store import seal
from onsphere.lab.store.seal import Damaged

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

_META = b"onsphere.digest"  # the key in a parquet file's metadata


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield the path of a new, empty file in the same folder; rename it to ``path`` when the block ends without error.

    Raises:
        InputError: There is something at ``path`` that is no regular file, such as a device or a folder.
    """
    refuse_special(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_special(path: Path, what: str = "") -> None:
    """Raise :class:`InputError` if what is at ``path`` is no regular file; ``what`` is written before its name."""
    if path.exists() and not path.is_file():
        raise InputError(f"{what}{path} exists and is no regular file; give the name of a new one")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8; what UTF-8 cannot hold is written as an escape."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object atomically, keys in the given order, its digest last."""
    values = seal.plain(value)
    write_plain_json(path, values | {seal.KEY: seal.digest_of(values)})


def write_plain_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, without a digest."""
    write_text(path, json.dumps(seal.plain(value), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, without its digest.

    Raises:
        Damaged: It cannot be read, is no JSON object, or its digest is another.
    """
    value = parse_json(path)
    written = value.pop(seal.KEY, None)
    if written is not None and written != seal.digest_of(value):
        raise Damaged(path, "was changed after it was written (its digest is another)")
    return value


def parse_json(path: Path) -> dict[str, Any]:
    """Read a JSON object as it is, its digest included if there is one.

    Raises:
        Damaged: It cannot be read, or is no JSON object.
    """
    text = _bytes_of(path)
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
        seal.digest_of(value)  # finds numbers too large to be finite
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"is damaged: it is no JSON ({_reason(error)})") from None
    if not isinstance(value, dict):
        raise Damaged(path, f"is damaged: it holds a {type(value).__name__} in place of an object")
    return value


def write_table(path: Path, columns: Mapping[str, ArrayLike]) -> str:
    """Write columns of one length as a parquet file, atomically; returns the digest of its bytes."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: np.asarray(column) for name, column in columns.items()})
    table = table.replace_schema_metadata({_META: seal.digest_of_table(table).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    write_bytes(path, data)
    return seal.digest_of_bytes(data)


def read_arrow(path: Path, expected: str | None = None) -> pa.Table:
    """Read a parquet file; ``expected`` is the digest of its bytes, if it is known.

    Raises:
        Damaged: It is missing, is no whole parquet file, or its digest is another.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = _bytes_of(path)
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        found = seal.digest_of_table(table)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(path, f"is damaged: it is no whole parquet file ({_reason(error)})") from None
    written = (table.schema.metadata or {}).get(_META, b"").decode("ascii", errors="replace")
    if written not in ("", found) or expected not in (None, seal.digest_of_bytes(data)):
        raise Damaged(path, "was changed after it was written (its digest is another)")
    return table


def read_table(path: Path) -> dict[str, NDArray[Any]]:
    """Read a parquet file as columns; raises as :func:`read_arrow`."""
    table = read_arrow(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write named tensors, as they are on the CPU, and texts as a safetensors file, atomically; returns its digest."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = seal.digest_of_tensors(own, metadata or {})
    with atomic(path) as temporary:
        try:
            save_file(own, temporary, metadata={**(metadata or {}), seal.KEY: digest})
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            if found is None:
                raise
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
    return digest


def read_tensors(
    path: Path, device: str = "cpu", expected: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file onto a device: its tensors, and the texts in its header but the digest.

    ``expected`` is the digest of its content, if it is known.

    Raises:
        Damaged: It is missing, is no whole safetensors file, or its digest is another.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise Damaged(path, "is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise Damaged(path, f"is damaged: it is no whole safetensors file ({_size(path)}; {_reason(error)})") from None
    known = {metadata.get(seal.KEY), expected} - {None}
    if known and known != {seal.digest_of_tensors(tensors, metadata)}:
        raise Damaged(path, "was changed after it was written (its digest is another)")
    metadata.pop(seal.KEY, None)
    return {name: tensor.to(device) for name, tensor in tensors.items()}, metadata


def full(error: OSError) -> bool:
    """Whether an error says that there is no room left to write."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _bytes_of(path: Path) -> bytes:
    """The bytes of a regular file that is not empty."""
    try:
        if path.exists() and not path.is_file():
            raise Damaged(path, "is damaged: it is no regular file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise Damaged(path, "is missing") from None
    except OSError as error:
        raise Damaged(path, f"cannot be read: {error.strerror or error}") from None
    if not data:
        raise Damaged(path, "is damaged: it is empty (0 bytes)")
    return data


def _size(path: Path) -> str:
    try:
        return f"{path.stat().st_size} bytes"
    except OSError as error:
        return str(error.strerror)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
