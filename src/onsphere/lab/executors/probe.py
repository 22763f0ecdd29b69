"""Whether every machine sees the folder of the shards, and has this version of the package; asked before any training.

The driver writes a file with a token that nobody can guess; every node reads it and writes one of its own, which the
driver reads. :func:`look` runs on the node, where the package may be missing: it uses the standard library alone, and
goes there as a value, not by name.
"""

from __future__ import annotations

import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onsphere import __version__
from onsphere.lab.options import InputError

__all__ = ["Probe", "check", "check_done", "make_look", "probing"]

#: Seconds for which a file that a node has written may stay unseen: a network file system caches its listings.
PATIENCE = 10.0


@dataclass(frozen=True)
class Probe:
    """What the driver wrote for the nodes to find.

    Attributes:
        folder: The folder of the shards.
        token: What its file holds.
    """

    folder: Path
    token: str

    def file(self, who: str) -> Path:
        """The file of a node, or of the driver."""
        return self.folder / f".probe-{self.token[:8]}-{who}"


@contextmanager
def probing(folder: Path) -> Iterator[Probe]:
    """Write the driver's file; all files of the probe are removed at the end.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = Probe(folder.absolute(), secrets.token_hex(16))
    try:
        probe.file("driver").write_text(probe.token)
        yield probe
    finally:
        for path in probe.folder.glob(f".probe-{probe.token[:8]}-*"):
            path.unlink(missing_ok=True)


def make_look(patience: float = PATIENCE) -> Callable[[str, str, str, str], dict[str, Any]]:
    """A function for a node: from the driver's file, its token, the node's file and name, to what is there.

    It is a closure, which Ray and cloudpickle send by value: the node need not have this module.
    """

    def look(theirs: str, token: str, own: str, node: str) -> dict[str, Any]:
        import importlib
        import pathlib
        import platform
        import time

        said: dict[str, Any] = {"node": node, "python": platform.python_version(), "saw": None, "wrote": None}
        try:
            said["onsphere"] = importlib.import_module("onsphere").__version__
            said["torch"] = importlib.import_module("torch").__version__
        except Exception as error:
            said["missing"] = f"{type(error).__name__}: {error}"
        until = time.monotonic() + patience
        while said["saw"] is None:
            try:
                said["saw"] = pathlib.Path(theirs).read_text() == token
            except OSError as error:
                if time.monotonic() > until:
                    said["saw"] = False
                    said["reason"] = f"{type(error).__name__}: {error.strerror}"
                else:
                    time.sleep(0.1)
        try:
            pathlib.Path(own).write_text(token)
            said["wrote"] = True
        except OSError as error:
            said["wrote"] = False
            said["reason"] = f"{type(error).__name__}: {error.strerror}"
        return said

    return look


def check(
    probe: Probe,
    reports: Iterable[dict[str, Any]],
    *,
    names: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> None:
    """Hold what the nodes said against what this process has.

    Args:
        probe: The probe that they were sent.
        reports: What ``look`` gave on each.
        names: What to call a node, by its identity.
        patience: Seconds for a node's file to be seen here.

    Raises:
        InputError: A node lacks the package, has another version of it, or does not share the folder; one sentence.
    """
    for said in reports:
        node = (names or {}).get(said["node"], said["node"])
        if "missing" in said:
            raise InputError(
                f"--executor: node {node} cannot import onsphere ({said['missing']}); install onsphere[lab] "
                f"{__version__} there"
            )
        for name, own in (("onsphere", __version__), ("torch", torch.__version__)):
            if said[name] != own:
                raise InputError(
                    f"--executor: node {node} has {name} {said[name]}, and this process {own}; install the same there"
                )
        if _minor(said["python"]) != _minor(platform.python_version()):
            raise InputError(
                f"--executor: node {node} has Python {said['python']}, and this process {platform.python_version()}; "
                "use the same version there"
            )
        if not said["saw"] or not said["wrote"]:
            verb = "cannot write" if said["saw"] else "does not see"
            reason = f" ({said['reason']})" if said.get("reason") else ""
            raise InputError(
                f"--executor: node {node} {verb} {probe.folder}{reason}; mount that folder there under the same path, "
                "or give --out a folder that all nodes share"
            )
        if not _seen(probe.file(said["node"]), probe.token, patience):
            raise InputError(
                f"--executor: what node {node} wrote to {probe.folder} is not seen here, so it is another folder of "
                "the same name; mount this one there, or give --out a folder that all nodes share"
            )


def check_done(folder: Path, node: str, patience: float = PATIENCE) -> None:
    """Hold it against the folder of a shard that it ended on a node: one that joined after the probe may not share it.

    Raises:
        InputError: Nothing of its end is seen here.
    """
    until = time.monotonic() + patience
    while not (folder / "done.json").exists():
        if time.monotonic() > until:
            raise InputError(
                f"--executor: node {node} has trained {folder.name}, and nothing of it is seen in {folder}; mount that "
                "folder there, or give --out a folder that all nodes share"
            )
        time.sleep(0.05)


def _seen(path: Path, token: str, patience: float) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            if path.read_text() == token:
                return True
        except OSError:
            pass
        if time.monotonic() > until:
            return False
        time.sleep(0.05)


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
