"""Where the files of a named data set may lie: ``data_dir``, or the folder that ONSPHERE_DATA names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from onsphere.lab.data.checks import DataError

VARIABLE = "ONSPHERE_DATA"


@dataclass(frozen=True)
class Place:
    """A folder somebody named.

    Attributes:
        folder: The folder, which exists.
        field: What named it: ``data_dir`` or ``ONSPHERE_DATA``.
        binding: Whether the files must be there (``data_dir``) or other sources may follow (``ONSPHERE_DATA``).
    """

    folder: Path
    field: str
    binding: bool


def named_place(data_dir: str | os.PathLike[str] | None) -> Place | None:
    """The folder to look in first; None where neither ``data_dir`` nor ONSPHERE_DATA is given.

    Raises:
        DataError: What was given is not a folder.
    """
    if data_dir is not None:
        place = Place(_path(data_dir), "data_dir", binding=True)
    elif os.environ.get(VARIABLE):
        place = Place(_path(os.environ[VARIABLE]), VARIABLE, binding=False)
    else:
        return None
    if not place.folder.is_dir():
        found = "is a file" if place.folder.exists() else "does not exist"
        raise DataError(f"{place.field}: {place.folder} {found}; give the folder that holds the data set's files")
    return place


def _path(given: object) -> Path:
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise DataError(f"data_dir: {given!r} is not a path; give the folder that holds the data set's files, or None")
    try:
        return Path(os.fsdecode(given)).expanduser()
    except RuntimeError as error:  # "~nobody" of a user that does not exist
        raise DataError(f"data_dir: {given!r} cannot be expanded ({error}); give the folder's full path") from error
