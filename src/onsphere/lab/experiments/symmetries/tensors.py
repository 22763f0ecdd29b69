"""What each tensor of a model is: its size, its role, the class whose colour it has, all that is known about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from onsphere.lab.chart.spec import Look
from onsphere.lab.chart.theme import OKABE_ITO
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number
from onsphere.symmetry import Symmetries

Role = Literal["joint", "alone", "rescaling", "without effect", "fixed"]


@dataclass(frozen=True)
class Class:
    """Tensors that share one colour.

    Attributes:
        title: What the tensors are.
        look: Colour and hatch of the class.
        names: The tensors, in the model's order or in that of their group.
    """

    title: str
    look: Look
    names: tuple[str, ...]


# Of the largest joint groups, in this order; the smaller ones share a colour.
_JOINT = (
    Look(OKABE_ITO["orange"], "#F0B13C"),
    Look(OKABE_ITO["green"], "#1FC79A"),
    Look(OKABE_ITO["purple"], "#DD93BC"),
    Look(OKABE_ITO["vermillion"], "#E8743B"),
    Look("#7A5BB5", "#A98BE0"),
)
_SMALLER = Look("#A08A2E", "#CDB75A")
_ALONE = Look(OKABE_ITO["blue"], OKABE_ITO["sky"])
_OTHER: dict[Role, tuple[str, Look]] = {
    "rescaling": ("in a rescaling only", Look("#7C8894", "#93A1AE", hatch="/")),
    "without effect": ("without effect", Look("#C9CED3", "#4C555E", hatch="x")),
    "fixed": ("in no symmetry", Look("#4A5057", "#D2D8DE")),
}


@dataclass(frozen=True)
class Tensors:
    """The tensors of a model by what was found about them.

    Attributes:
        found: The symmetries that :func:`onsphere.find_symmetries` returned.
    """

    found: Symmetries

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Numbers in every tensor."""
        return dict(zip(self.found.names, map(math.prod, self.found.shapes), strict=True))

    @cached_property
    def shape_of(self) -> dict[str, str]:
        """Every tensor's shape as text, ``64x3x3x3``."""
        shapes = ("x".join(map(str, shape)) or "number" for shape in self.found.shapes)
        return dict(zip(self.found.names, shapes, strict=True))

    @cached_property
    def total(self) -> int:
        """Numbers in all trainable tensors."""
        return sum(self.sizes.values())

    def size(self, names: Iterable[str]) -> int:
        """Numbers in these tensors."""
        return sum(self.sizes[name] for name in names)

    def share(self, names: Iterable[str]) -> float:
        """Part of all trainable numbers that lies in these tensors."""
        return self.size(names) / self.total if self.total else 0.0

    @cached_property
    def group_of(self) -> dict[str, int]:
        """Index of the group that holds a tensor, for tensors in a group."""
        return {name: i for i, group in enumerate(self.found.groups) for name in group}

    @cached_property
    def roles(self) -> dict[str, Role]:
        """What every tensor is."""
        found: dict[str, Role] = dict.fromkeys(self.found.names, "fixed")
        found |= dict.fromkeys((name for one in self.found.rescalings for name in one), "rescaling")
        for group in self.found.groups:
            found |= dict.fromkeys(group, "alone" if len(group) == 1 else "joint")
        return found | dict.fromkeys(self.found.without_effect, "without effect")

    @cached_property
    def classes(self) -> list[Class]:
        """All classes that have tensors: by themselves, the joint groups, rescalings, without effect, in no symmetry.

        Joint groups of most tensors come first, then those with most numbers; where there are many the rest of them
        are one class.
        """
        groups, names = self.found.groups, self.found.names
        joint = [i for i, group in enumerate(groups) if len(group) > 1]
        joint.sort(key=lambda i: (-len(groups[i]), -self.size(groups[i]), i))
        shown = joint if len(joint) <= len(_JOINT) + 1 else joint[: len(_JOINT)]
        rest = set(joint[len(shown) :])
        by_role = {role: tuple(name for name in names if self.roles[name] == role) for role in ("alone", *_OTHER)}
        made = [
            Class("scale-invariant by itself", _ALONE, by_role["alone"]),
            *(
                Class(f"group {i + 1}: {counted(len(groups[i]), 'tensor')} together", look, tuple(groups[i]))
                for i, look in zip(shown, (*_JOINT, _SMALLER), strict=False)
            ),
            Class(
                f"{len(rest)} smaller joint groups",
                _SMALLER,
                tuple(name for name in names if self.group_of.get(name) in rest),
            ),
            *(Class(title, look, by_role[role]) for role, (title, look) in _OTHER.items()),
        ]
        return [one for one in made if one.names]

    @cached_property
    def colours(self) -> dict[str, str]:
        """The colour of every tensor, on light ground."""
        return {name: str(one.look.colour) for one in self.classes for name in one.names}

    def told(self, name: str) -> str:
        """All that is known about a tensor, one fact a line."""
        size = f"{self.sizes[name]:,} number{'s' * (self.sizes[name] != 1)}"
        lines = [f"<b>{name}</b>", f"{self.shape_of[name]} · {size}"]
        role, i = self.roles[name], self.group_of.get(name)
        if i is not None:
            others = len(self.found.groups[i]) - 1
            how = f"together with {others} more" if role == "joint" else "by itself"
            lines.append(f"group {i + 1}: scale-invariant {how}")
            if math.isfinite(broken := self.found.broken_by_eps[i]):
                lines.append(f"doubling the group changes the output by {format_number(broken, 2)} (eps)")
        elif role == "without effect":
            lines.append("the output does not depend on it")
        elif role == "fixed":
            lines.append("in no symmetry: its scale matters")
        if name in (self.found.row_invariant or ()):
            lines.append("every row is scale-invariant by itself")
        for one in self.found.rescalings:
            if name in one:
                powers = (f"{other}: {exponent_text(c)}" for other, c in list(one.items())[:6])
                lines.append("rescaling, exponents " + ", ".join(powers) + (", …" if len(one) > 6 else ""))
        return "<br>".join(lines)


def exponent_text(value: float) -> str:
    """An exponent with a proper minus sign."""
    return format_number(value).replace("-", "−")
