"""A run as a folder.

    run.json          what ran (command, spec, versions), when it was made and, where it names code, who may import it
    engine.json       how it is executed; written once chosen, so that a resumed run gives the same bits
    shards/NAME/      each shard's own checkpoint, readings (parquet parts) and final weights (safetensors)
    NAME.parquet      tables of an experiment without shards
    result.json       the result; its presence is what "done" means
    digests.json      what result.json was when it was written
    report.html, figures/

Every file is written atomically, so a killed run leaves whole files or none, and carries its digest, so a run that was
changed or damaged is refused instead of being continued to other numbers. One process at a time works on a run: it
holds ``.lock``, which the system frees when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onsphere.lab.options import InputError, misfit
from onsphere.lab.store import trust
from onsphere.lab.store.check import refuse_links, verify
from onsphere.lab.store.environment import describe_environment
from onsphere.lab.store.files import full, parse_json, read_json, write_json, write_plain_json
from onsphere.lab.store.place import held, holder_of, is_held, resume_command, taken
from onsphere.lab.store.seal import KEY, Damaged, digest_of, plain

# What code that shows a result may raise when it is given something else.
_MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, RuntimeError)
_SHARD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*)-(\d{3,})")  # ROUND-NUMBER
_TYPES = {"command": str, "created": str, "spec": dict, "environment": dict}


class DiskFull(OSError):  # noqa: N818 (named for what happened)
    """There was no room to write; the message names the folder and how to go on."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: Where everything of the run lies.
        trust: Whether code that the run names may be imported although this user did not start it here.
    """

    folder: Path
    trust: bool = False

    @classmethod
    def create(cls, folder: Path | None, command: str, spec: dict[str, Any]) -> Run:
        """Make the folder and write ``run.json``.

        Args:
            folder: Where; None makes ``runs/COMMAND-DATE-TIME``.
            command: Name of the experiment's command.
            spec: Its spec as plain values.

        Raises:
            InputError: The folder already holds something, or cannot be written; or the spec holds a number that is
                not finite, which a resumed run could not read again.
        """
        for name, value in spec.items():
            numbers = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise InputError(f"--{name.replace('_', '-')}: {value} is not allowed: give a finite number")
        with taken(folder, command) as place:
            run = cls(place)
            manifest: dict[str, Any] = {
                "command": command,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "spec": spec,
                "environment": describe_environment(),
            }
            if trust.code_of(spec) is not None:
                manifest["signature"] = trust.signature(place, _digest(manifest))
            write_json(run.manifest_path, manifest)
        return run

    @classmethod
    def open(cls, folder: Path, *, trust: bool = False) -> Run:
        """An existing run.

        Args:
            folder: Where the run lies.
            trust: Whether code that it names may be imported although this user did not start it here.

        Raises:
            InputError: There is no run in that folder, or its ``run.json`` cannot be read.
        """
        run = cls(folder, trust)
        try:
            if not folder.is_dir():
                raise InputError(f"{folder} is not a folder; onsphere runs lists the runs there are")
            if not run.manifest_path.exists():
                raise InputError(f"{folder} holds no run (no run.json); onsphere runs lists the runs there are")
        except OSError as error:
            raise InputError(f"{folder} cannot be read: {error.strerror}") from None
        run._need("command", "spec")
        return run

    @property
    def manifest_path(self) -> Path:
        """The file ``run.json``."""
        return self.folder / "run.json"

    @property
    def result_path(self) -> Path:
        """The file ``result.json``."""
        return self.folder / "result.json"

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.folder / "shards"

    def shard_folders(self, name: str | None = None) -> list[Path]:
        """The folders of the shards in order, or those of one round; whatever else lies among them is left alone."""
        found = self.shards.iterdir() if self.shards.is_dir() else ()
        named = [(_SHARD.fullmatch(path.name), path) for path in found]
        own = [(m[1], int(m[2]), path) for m, path in named if m and name in (None, m[1]) and path.is_dir()]
        return [path for _, _, path in sorted(own)]

    def table_path(self, name: str) -> Path:
        """The table ``NAME.parquet``."""
        return self.folder / f"{name}.parquet"

    @property
    def manifest(self) -> dict[str, Any]:
        """Command, creation time, spec and environment.

        Raises:
            Damaged: ``run.json`` cannot be read, was changed, or holds something else.
        """
        manifest = read_json(self.manifest_path)
        for name, kind in _TYPES.items():
            if name in manifest and not isinstance(manifest[name], kind):
                wrong = type(manifest[name]).__name__
                raise Damaged(self.manifest_path, f"is damaged: {name} is a {wrong}, not a {kind.__name__}")
        return manifest

    @property
    def digest(self) -> str:
        """The digest of what was asked for, which every shard repeats."""
        return _digest(self.manifest)

    @property
    def sealed(self) -> bool:
        """Whether the run was made with digests, so that later changes are seen."""
        return KEY in parse_json(self.manifest_path)

    @property
    def done(self) -> bool:
        """Whether the result is there; a link counts, wherever it leads."""
        return self.result_path.exists() or self.result_path.is_symlink()

    @property
    def running(self) -> bool:
        """Whether a process is working on it now."""
        return is_held(self.folder)

    @property
    def status(self) -> str:
        """``done``, ``running`` or ``interrupted``."""
        return "done" if self.done else "running" if self.running else "interrupted"

    def check(self) -> None:
        """Look whether ``run.json`` has all that a command needs of it.

        Raises:
            Damaged: Something is missing.
        """
        self._need(*_TYPES)

    def _need(self, *names: str) -> None:
        manifest = self.manifest
        for name in names:
            if name not in manifest:
                raise Damaged(self.manifest_path, f"is damaged: it has no {name}")

    def check_command(self, command: str) -> None:
        """Raise :class:`InputError` if it is a run of another experiment than the one that is to read it."""
        own = self.manifest.get("command", command)
        if own != command:
            raise InputError(
                f"{self.folder} is a run of onsphere {own}, not of onsphere {command}; continue or show it with: "
                f"{resume_command(self.folder)}"
            )

    def verify(self) -> None:
        """Read every file that carries a digest, before hours of work rest on them.

        Raises:
            InputError: Another process is working on the run.
            Damaged: A file is not what was written there.
        """
        if self.running:
            raise InputError(f"{self.folder} is being worked on by {holder_of(self.folder)}; wait for it or stop it")
        verify(self.folder)

    def check_trust(self) -> None:
        """Raise :class:`InputError` if the run names code that this user did not start here, and nobody trusts it."""
        if not self.trust:
            trust.require(
                self.folder, self.manifest, self.digest, "add --trust (in Python: Run.open(folder, trust=True))"
            )

    def check_code(self, result: Mapping[str, Any], option: str) -> None:
        """Raise :class:`InputError` if another run would inherit code from this one that this user did not start here.

        The spec in this run's result names the code; ``option`` is what names this run.
        """
        manifest, spec = self.manifest, result.get("spec")
        code = trust.code_of(spec) if isinstance(spec, dict) else None
        if code != trust.code_of(manifest["spec"]):
            raise Damaged(self.result_path, f"names another model than {self.manifest_path}")
        if code is not None:
            instead = f"say so with --model {shlex.quote(code)}"
            trust.require(self.folder, manifest, self.digest, instead, f"{option}: ")

    def check_shards(self) -> None:
        """Look whether the shards of an ended run, from which its page is drawn, are there.

        Raises:
            Damaged: One of them is missing.
        """
        known = read_json(self._digests_path).get("shards", []) if self.result_sealed else []
        for name in known:
            if not (self.shards / str(name) / "done.json").exists():
                raise Damaged(self.shards / str(name), "is missing or has not ended")
        engine = self.folder / "engine.json"
        if engine.exists() != self.shards.is_dir():
            raise Damaged(self.shards if engine.exists() else engine, "is missing")

    def write_result(self, values: dict[str, Any]) -> None:
        """Write ``result.json``, before it its digest and the names of the shards that it rests on."""
        shards = [path.name for path in self.shard_folders()]
        write_json(self._digests_path, {"result.json": digest_of(plain(values)), "shards": shards})
        write_plain_json(self.result_path, values)

    def result(self) -> dict[str, Any]:
        """The result as plain values.

        Raises:
            InputError: The run has not ended.
            Damaged: ``result.json`` cannot be read, or was changed.
        """
        if not self.done:
            raise InputError(
                f"{self.folder} has no result yet ({self.status}); continue it with: {resume_command(self.folder)}"
            )
        result = read_json(self.result_path)
        if self.result_sealed and read_json(self._digests_path).get("result.json") != digest_of(result):
            raise Damaged(self.result_path, "was changed after it was written (its digest is another)")
        command, spec = self.manifest["command"], self.manifest["spec"]
        if result.get("command", command) != command:
            raise Damaged(self.result_path, f"is no result of onsphere {command}, which {self.manifest_path} names")
        if result.get("spec", spec) != spec:
            raise Damaged(self.result_path, f"is of another spec than {self.manifest_path}")
        return result

    @property
    def result_sealed(self) -> bool:
        """Whether the digest of ``result.json`` was kept."""
        return self._digests_path.exists()

    @property
    def _digests_path(self) -> Path:
        return self.folder / "digests.json"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wherever a result is read back: what does not fit in a file without a digest is the file's fault.

        Raises:
            Damaged: The block failed on a ``result.json`` that nothing vouches for.
        """
        try:
            yield
        except (InputError, OSError):
            raise
        except (*_MISFITS, StopIteration) as error:
            if self.result_sealed:
                raise
            raise Damaged(
                self.result_path, f"is damaged: it holds no result that can be shown ({misfit(error)})"
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process.

        Raises:
            InputError: Another process is working on it, it cannot be written, or a link in it leads out of it.
            DiskFull: There was no room for what the block wrote.
        """
        refuse_links(self.folder)
        with held(self.folder):
            try:
                yield
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                    where = error.filename or self.folder
                    raise InputError(f"{where} cannot be read or written: {error.strerror}") from error
                if not full(error):
                    raise
                on = resume_command(self.folder)
                raise DiskFull(
                    error.errno, f"no space left to write {self.folder}: free some, then continue with: {on}"
                ) from error


def list_runs(folder: Path) -> list[Run]:
    """The runs in a folder (or the folder itself), newest first; damaged ones too.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        candidates = [folder, *folder.iterdir()] if folder.is_dir() else []
        found = [(_written(path / "run.json"), path) for path in candidates]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from None
    return [Run(path) for when, path in sorted(found, key=lambda pair: -pair[0]) if when >= 0]


def _written(path: Path) -> float:
    """When a file was last written; -1 where there is none."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return -1.0


def _digest(manifest: Mapping[str, Any]) -> str:
    return digest_of(plain({name: manifest[name] for name in ("command", "spec")}))
