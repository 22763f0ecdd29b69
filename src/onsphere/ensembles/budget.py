"""Memory splits: which width a network must have so that n of them fit one budget.

    n * size(width) ~ budget,      size: parameters, or bytes of parameters and buffers, of factory(width)

Sizes are counted on networks built on torch's meta device, which allocate nothing; the width is found by bisection, so
any factory will do whose networks grow with the width. n = 1 is the single wide network.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from onsphere.ensembles._inputs import positive_integer

__all__ = ["BudgetError", "Factory", "Size", "Split", "Unit", "size_of", "splits", "width_for"]

Factory: TypeAlias = Callable[[int], nn.Module]
Unit = Literal["parameters", "bytes"]

_WIDEST = 2**20  # where the search gives up: nothing that grows with its width stays below a budget for so long


class BudgetError(ValueError):
    """No width of a family of networks fits a budget."""


@dataclass(frozen=True)
class Size:
    """How large one network is.

    Attributes:
        width: What its factory was called with.
        parameters: Numbers in all its parameters, trained or not, shared ones once.
        bytes: Parameters and buffers (running statistics, ...) in their own types.
    """

    width: int
    parameters: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Split:
    """A budget spent on so many networks of one width.

    Attributes:
        members: Number n of networks.
        width: Width of each network.
        parameters: Parameters of ONE member.
        bytes: Bytes of one member, its buffers included.
        budget: What was to be spent by all members together.
        unit: The budget's unit, ``"parameters"`` or ``"bytes"``.
    """

    members: int
    width: int
    parameters: int
    bytes: int
    budget: int
    unit: Unit = "parameters"

    @property
    def total_parameters(self) -> int:
        """Parameters of all members together."""
        return self.members * self.parameters

    @property
    def total_bytes(self) -> int:
        """Bytes of all members together."""
        return self.members * self.bytes

    @property
    def rounding_error(self) -> float:
        """By which fraction of the budget the split exceeds it; negative where it stays below."""
        total = self.total_parameters if self.unit == "parameters" else self.total_bytes
        return total / self.budget - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the totals and the rounding error among them."""
        return {
            **asdict(self),
            "total_parameters": self.total_parameters,
            "total_bytes": self.total_bytes,
            "rounding_error": self.rounding_error,
        }

    def __repr__(self) -> str:
        return (
            f"Split: {self.members} x width {self.width}, {self.parameters:,} parameters each, "
            f"{self.total_parameters:,} in all ({100 * self.rounding_error:+.2f} % of {self.budget:,} {self.unit})"
        )


def size_of(factory: Factory, width: int) -> Size:
    """Parameters and bytes of a network, without allocating it.

    Args:
        factory: Makes the network of a width. It is called under ``torch.device("meta")``; one that needs the values
            of its tensors is built on the CPU instead. No random state changes.
        width: A whole number of at least 1.

    Returns:
        The size of one such network.

    Raises:
        ValueError: ``width`` is no whole number.
        TypeError: ``factory`` returns something else than a module.
    """
    width = positive_integer("width", width)
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                network = factory(width)
        except (NotImplementedError, RuntimeError):  # its initialisation looks at values, which meta tensors lack
            network = factory(width)
    if not isinstance(network, nn.Module):
        raise TypeError(f"factory({width}) returns a {type(network).__name__}; it must return a torch.nn.Module")
    parameters, buffers = list(network.parameters()), list(network.buffers())
    size = sum(t.numel() * t.element_size() for t in parameters + buffers)
    return Size(width, sum(p.numel() for p in parameters), size)


def width_for(
    budget: float,
    factory: Factory,
    *,
    unit: Unit = "parameters",
    at_most: bool = False,
    widths: Iterable[int] | None = None,
) -> Size:
    """The width whose network comes closest to a budget.

    Args:
        budget: Parameters, or bytes, of one network; a positive number.
        factory: Makes the network of a width, as for :func:`size_of`; the size must grow with the width.
        unit: What the budget counts, ``"parameters"`` or ``"bytes"``.
        at_most: Only widths that do not exceed the budget. Otherwise the nearest one, as in the papers, which may
            exceed it a little.
        widths: Which widths are allowed; None: every whole number.

    Returns:
        The size at that width.

    Raises:
        BudgetError: The budget is too small for the narrowest network, or the size does not grow with the width.
        ValueError: Arguments out of range, or widths that are no whole numbers.
        TypeError: As :func:`size_of`.
    """
    return _Family(factory, unit, widths).nearest(_positive("budget", budget), at_most=at_most)


