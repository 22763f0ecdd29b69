"""What ``onsphere doctor`` looks at: whether everything is here that training, pages and data sets need."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

__all__ = ["Check", "checks", "version"]

State = Literal["ok", "note", "missing"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "firefox")
_COMPILERS = ("g++", "clang++", "c++")
#: Gigabytes free under which a run of many snapshots may not fit.
_ROOM = 1.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        state: ``ok``; ``note``: something that is optional is not there, or could be better; ``missing``: nothing works
            without it.
        found: What is there, in words.
        advice: What to do, "" where there is nothing to do.
    """

    name: str
    state: State
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def version() -> str:
    """The version of onsphere, of what it stands on, and the devices there are."""
    import torch

    from onsphere import __version__

    devices = ", ".join(_devices())
    return f"onsphere {__version__} (torch {torch.__version__}, Python {platform.python_version()}; devices: {devices})"


def checks() -> Iterator[Check]:
    """Look at one thing after another; takes some ten seconds, most of them to start a worker and to read images."""
    for look in (_python, _torch, _threads, _packages, _numba, _compiler, _folder, _state, _workers, *_DATA, _browser):
        try:
            yield look()
        except Exception as error:  # a thing that cannot even be looked at is what this is for
            name = look.__name__.strip("_")
            yield Check(name, "missing", f"{type(error).__name__}: {error}", "mend what the message says")


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Check:
    import torch

    found = f"{torch.__version__}; devices: {', '.join(_devices())}"
    if torch.version.cuda and not torch.cuda.is_available():
        advice = "this torch was built for NVIDIA cards and sees none; the CPU build is smaller and does the same here"
        return Check("torch", "note", found, advice)
    return Check("torch", "ok", found)


def _devices() -> list[str]:
    import torch

    found = [f"cpu ({_cores()} cores)"]
    if torch.cuda.is_available():
        found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> Check:
    import torch

    cores, threads = _cores(), torch.get_num_threads()
    found = f"{cores} cores, torch uses {threads} threads"
    if threads > cores:
        return Check("threads", "note", found, f"more threads than cores wait for one another: OMP_NUM_THREADS={cores}")
    return Check("threads", "ok", found, f"--workers {cores} shares a run among all cores" if cores > 1 else "")


def _packages() -> Check:
    wanted = [line for line in metadata.requires("onsphere") or () if 'extra == "lab"' in line.replace("'", '"')]
    names = [line.split(";")[0].split(">")[0].split("=")[0].strip() for line in wanted]
    absent = [name for name in names if not _installed(name)]
    if absent:
        return Check("packages", "missing", f"without {', '.join(absent)}", "pip install 'onsphere[lab]'")
    return Check("packages", "ok", f"all {len(names)} of the laboratory")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _numba() -> Check:
    if find_spec("numba") is not None:
        return Check("numba", "ok", metadata.version("numba"))
    return Check("numba", "note", "not installed", "toys run slower: pip install 'onsphere[fast]'")


def _compiler() -> Check:
    found = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if found is None:
        advice = "small networks train slower without torch.compile, which needs one: install g++"
        return Check("compiler", "note", f"none of {', '.join(_COMPILERS)}", advice)
    return Check("compiler", "ok", found)


def _folder() -> Check:
    with tempfile.TemporaryFile(dir="."):
        free = shutil.disk_usage(".").free / 1e9
    found = f"{Path.cwd()} can be written, {free:.1f} GB are free"
    if free < _ROOM:
        return Check("folder", "note", found, "long runs with many snapshots need more: give --out on another disk")
    return Check("folder", "ok", found)


def _state() -> Check:
    from onsphere.lab.store.trust import state_folder

    folder = state_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(existing, os.W_OK):
        return Check("state", "ok", f"{folder}")
    return Check("state", "note", f"{folder} cannot be written", "runs of your own code need --trust to resume")


def _workers() -> Check:
    process = get_context("spawn").Process(target=_started)
    process.start()
    process.join(120)
    if process.exitcode == 0:
        return Check("workers", "ok", "a worker process starts")
    process.kill()
    return Check("workers", "note", f"a worker process ended with {process.exitcode}", "use --workers 1")


def _started() -> None:
    import torch

    torch.ones(2).sum()


def _data(name: str) -> Callable[[], Check]:
    def look() -> Check:
        from onsphere.lab.data import DataError, load

        try:
            found = load(name, download=False)
        except DataError as error:
            others = str(error).partition("provide it")[2]
            advice = f"is downloaded when it is first asked for; or provide it{others}" if others else str(error)
            return Check(name, "note", "not on this machine", advice)
        return Check(name, "ok", f"{len(found.x_train):,} + {len(found.x_test):,} images from {found.source}")

    look.__name__ = name
    return look


_DATA = tuple(map(_data, ("digits", "fashion-mnist", "cifar10", "cifar100")))


def _browser() -> Check:
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    return Check("browser", "ok" if found else "note", found or "none on this machine", "" if found else _ELSEWHERE)


_ELSEWHERE = "a page is one file that opens anywhere: copy report.html; figures/ has its charts as PNG and SVG"
