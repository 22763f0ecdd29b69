"""Digests: what a file was when it was written, so that damage and edits are seen when it is read again.

A digest is BLAKE2b of the *content*, 128 bits as hex digits, and lies in the file itself: under the key ``digest`` of a
JSON object, in the metadata of a safetensors or parquet file. It finds accidents and careless edits; who wants to
deceive can write a digest as well. Files of runs made before there were digests have none and are believed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onsphere.lab.options import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

KEY = "digest"
WAYS_ON = "put the file back as it was, or start a new run in another folder"


class Damaged(InputError):  # noqa: N818 (named for what happened)
    """A file of a run is not what was written there.

    Args:
        path: The file on disk.
        what: What is wrong with it, as the end of a sentence that begins with the file's name.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} {what}; {WAYS_ON}")
        self.path, self.what = path, what

    def __reduce__(self) -> tuple[type[Damaged], tuple[Path, str]]:
        return type(self), (self.path, self.what)


def plain(value: Any) -> Any:
    """A JSON-ready copy: tuples become lists, non-finite floats become None (JSON has no word for them)."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def digest_of_bytes(data: bytes) -> str:
    """The digest of a file's bytes."""
    return _hash(data).hexdigest()


def digest_of(value: Any) -> str:
    """The digest of plain values; it does not depend on the order of keys.

    Raises:
        ValueError: The values hold NaN or infinity, which JSON cannot.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return _hash(text.encode()).hexdigest()


def digest_of_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The digest of named tensors (name, type, shape and bytes of each) and of texts that lie beside them."""
    import torch

    total = _hash(digest_of({name: text for name, text in metadata.items() if name != KEY}).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def digest_of_table(table: pa.Table) -> str:
    """The digest of the columns of a table: name, type and values of each."""
    import numpy as np

    total = _hash()
    for name in table.column_names:
        column = table[name].to_numpy()
        total.update(f"{name} {table[name].type} {len(column)};".encode())
        if column.dtype.kind in "OU":
            total.update(json.dumps(column.tolist()).encode())
        else:
            total.update(np.ascontiguousarray(column).view(np.uint8).data)
    return total.hexdigest()


def _hash(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=16)
