"""Who works in a folder, said in the folder itself, for drivers on other machines that share it.

The operating system's lock settles who of one machine may work; on a file system that several mount it may say nothing
about the others. So whoever has the lock also makes ``.holder`` there, which exactly one can, and touches it every ten
seconds. One that was made on another machine counts for as long as it is touched.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["HOLDER", "Elsewhere", "foreign", "holding", "who"]

HOLDER = ".holder"
#: Seconds from one touch to the next, and without one until its maker counts as dead.
BEAT, DEAD = 10.0, 60.0


class Elsewhere(Exception):  # noqa: N818 (it says where)
    """A process of another machine works in the folder; the message says which."""


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Say in a folder that this process works in it; this machine's lock must be held.

    Raises:
        Elsewhere: A living process of another machine has said so before.
        OSError: The folder cannot be written.
    """
    path = folder / HOLDER
    while True:
        try:
            with path.open("x") as file:
                json.dump(_this_process(), file)
            break
        except FileExistsError:
            found, age = read(folder), _age(path)
            if found is not None and not _here(found) and age < DEAD:
                raise Elsewhere(f"{who(found)}, which gave a sign of life {age:.0f} s ago") from None
            path.unlink(missing_ok=True)  # left by one that died
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        path.unlink(missing_ok=True)


def foreign(folder: Path) -> bool:
    """Whether a living process of another machine works in a folder, as far as this machine's clock tells."""
    found = read(folder)
    if found is None or _here(found):
        return False
    try:
        return datetime.now().timestamp() - (folder / HOLDER).stat().st_mtime < DEAD
    except OSError:
        return False


def read(folder: Path) -> Mapping[str, Any] | None:
    """What a folder says about who works in it; empty if it is not written yet, None if nobody does."""
    path = folder / HOLDER
    if path.is_symlink() or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def who(found: Mapping[str, Any] | None) -> str:
    """A holder in words."""
    if not found:
        return "another process"
    return f"another process ({found.get('process')} on {found.get('host')} since {found.get('since')})"


def _this_process() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "machine": _machine(), "since": now}


def _here(found: Mapping[str, Any]) -> bool:
    """Whether a holder is of this machine, whose lock has told that it is dead."""
    known = found.get("machine"), _machine()
    return known[0] == known[1] if all(known) else found.get("host") == socket.gethostname()


@cache
def _machine() -> str:
    """What no other machine has, and this one in no other life; containers of one machine share it as they do locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of whoever keeps it: this machine's may be another."""
    probe = path.with_name(f"{HOLDER}-{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return DEAD
    finally:
        probe.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):  # a file system that is away for a moment
            os.utime(path)
