"""Looks that many charts share: by effective learning rate, by regime, by place in a series."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

from . import theme
from .spec import Look, Marker, Scale

#: Where a logarithmic axis of steps shows step 0.
STEP_ZERO = 0.7

#: A shape for each regime: colour is never the only sign.
REGIME_MARKERS: Mapping[str, Marker] = {
    "convergence": "circle",
    "chaotic_equilibrium": "diamond",
    "divergence": "square",
}

Key = TypeVar("Key", bound=Hashable)


def elr_looks(elrs: Iterable[float], **look: Any) -> dict[float, Look]:
    """A look for each effective learning rate, ascending; `look` are further attributes of all of them."""
    known = list(elrs)
    dark = theme.elr_colours(known, dark=True)
    return {elr: Look(colour, dark[elr], **look) for elr, colour in theme.elr_colours(known).items()}


def elr_scale(elrs: Iterable[float], title: str = "effective learning rate (ELR)") -> Scale:
    """The colour scale that `elr_looks` follows, with a mark for each effective learning rate."""
    known = sorted(set(elrs))
    return Scale(title, *theme.elr_limits(known), log=True, marks=known)


def regime_look(regime: str, **look: Any) -> Look:
    """Colour and marker of a regime; `look` are further attributes, or others."""
    given = {
        "colour": theme.REGIME_COLOURS[regime],
        "dark": theme.REGIME_COLOURS_ON_DARK[regime],
        "marker": REGIME_MARKERS[regime],
    }
    return Look(**(given | look))


def phase_keys(regimes: Iterable[str]) -> list[tuple[str, Look]]:
    """What the ends of curves in a phase diagram mean: the start, and the end in each of the regimes."""
    there, inked = set(regimes), Look(theme.INK, theme.INK_ON_DARK)
    ends = [(name, marker) for name, marker in REGIME_MARKERS.items() if name in there]
    return [
        ("start", inked.but(marker="star", size=12)),
        *((f"end in {theme.REGIME_NAMES[name]}", inked.but(marker=marker, hollow=True)) for name, marker in ends),
    ]


def series_looks(keys: Iterable[Key], **look: Any) -> dict[Key, Look]:
    """A look for each of a few unordered things; `look` are further attributes of all of them."""
    known = list(dict.fromkeys(keys))
    pairs = zip(known, theme.series_colours(len(known)), theme.series_colours(len(known), dark=True), strict=True)
    return {key: Look(light, dark, **look) for key, light, dark in pairs}
