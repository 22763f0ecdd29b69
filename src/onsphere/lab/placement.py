"""Where shards run, as a user says it: ``local:N``, ``ray``, ``ray:num_cpus=1,num_gpus=0.5``, ``ray://HOST:PORT``.

The text is parsed here, once, into a frozen value; nothing of Ray is imported before a run asks for it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Local", "Placement", "RayCluster", "missing_package", "parse"]

MOST_WORKERS = 1024


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Attributes:
        workers: How many; None for what ``--workers`` says.
    """

    workers: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The kind and the fields."""
        return {"kind": "local"} | asdict(self)


@dataclass(frozen=True)
class RayCluster:
    """Tasks of Ray.

    Attributes:
        address: HOST:PORT or ray://HOST:PORT of a cluster; None for the one that ``RAY_ADDRESS`` names, that runs on
            this machine, or that is started for the run.
        num_cpus: Cores that a shard reserves, a fraction being allowed.
        num_gpus: Accelerators that a shard reserves, likewise.
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The kind and the fields."""
        return {"kind": "ray"} | asdict(self)


Placement = Local | RayCluster

ALLOWED = "allowed are local:N, ray, ray:num_cpus=1,num_gpus=0.5, ray:address=HOST:PORT and ray://HOST:PORT"


def parse(text: str) -> Placement:
    """The placement that a text says.

    Raises:
        ValueError: It says none; the message says what is allowed.
    """
    kind, _, rest = text.strip().partition(":")
    if kind == "local":
        return Local(_number(rest, "local:N", int, 1, MOST_WORKERS) if rest or ":" in text else None)
    if kind == "ray":
        return _ray(rest)
    raise ValueError(ALLOWED)


def missing_package(placement: Placement) -> str | None:
    """What to install before this placement can be used, in a sentence; None if it can be."""
    if isinstance(placement, Local) or importlib.util.find_spec("ray") is not None:
        return None
    return "ray needs the package ray, which is not installed: pip install 'onsphere[ray]'"


def _ray(rest: str) -> RayCluster:
    address = None
    if rest.startswith("//"):
        host, _, rest = rest[2:].partition(",")
        address = f"ray://{_host_and_port(host)}"
    given = _pairs(rest, {"num_cpus", "num_gpus", "address"})
    if "address" in given:
        if address is not None:
            raise ValueError("ray://HOST:PORT and address= are both given: leave one out")
        address = _host_and_port(given.pop("address"))
    return RayCluster(address, **{name: _number(value, name, float, 0, 4096) for name, value in given.items()})


def _pairs(text: str, known: set[str]) -> dict[str, str]:
    """``a=1,b=2`` as a dictionary."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        if not equals or not value or name not in known or name in found:
            names = ", ".join(f"{name}=" for name in sorted(known))
            raise ValueError(f"{part!r} is no option of ray, or stands there twice: it takes {names} with commas")
        found[name] = value
    return found


def _number(text: str, name: str, kind: Callable[[str], Any], least: float, most: float) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not least <= number <= most:
        whole = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} was {text!r}, and must be {whole} from {least:g} to {most:g}")
    return number


def _host_and_port(text: str) -> str:
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}", text):
        raise ValueError(f"{text!r} is no HOST:PORT, such as head.cluster:6379")
    return text
