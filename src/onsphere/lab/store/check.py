"""A look at a run's folder before anything is done there: links that lead out of it, files that are damaged."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from onsphere.lab.options import InputError
from onsphere.lab.store.files import read_arrow, read_json, read_tensors

#: What this package writes with a digest in it, and how each is read; other files are somebody else's.
_READERS: dict[str, Callable[[Path], object]] = {
    ".json": read_json,
    ".parquet": read_arrow,
    ".safetensors": read_tensors,
}


def refuse_links(folder: Path) -> None:
    """Raise :class:`InputError` if a link inside a run leads out of it, or something is neither file nor folder.

    What is written into a run stays in it, whoever made the folder.
    """
    root = folder.resolve()
    for path in _entries(folder):
        try:
            mode = path.lstat().st_mode
            target = path.resolve() if stat.S_ISLNK(mode) else root
        except FileNotFoundError:  # another process has just renamed it
            continue
        except (OSError, RuntimeError):
            raise InputError(f"{path} is a link in a circle; nothing is written: remove it") from None
        if stat.S_ISLNK(mode):
            if not target.is_relative_to(root):
                raise InputError(
                    f"{path} is a link that leads out of the run ({target}); nothing is written: remove it"
                )
        elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{path} is neither a file nor a folder; nothing is written: remove it from the run")


def verify(folder: Path) -> None:
    """Read every file of a run that carries a digest.

    Raises:
        Damaged: One of them is not what was written there, or is no whole file.
    """
    for path in sorted(_entries(folder)):
        reader = _READERS.get(path.suffix)
        if reader is not None and path.is_file() and not _is_hidden(path.relative_to(folder)):
            reader(path)


def _entries(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(place, name)


def _is_hidden(path: Path) -> bool:
    """Whether it is none of ours: a temporary file, or something that a desktop left behind."""
    return any(part.startswith(".") for part in path.parts)
