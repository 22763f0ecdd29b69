"""Where shards run, as a user says it: ``local:N``, ``ray``, ``ray:num_cpus=1,num_gpus=0.5``, ``slurm:partition=NAME``.

The text is parsed here, once, into a frozen value; nothing of Ray or submitit is imported before a run asks for it.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Local", "Placement", "RayCluster", "SlurmCluster", "missing_package", "parse"]

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


@dataclass(frozen=True)
class SlurmCluster:
    """Jobs of Slurm.

    Attributes:
        partition: The partition; None for Slurm's own choice.
        account: The account that pays; likewise.
        qos: The quality of service; likewise.
        time: Minutes that a job may take.
        cpus: Cores that a job reserves.
        gpus: Accelerators that a job reserves.
        mem: Memory of a job, GiB; None for Slurm's own choice.
        cluster: ``slurm``, or ``local``: processes of this machine that submitit starts, to try the way out.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int = 60
    cpus: int = 1
    gpus: int = 0
    mem: float | None = None
    cluster: str = "slurm"

    def to_dict(self) -> dict[str, Any]:
        """The kind and the fields."""
        return {"kind": "slurm"} | asdict(self)

    def parameters(self, at_once: int) -> dict[str, Any]:
        """What submitit is told, with so many jobs at the same time."""
        own = {"partition": self.partition, "account": self.account, "qos": self.qos, "array_parallelism": at_once}
        asked: dict[str, Any] = {"name": "onsphere", "timeout_min": self.time, "cpus_per_task": self.cpus}
        asked |= {"gpus_per_node": self.gpus} if self.gpus else {}
        asked |= {"mem_gb": self.mem} if self.mem is not None else {}
        return asked | {f"slurm_{name}": value for name, value in own.items() if value is not None}


Placement = Local | RayCluster | SlurmCluster

ALLOWED = (
    "allowed are local:N, ray, ray:num_cpus=1,num_gpus=0.5, ray:address=HOST:PORT, ray://HOST:PORT, slurm and "
    "slurm:partition=NAME,time=MINUTES,cpus=N,gpus=N,mem=GIB,account=NAME,qos=NAME"
)


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
    if kind == "slurm":
        return _slurm(rest)
    raise ValueError(ALLOWED)


def missing_package(placement: Placement) -> str | None:
    """What is missing for this placement, and what to do, in a sentence; None if it can be used."""
    if isinstance(placement, Local):
        return None
    kind, package = ("ray", "ray") if isinstance(placement, RayCluster) else ("slurm", "submitit")
    if importlib.util.find_spec(package) is None:
        return f"{kind} needs the package {package}, which is not installed: pip install 'onsphere[{kind}]'"
    needs = ("sbatch", "srun") if isinstance(placement, SlurmCluster) and placement.cluster == "slurm" else ()
    if not all(map(shutil.which, needs)):
        return "there is no sbatch on this machine, so it belongs to no Slurm cluster; run it on a login node"
    return None


def _ray(rest: str) -> RayCluster:
    address = None
    if rest.startswith("//"):
        host, _, rest = rest[2:].partition(",")
        address = f"ray://{_host_and_port(host)}"
    given = _pairs(rest, "ray", {"num_cpus", "num_gpus", "address"})
    if "address" in given:
        if address is not None:
            raise ValueError("ray://HOST:PORT and address= are both given: leave one out")
        address = _host_and_port(given.pop("address"))
    return RayCluster(address, **{name: _number(value, name, float, 0, 4096) for name, value in given.items()})


def _slurm(rest: str) -> SlurmCluster:
    given = _pairs(rest, "slurm", {field.name for field in fields(SlurmCluster)})
    found: dict[str, Any] = {name: value for name, value in given.items() if name in ("partition", "account", "qos")}
    for name, least, most in (("time", 1, 10**6), ("cpus", 1, 4096), ("gpus", 0, 64)):
        if name in given:
            found[name] = _number(given[name], name, int, least, most)
    if "mem" in given:
        found["mem"] = _number(given["mem"], "mem", float, 0.1, 10**5)
    if given.get("cluster", "slurm") not in ("slurm", "local"):
        raise ValueError(f"cluster was {given['cluster']!r}, and must be slurm or local")
    return SlurmCluster(**found, cluster=given.get("cluster", "slurm"))


def _pairs(text: str, kind: str, known: set[str]) -> dict[str, str]:
    """``a=1,b=2`` as a dictionary."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        if not equals or not value or name not in known or name in found:
            names = ", ".join(f"{name}=" for name in sorted(known))
            raise ValueError(f"{part!r} is no option of {kind}, or stands there twice: it takes {names} with commas")
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
