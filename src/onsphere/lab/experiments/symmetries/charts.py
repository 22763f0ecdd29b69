"""The charts: all numbers of the model as areas, and all tensors in the model's order as bars.

The areas are a squarified treemap: Bruls, Huizing, van Wijk, Squarified treemaps, 2000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onsphere.lab.chart.spec import Axis, Bars, Chart, Mark, Panel
from onsphere.lab.experiments.symmetries.tensors import Class, Tensors, exponent_text
from onsphere.lab.experiments.symmetries.words import shortened
from onsphere.lab.report.words import format_number

_BAR = 17  # pixels a tensor
_MOST_NAMED = 400  # tensors that each get a label and such a bar; more are drawn thinner, without names
_LETTERS = 36
_WIDE, _HIGH = 660, 400  # the areas, in about the pixels of a page that has a legend beside them
_LETTER, _LINE = 6.5, 16  # pixels of a letter, of a line


def areas_chart(tensors: Tensors) -> Chart:
    """A rectangle a tensor, its area how many numbers are in it, gathered by group."""
    shown = sorted(tensors.classes, key=lambda one: -tensors.size(one.names))
    whole = squarified([max(tensors.size(one.names), 1) for one in shown], Place(0, 0, _WIDE, _HIGH))
    marks = [_area(tensors, one, place) for one, place in zip(shown, whole, strict=True)]
    return Chart(
        id="areas-chart",
        title="The model's tensors as areas, by group",
        x=Axis("", holds=(0, _WIDE), ticks={}),
        panels=[Panel(Axis("", holds=(0, _HIGH), ticks={}, reverse=True), marks)],
        caption=(
            "A rectangle is a tensor, its area how many numbers it holds. Rest the pointer on one for its shape, group "
            "and exponents; drag over a part to enlarge it, double-click to go back."
        ),
        label="The model's tensors as areas, by group",
        height=470,
    )


def _area(tensors: Tensors, one: Class, place: Place) -> Bars:
    """The rectangles of a class."""
    size = tensors.size(one.names)
    names = sorted(one.names, key=lambda name: -tensors.sizes[name])
    places = squarified([max(tensors.sizes[name], 0.5) for name in names], place.within(1.5, 1.5, 1.5, 1.5))
    places = [cut.within(0.5, 0.5, 0.5, 0.5) for cut in places]
    of_class = f"<b>{one.title}</b><br>{len(names)} tensors, {size:,} of {tensors.total:,} numbers"
    return Bars(
        [cut.y + cut.high / 2 for cut in places],
        [cut.wide for cut in places],
        one.look,
        along="x",
        base=[cut.x for cut in places],
        thick=[cut.high for cut in places],
        labels=[_fitting(name, cut) for name, cut in zip(names, places, strict=True)],
        inside=True,
        hover=[f"{tensors.told(name)}<br>{of_class}" for name in names],
        entry=f"{one.title} · {format_number(100 * size / max(tensors.total, 1))} %",
    )


def _fitting(name: str, place: Place) -> str:
    """As much of a name as fits into a rectangle; nothing where that would not tell it from others."""
    letters = int(place.wide / _LETTER) - 2
    return shortened(name, letters) if letters >= min(len(name), 14) and place.high >= _LINE else ""


def bars_chart(tensors: Tensors, title: str) -> Chart:
    """A bar a tensor in the model's order, its length the logarithm of how many numbers are in it."""
    names = tensors.found.names
    named, count = len(names) <= _MOST_NAMED, len(tensors.classes)
    place = {name: i for i, name in enumerate(names)}
    marks: list[Mark] = [
        Bars(
            [place[name] for name in one.names],
            [max(tensors.sizes[name], 1) for name in one.names],
            one.look,
            along="x",
            thick=0.78,
            labels=[_behind(tensors, name) for name in one.names],
            hover=[tensors.told(name) for name in one.names],
            entry=one.title,
        )
        for one in tensors.classes
    ]
    bars = min(max(len(names), 4), _MOST_NAMED)
    ticks = {float(i): shortened(name, _LETTERS) for i, name in enumerate(names)} if named else None
    order = "" if named else "tensors in the model's order"
    rows = Axis(order, range=(-0.6, len(names) - 0.4), ticks=ticks, reverse=True)
    most = max(tensors.sizes.values(), default=1)
    return Chart(
        id="bars-chart",
        title=title,
        x=Axis("numbers in the tensor", log=True, range=(0.8, 3 * most), opposite=True),
        panels=[Panel(rows, marks)],
        caption=(
            "The same in the model's order and on a logarithmic scale, so that gains and biases show. Behind a bar: "
            "its group, or its exponents in rescalings. A click on a legend entry hides its tensors."
        ),
        label="The model's tensors in order, coloured by group",
        file="tensors",
        height=120 + _BAR * bars,
        size=(7.0, 1.6 + 0.15 * min(bars, 120) + 0.17 * count),
    )


def _behind(tensors: Tensors, name: str) -> str:
    """What stands behind a tensor's bar: the number of its joint group, else its exponents in rescalings."""
    if tensors.roles[name] == "joint":
        return f"group {tensors.group_of[name] + 1}"
    found = {one[name] for one in tensors.found.rescalings if name in one}
    exponents = sorted(found, key=lambda exponent: (abs(exponent), -exponent))
    return "^ " + ", ".join(map(exponent_text, exponents)) if exponents else ""


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
        side, count = min(place.wide, place.high), 1
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
