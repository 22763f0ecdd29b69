"""All claims and studies, in the order in which they are told; new topics are added to ``TOPICS``."""

from __future__ import annotations

from collections.abc import Sequence

from onsphere.lab.claims.study import Claim, Study
from onsphere.lab.claims.topics import regimes, squared
from onsphere.lab.options import InputError

#: The first part of the claims' identifiers, and what the page calls it.
TOPICS = {
    "regimes": "The three regimes",
    "squared": "The squared loss",
}

CLAIMS: tuple[Claim, ...] = (
    *regimes.CLAIMS,
    *squared.CLAIMS,
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
