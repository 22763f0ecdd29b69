"""A regime map that another experiment is told by ``--map``: its run, and the ELRs that it proposes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onsphere.lab.options import InputError
from onsphere.lab.store import Run
from onsphere.optim import ProposedElrs, propose_elrs


def map_run(named: Any) -> Run:
    """The run of a regime map that is named by its folder or is the result of :func:`onsphere.lab.map_regimes`.

    Raises:
        InputError: The folder is not there, or holds another experiment.
    """
    run = Run.open(Path(getattr(named, "run", named)))
    command = run.manifest["command"]
    if command != "regimes":
        raise InputError(f"--map: {run.folder} is a run of onsphere {command}; give one of onsphere regimes")
    return run


def proposed_by(result: Mapping[str, Any], where: object) -> ProposedElrs:
    """What the plain values of a map's result propose; a message calls the map ``where``.

    Raises:
        InputError: The map says neither where convergence ends nor where divergence begins.
    """
    try:
        return propose_elrs(result)
    except ValueError as error:
        raise InputError(f"--map: {where}: {error}") from None
