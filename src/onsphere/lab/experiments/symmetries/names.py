"""Many names in few words: ``blocks.0.up.weight``, ``blocks.1.up.weight`` become ``blocks.{0–1}.up.weight``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["folded", "pattern", "shortened"]

_NUMBER = re.compile(r"\d+")


def pattern(text: str) -> str:
    """The text with every number replaced by ``#``: equal for what is alike in every layer."""
    return _NUMBER.sub("#", text)


def folded(names: Iterable[str]) -> list[str]:
    """Names that differ in one number alone, written as one, in order of first appearance.

    Args:
        names: Such as those of a group.

    Returns:
        At most as many texts; together they name the same parameters.
    """
    alike: dict[tuple[str, int, tuple[str, ...]], list[str]] = {}
    texts = list(names)
    for places in _places_that_vary(texts).values():
        for text, place in places.items():
            numbers = _NUMBER.findall(text)
            rest = tuple(number for i, number in enumerate(numbers) if i != place)
            alike.setdefault((pattern(text), place, rest), []).append(text)
    return [_written(members, place) for (_, place, _), members in alike.items()]


def shortened(text: str, most: int) -> str:
    """The text with its middle left out if it is longer than ``most`` letters."""
    if len(text) <= most:
        return text
    end = (2 * (most - 1)) // 3
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def _places_that_vary(texts: Sequence[str]) -> dict[str, dict[str, int]]:
    """For every pattern its texts, each with the place of the number in which it is folded with others.

    That is the first place whose folding leaves fewest texts.
    """
    by_pattern: dict[str, list[str]] = {}
    for text in texts:
        by_pattern.setdefault(pattern(text), []).append(text)
    found: dict[str, dict[str, int]] = {}
    for key, members in by_pattern.items():
        numbers = [_NUMBER.findall(text) for text in members]

        def left(place: int, numbers: list[list[str]] = numbers) -> int:
            return len({tuple(n for i, n in enumerate(row) if i != place) for row in numbers})

        place = min(range(len(numbers[0])), key=left, default=0)
        found[key] = dict.fromkeys(members, place)
    return found


def _written(members: Sequence[str], place: int) -> str:
    if len(members) == 1:
        return members[0]
    values = sorted({int(_NUMBER.findall(text)[place]) for text in members})
    consecutive = values == list(range(values[0], values[-1] + 1)) and len(values) > 2
    inside = f"{values[0]}–{values[-1]}" if consecutive else ",".join(map(str, values))
    spans = [match.span() for match in _NUMBER.finditer(members[0])]
    start, end = spans[place]
    return f"{members[0][:start]}{{{inside}}}{members[0][end:]}"