def splits(
    budget: float,
    factory: Factory,
    members: Sequence[int] = (1, 2, 4, 8, 16),
    *,
    unit: Unit = "parameters",
    at_most: bool = False,
    widths: Iterable[int] | None = None,
) -> list[Split]:
    """The widths at which 1, 2, 4, ... networks fit one budget.

    Args:
        budget: What all members together may have, in ``unit``; a whole number.
        factory: Makes the network of a width, as for :func:`size_of`; the size must grow with the width.
        members: How many networks, n, for each split.
        unit: What the budget counts.
        at_most: Whether no split may exceed the budget; see :func:`width_for`.
        widths: Which widths are allowed; None: every whole number.

    Returns:
        One split for each of ``members``, each with its rounding error: widths are whole numbers, so that no split
        spends the budget exactly.

    Raises:
        BudgetError: The budget is too small for that many networks even at the smallest width; the message says how
            many would fit.
        ValueError: Arguments out of range; numbers of members or widths that are no whole numbers.
        TypeError: As :func:`size_of`.

    Source:
        Chirkova, Lobacheva and Vetrov 2020 (memory splits).
    """
    budget = positive_integer("budget", int(budget) if isinstance(budget, float) and budget.is_integer() else budget)
    if not members:
        raise ValueError("members is empty; name at least one number of networks, such as 1, 2, 4")
    counts = [positive_integer("every number of members", n) for n in members]
    family = _Family(factory, unit, widths)
    smallest = family.smallest()
    if (most := budget // family.measure(smallest)) < max(counts):
        fits = f"at most {most} fit" if most else "not even one fits"
        raise BudgetError(
            f"a budget of {budget:,} {unit} is too small for {max(counts)} members: the narrowest network, of width "
            f"{smallest.width}, has {family.measure(smallest):,} {unit}, and {fits}"
        )
    sizes = [family.nearest(budget / n, at_most=at_most) for n in counts]
    return [Split(n, s.width, s.parameters, s.bytes, budget, unit) for n, s in zip(counts, sizes, strict=True)]


class _Family:
    """The networks of one factory, each measured once."""

    def __init__(self, factory: Factory, unit: Unit, widths: Iterable[int] | None) -> None:
        if unit not in ("parameters", "bytes"):
            raise ValueError(f"unit is {unit!r}; it must be 'parameters' or 'bytes'")
        self.factory, self.unit = factory, unit
        self.allowed: Sequence[int] = range(1, _WIDEST + 1)
        if widths is not None:
            self.allowed = sorted({positive_integer("every width", w) for w in widths})
            if not self.allowed:
                raise ValueError("widths is empty; name at least one")
        self.known: dict[int, Size] = {}

    def size(self, width: int) -> Size:
        if width not in self.known:
            self.known[width] = size_of(self.factory, width)
        return self.known[width]

    def measure(self, size: Size) -> int:
        return size.parameters if self.unit == "parameters" else size.bytes

    def at(self, index: int) -> int:
        return self.measure(self.size(self.allowed[index]))

    def smallest(self) -> Size:
        return self.size(self.allowed[0])

    def nearest(self, budget: float, *, at_most: bool) -> Size:
        if self.at(0) > budget:
            raise BudgetError(
                f"a budget of {budget:,.0f} {self.unit} is too small: the narrowest network, of width "
                f"{self.allowed[0]}, has {self.at(0):,}"
            )
        last, high = len(self.allowed) - 1, 1
        while high < last and self.at(high) <= budget:
            if self.at(high) <= self.at(high // 2):
                raise BudgetError(
                    f"the networks of widths {self.allowed[high // 2]} and {self.allowed[high]} have "
                    f"{self.at(high // 2):,} and {self.at(high):,} {self.unit}; they must grow with the width"
                )
            high *= 2
        high = min(high, last)
        above = bisect_right(range(high + 1), budget, key=self.at)  # the first index beyond the budget
        below = above - 1
        if above > high or at_most or budget - self.at(below) <= self.at(above) - budget:
            return self.size(self.allowed[below])
        return self.size(self.allowed[above])


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a positive number")
    return float(value)
