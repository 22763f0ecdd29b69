"""All claims and studies, in the order in which they are told.

A new module of :mod:`onsphere.lab.claims.topics` is named in ``_MODULES``, its topics in ``TOPICS``.
"""

from __future__ import annotations

from collections.abc import Sequence

from onsphere.lab.claims.study import Claim, Study
from onsphere.lab.claims.topics import (
    clean,
    drop,
    equilibrium,
    laws,
    minima,
    periods,
    regimes,
    rotation,
    schedule,
    split,
    squared,
    toys,
)
from onsphere.lab.options import InputError

#: The first part of the claims' identifiers, and what the page calls it.
TOPICS = {
    "regimes": "The three regimes",
    "squared": "The squared loss",
    "spectrum": "Minima of the convergence regime",
    "zones": "The zone of high sharpness",
    "stabilise": "The stationary regimes from inside",
    "conventional": "Ordinary training",
    "drop": "Where large learning rates lead",
    "schedule": "A schedule from the map",
    "periods": "Periods under weight decay",
    "minima": "The minima of the periods",
    "threshold": "The threshold of the jumps",
    "equilibrium": "The equilibrium under weight decay",
    "rotation": "Rotation under momentum and AdamW",
    "laws": "Exact laws",
    "toys": "Toys",
    "split": "Memory splits",
    "power-laws": "Power laws of ensembles",
}

_MODULES = (regimes, clean, squared, minima, equilibrium, drop, schedule, periods, rotation, laws, toys, split)
_ORDER = list(TOPICS)

CLAIMS: tuple[Claim, ...] = tuple(
    sorted((claim for module in _MODULES for claim in module.CLAIMS), key=lambda claim: _ORDER.index(claim.topic))
)


def studies(claims: Sequence[Claim] = CLAIMS) -> list[Study]:
    """The studies of claims, each once, in their order."""
    return list({claim.study.name: claim.study for claim in claims}.values())


def chosen(names: Sequence[str]) -> list[Claim]:
    """The claims of these identifiers, or of these topics; all of them without a name.

    Raises:
        InputError: There is no such claim.
    """
    known = {claim.id for claim in CLAIMS} | TOPICS.keys()
    for name in names:
        if name not in known:
            raise InputError(
                f"there is no claim {name!r}; onsphere claims lists them, and their topics are {', '.join(TOPICS)}"
            )
    return [claim for claim in CLAIMS if not names or claim.id in names or claim.topic in names]
