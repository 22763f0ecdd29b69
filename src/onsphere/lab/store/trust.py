"""Which runs this user started in the place where they lie: their code may be imported again without a question.

``run.json`` may name code (``package.module:factory``), and resuming a run imports it. A run that came from somebody
else, or that was copied or edited, must not do so unasked. A run is signed when it is started: HMAC-SHA256 of its place
and of what was asked for, under a key that lies in the user's state folder, readable for this user alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from onsphere.lab.options import InputError

KEY_BYTES = 32


def state_folder() -> Path:
    """``onsphere`` in ``$XDG_STATE_HOME``, else in ``~/.local/state``."""
    given = os.environ.get("XDG_STATE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state") / "onsphere"


def signature(folder: Path, digest: str) -> str | None:
    """What proves that this user asked here for what has this digest; None where no key can be kept."""
    key = _key(make=True)
    return None if key is None else _sign(key, folder, digest)


def is_own(folder: Path, digest: str, signed: object) -> bool:
    """Whether :func:`signature` gave this for the same place and question."""
    key = _key(make=False)
    return (
        key is not None
        and isinstance(signed, str)
        and hmac.compare_digest(_sign(key, folder, digest).encode(), signed.encode("utf-8", errors="replace"))
    )


def code_of(spec: Mapping[str, Any]) -> str | None:
    """The code of one's own that a spec names as its model, ``package.module:factory``, or None."""
    model = spec.get("model")
    return model if isinstance(model, str) and ":" in model else None


def require(folder: Path, manifest: Mapping[str, Any], digest: str, instead: str, where: str = "") -> None:
    """Raise :class:`InputError` if a run names code and this user did not start it here.

    The message begins with ``where`` and ends with ``instead``, what somebody does who trusts the code.
    """
    code = code_of(manifest["spec"])
    if code is None or is_own(folder, digest, manifest.get("signature")):
        return
    raise InputError(
        f"{where}{folder} was not started here by you (or it was moved), and would import {code} from "
        f"{source_of(code)}; if you trust that code, {instead}"
    )


def source_of(code: str) -> str:
    """Where the top package of ``package.module:factory`` would be imported from; nothing is imported for it."""
    top = code.partition(":")[0].partition(".")[0]
    try:
        found = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    except (ImportError, ValueError, AttributeError):
        found = None
    places = [] if found is None else [found.origin, *(found.submodule_search_locations or [])]
    return next((str(place) for place in places if place), "a place that cannot be found now")


def _sign(key: bytes, folder: Path, digest: str) -> str:
    place = os.fsencode(folder.resolve())
    return hmac.new(key, place + b"\0" + digest.encode(), hashlib.sha256).hexdigest()


def _key(*, make: bool) -> bytes | None:
    """This user's key; made if there is none and ``make`` says so, None where it cannot be read or made."""
    try:
        folder = state_folder()
        path = folder / "key"
        if make and not path.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path)
        key = path.read_bytes()
    except (OSError, RuntimeError):  # no home folder, or one that cannot be written
        return None
    return key if len(key) == KEY_BYTES else None


def _make(path: Path) -> None:
    """A new key, whole or not at all; where another process was quicker its key stays."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        if not path.exists():
            os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
