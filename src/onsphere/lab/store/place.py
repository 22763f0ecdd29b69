"""Where a run lies: a folder of its own, taken so that of two starts on one folder one wins."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from onsphere.lab.options import InputError
from onsphere.lab.store.files import refuse_special
from onsphere.lab.store.holder import HOLDER, Elsewhere, foreign, holding, read, who

LOCK = ".lock"


def resume_command(folder: Path) -> str:
    """The command that continues the run in a folder, quoted for a shell."""
    text = str(folder)
    return f"onsphere resume {shlex.quote(f'./{text}' if text.startswith('-') else text)}"


def check_name(path: Path, option: str) -> None:
    """Raise :class:`InputError` if a path holds bytes that are no UTF-8, which no result or page could repeat."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{option}: {str(path)!r} holds bytes that are no UTF-8; give another name") from None


def check_destination(path: Path, option: str) -> None:
    """Raise :class:`InputError` if a file that is written at the end of a run could not be, or would replace one."""
    check_name(path, option)
    try:
        refuse_special(path, f"{option}: ")
        if path.exists() or path.is_symlink():
            raise InputError(f"{option}: {path} exists, and is not overwritten: remove it first, or give another name")
        if not path.absolute().parent.is_dir():
            raise InputError(f"{option}: there is no folder {path.parent}; make it first")
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"{option}: {path} cannot be written: {error.strerror}") from None
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"{option}: {path} cannot be written: its folder is read-only")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for this process.

    Raises:
        InputError: Another process, on this machine or on one that shares the folder, holds it, or it cannot be
            written.
    """
    lock = FileLock(folder / LOCK)
    with ExitStack() as stack:
        try:
            lock.acquire(timeout=0)
            stack.callback(lock.release)
            stack.enter_context(holding(folder))
        except Timeout:
            raise InputError(f"{folder} is being worked on by {holder_of(folder)}; wait for it or stop it") from None
        except Elsewhere as other:
            raise InputError(
                f"{folder} is being worked on by {other}; wait for it or stop it (if it has died, a minute is enough)"
            ) from None
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{folder} cannot be written: {reason}; nothing was done") from None
        yield


def is_held(folder: Path) -> bool:
    """Whether a process works in a folder now; nothing is made there to find out."""
    path = folder / LOCK
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with FileLock(path).acquire(timeout=0):
            return foreign(folder)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def holder_of(folder: Path) -> str:
    """Who works in a folder, in words."""
    return who(read(folder))


@contextmanager
def taken(folder: Path | None, command: str) -> Iterator[Path]:
    """Make a new run's folder (``runs/COMMAND-DATE-TIME`` for None), or take an empty one; hold it while it is filled.

    Raises:
        InputError: It holds something, cannot be written, or another process has just taken it.
    """
    try:
        place = _new(command) if folder is None else folder
        if folder is not None:
            check_name(folder, "--out")
            _refuse_full(folder)
            folder.mkdir(parents=True, exist_ok=True)
        with held(place):
            _refuse_full(place)  # again: nobody can put a run there from now on
            yield place
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--out: {folder or 'runs'} cannot be written: {reason}") from error


def _new(command: str) -> Path:
    stem = Path("runs") / f"{command.replace(' ', '-')}-{datetime.now():%Y%m%d-%H%M%S}"
    stem.parent.mkdir(exist_ok=True)
    place, number = stem, 1
    while True:
        try:
            place.mkdir()
        except FileExistsError:
            number += 1
            place = stem.with_name(f"{stem.name}-{number}")
        else:
            return place


def given_back(folder: Path, made: bool) -> None:
    """Take back a new run, and where its folder was `made` for it the folder, and ``runs`` if nothing else is in it."""
    for name in ("run.json", LOCK, HOLDER):
        (folder / name).unlink(missing_ok=True)
    if made:
        with suppress(OSError):  # not empty: somebody else put something there
            folder.rmdir()
            if folder.parent == Path("runs"):
                folder.parent.rmdir()


def _refuse_full(folder: Path) -> None:
    if (folder / "run.json").exists():
        raise InputError(
            f"--out: {folder} already holds another run; give a new folder, "
            f"or continue that run with: {resume_command(folder)}"
        )
    lock = folder / LOCK
    if folder.exists() and (
        not folder.is_dir() or lock.is_symlink() or any(p.name not in (LOCK, HOLDER) for p in folder.iterdir())
    ):
        raise InputError(f"--out: {folder} is not an empty folder; give a new or empty one")
