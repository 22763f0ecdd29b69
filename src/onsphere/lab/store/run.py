"""A run as a folder.

    run.json          what ran (command, spec, versions) and when it was made; written first, once
    engine.json       how it is executed; written once chosen, so that a resumed run gives the same bits
    shards/NAME/      each shard's own checkpoint, readings (parquet parts) and final weights (safetensors)
    NAME.parquet      tables of an experiment without shards
    result.json       the result; its presence is what "done" means
    report.html, figures/

Every file is written atomically, so a killed run leaves whole files or none. One process at a time works on a run:
it holds ``.lock``, which the system frees when the process ends, however it ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from onsphere.lab.options import InputError
from onsphere.lab.store.environment import describe_environment
from onsphere.lab.store.files import read_json, write_json


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: Where everything of the run lies.
    """

    folder: Path

    @classmethod
    def create(cls, folder: Path | None, command: str, spec: dict[str, Any]) -> Run:
        """Make the folder and write ``run.json``.

        Args:
            folder: Where; None makes ``runs/COMMAND-DATE-TIME``.
            command: The experiment's name.
            spec: Its spec as plain values.

        Raises:
            InputError: The folder already holds something, or cannot be written.
        """
        if folder is None:
            stem = Path("runs") / f"{command.replace(' ', '-')}-{datetime.now():%Y%m%d-%H%M%S}"
            folder = next(path for path in _alternatives(stem) if not path.exists())
        run = cls(folder)
        if run.manifest_path.exists():
            raise InputError(
                f"--out: {folder} already holds another run; give a new folder, "
                f"or continue that run with: onsphere resume {folder}"
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"--out: {folder} is not an empty folder; give a new or empty one")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(
                run.manifest_path,
                {
                    "command": command,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "spec": spec,
                    "environment": describe_environment(),
                },
            )
        except OSError as error:
            raise InputError(f"--out: {folder} cannot be written: {error.strerror or error}") from error
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run.

        Raises:
            InputError: There is no run in that folder, or its ``run.json`` cannot be read.
        """
        run = cls(folder)
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; onsphere runs lists the runs there are")
        if not run.manifest_path.is_file():
            raise InputError(f"{folder} holds no run (no run.json); onsphere runs lists the runs there are")
        try:
            manifest = run.manifest
            if not isinstance(manifest["command"], str) or not isinstance(manifest["spec"], dict):
                raise TypeError("command or spec has the wrong type")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{run.manifest_path} is damaged ({error}); the run cannot be read") from error
        return run

    @property
    def manifest_path(self) -> Path:
        """``run.json``."""
        return self.folder / "run.json"

    @property
    def result_path(self) -> Path:
        """``result.json``."""
        return self.folder / "result.json"

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.folder / "shards"

    def table_path(self, name: str) -> Path:
        """The table ``NAME.parquet``."""
        return self.folder / f"{name}.parquet"

    @property
    def manifest(self) -> dict[str, Any]:
        """Command, creation time, spec and environment."""
        manifest: dict[str, Any] = read_json(self.manifest_path)
        return manifest

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        return self.result_path.exists()

    @property
    def running(self) -> bool:
        """Whether a process is working on it now."""
        lock = FileLock(self.folder / ".lock")
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    @property
    def status(self) -> str:
        """``done``, ``running`` or ``interrupted``."""
        return "done" if self.done else "running" if self.running else "interrupted"

    def result(self) -> dict[str, Any]:
        """The result as plain values.

        Raises:
            InputError: The run has not ended.
        """
        if not self.done:
            raise InputError(
                f"{self.folder} has no result yet ({self.status}); continue it with: onsphere resume {self.folder}"
            )
        result: dict[str, Any] = read_json(self.result_path)
        return result

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process.

        Raises:
            InputError: Another process is working on it.
        """
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{self.folder} is being worked on by another process; wait for it or stop it") from None
        try:
            yield
        finally:
            lock.release()


def list_runs(folder: Path) -> list[Run]:
    """The runs in a folder (or the folder itself), newest first."""
    candidates = [folder, *folder.iterdir()] if folder.is_dir() else []
    runs = [Run(path) for path in candidates if (path / "run.json").is_file() and os.access(path / "run.json", os.R_OK)]
    return sorted(runs, key=lambda run: run.manifest_path.stat().st_mtime, reverse=True)


def _alternatives(stem: Path) -> Iterator[Path]:
    yield stem
    number = 2
    while True:
        yield stem.with_name(f"{stem.name}-{number}")
        number += 1
