"""Downloads with checksums, kept in the user's cache folder, and the careful unpacking of what was downloaded."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from onsphere.lab.data.checks import DataError


def cache_folder() -> Path:
    """The folder that downloads are kept in (the system's cache folder for this user).

    Raises:
        DataError: pooch is not installed.
    """
    try:
        import pooch
    except ImportError as error:
        raise DataError(
            "download: needs pooch, which is not installed; install the extra (pip install 'onsphere[lab]') "
            "or give data_dir"
        ) from error
    return Path(pooch.os_cache("onsphere"))


def fetch(name: str, urls: Sequence[str], sha256: str, *, instead: str) -> Path:
    """The file of this hash in the cache, downloaded from the first address that delivers it if it is not there.

    Its name is the end of the first address. ``name``, the data set, and ``instead``, what else can be done, stand in
    the message.

    Raises:
        DataError: pooch is not installed, or no address delivers the file.
    """
    folder = cache_folder()
    import pooch

    filename = urls[0].rsplit("/", 1)[1]
    failures = []
    for url in urls:
        try:
            return Path(pooch.retrieve(url=url, known_hash=f"sha256:{sha256}", fname=filename, path=folder))
        except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum is a ValueError
            reason = "wrong checksum" if isinstance(error, ValueError) else type(error).__name__
            failures.append(f"{url}: {reason}")
    raise DataError(f"{name}: download failed ({'; '.join(failures)}); {instead}")


def verify(path: Path, algorithm: str, wanted: str) -> None:
    """Check that a file that was found in the cache is the official one.

    Raises:
        DataError: Its checksum is another.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if found != wanted:
        raise DataError(
            f"{path}: is not the official file (its {algorithm} is {found}, not {wanted}); delete it and try again, "
            "or give its folder as data_dir if it is your own"
        )


def unpack(archive: Path, members: Sequence[str], folder: Path) -> None:
    """Take the files ``members`` out of a tar archive and lay them into ``folder``, all of them or none.

    Only regular files with exactly these names are read, under their last name part; nothing else in the
    archive is touched.

    Raises:
        DataError: The archive is damaged or a member is missing or no plain file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with tarfile.open(archive) as tar:
            for name in members:
                content = tar.extractfile(_plain_member(tar, name, archive))
                assert content is not None  # it is a regular file
                with content, (temporary / Path(name).name).open("wb") as output:
                    shutil.copyfileobj(content, output)
        # Another process may have been faster: its files are the same.
        with contextlib.suppress(OSError):
            temporary.replace(folder)
        if not folder.is_dir():
            raise DataError(f"{archive}: could not be unpacked to {folder}; is that place writable?")
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: is damaged ({error}); delete it and try again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _plain_member(tar: tarfile.TarFile, name: str, archive: Path) -> tarfile.TarInfo:
    try:
        member = tar.getmember(name)
    except KeyError as error:
        raise DataError(f"{archive}: holds no {name}; delete it and try again") from error
    if not member.isreg():
        raise DataError(f"{archive}: {name} is not a plain file; delete the archive and try again")
    return member
