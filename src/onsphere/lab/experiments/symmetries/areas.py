"""Rectangles that fill a rectangle, their areas as given: a squarified treemap.

Source: Bruls, Huizing, van Wijk, Squarified treemaps, 2000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Place", "squarified"]


@dataclass(frozen=True)
class Place:
    """A rectangle: its corner at the upper left (y grows downwards), its width and its height."""

    x: float
    y: float
    wide: float
    high: float

    def within(self, left: float, top: float, right: float, bottom: float) -> Place:
        """What is left without these margins; at least a tenth of it in each direction."""
        wide, high = max(self.wide - left - right, 0.1 * self.wide), max(self.high - top - bottom, 0.1 * self.high)
        return Place(self.x + min(left, self.wide - wide), self.y + min(top, self.high - high), wide, high)


def squarified(sizes: Sequence[float], place: Place) -> list[Place]:
    """Cut a rectangle into one for each size, as square as they come when laid in rows from the upper left.

    Args:
        sizes: [n] positive numbers in descending order.
        place: The rectangle that is cut.

    Returns:
        [n] rectangles; their areas are to one another as the sizes are.
    """
    rest = [size * place.wide * place.high / sum(sizes) for size in sizes]
    found: list[Place] = []
    while rest:
        side = min(place.wide, place.high)
        count = 1
        while count < len(rest) and _worst(rest[: count + 1], side) <= _worst(rest[:count], side):
            count += 1
        thick, at = sum(rest[:count]) / side, 0.0
        for area in rest[:count]:
            long = area / thick
            if place.wide >= place.high:
                found.append(Place(place.x, place.y + at, thick, long))
            else:
                found.append(Place(place.x + at, place.y, long, thick))
            at += long
        if place.wide >= place.high:
            place = Place(place.x + thick, place.y, place.wide - thick, place.high)
        else:
            place = Place(place.x, place.y + thick, place.wide, place.high - thick)
        rest = rest[count:]
    return found


def _worst(areas: Sequence[float], side: float) -> float:
    """The largest ratio of sides among rectangles of these areas in one row along a side."""
    total = sum(areas) ** 2 / side**2
    return max(max(areas) / total, total / min(areas))
