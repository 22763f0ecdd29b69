"""How tensors are drawn: a colour and a name for each group or role, the same in the page and in the figures."""

from __future__ import annotations

from dataclasses import dataclass

from onsphere.lab.chart.theme import OKABE_ITO
from onsphere.lab.experiments.symmetries.findings import Findings
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number

__all__ = ["Class", "classes", "exponent_text", "group_title", "tensor_text"]


@dataclass(frozen=True)
class Class:
    """Tensors that share one colour.

    Attributes:
        key: Unique among the classes.
        title: What they are.
        colour: On a light page and on treemaps.
        dark: On a dark page.
        hatch: Whether they are hatched, so that colour is not the only sign.
        names: The tensors, in the model's order.
    """

    key: str
    title: str
    colour: str
    dark: str
    hatch: str
    names: tuple[str, ...]


# Of the largest joint groups, in this order; the smaller ones share a colour.
_JOINT = (
    (OKABE_ITO["orange"], "#F0B13C"),
    (OKABE_ITO["green"], "#1FC79A"),
    (OKABE_ITO["purple"], "#DD93BC"),
    (OKABE_ITO["vermillion"], "#E8743B"),
    ("#7A5BB5", "#A98BE0"),
)
_SMALLER = ("#A08A2E", "#CDB75A")
_OTHER = {
    "alone": ("scale-invariant by itself", OKABE_ITO["blue"], OKABE_ITO["sky"], ""),
    "rescaling": ("in a rescaling only", "#7C8894", "#93A1AE", "/"),
    "without effect": ("without effect", "#C9CED3", "#4C555E", "x"),
    "fixed": ("in no symmetry", "#4A5057", "#D2D8DE", ""),
}


def classes(found: Findings) -> list[Class]:
    """All classes that have tensors: by themselves, the joint groups, rescalings, without effect, in no symmetry."""
    joint = found.joint_groups
    few = len(joint) <= len(_JOINT) + 1
    shown = joint if few else joint[: len(_JOINT)]
    colours = (*_JOINT, _SMALLER)
    made = [
        Class(f"group {i + 1}", f"{group_title(found, i)} together", *colours[k], "", tuple(found.groups[i]))
        for k, i in enumerate(shown)
    ]
    rest = set(joint[len(shown) :])
    if rest:
        names = tuple(name for name in found.names if found.group_of.get(name) in rest)
        made.append(Class("smaller", f"{len(rest)} smaller joint groups", *_SMALLER, "", names))
    for role, (title, colour, dark, hatch) in _OTHER.items():
        names = tuple(name for name in found.names if found.roles[name] == role)
        if names:
            made.insert(0 if role == "alone" else len(made), Class(role, title, colour, dark, hatch, names))
    return made


def group_title(found: Findings, index: int) -> str:
    """A group's number and size: ``group 3: 2 tensors``."""
    return f"group {index + 1}: {counted(len(found.groups[index]), 'tensor')}"


def exponent_text(value: float) -> str:
    """An exponent with a proper minus sign."""
    return format_number(value).replace("-", "−")


def tensor_text(found: Findings, name: str) -> str:
    """What is known about a tensor, one fact a line."""
    size = f"{found.sizes[name]:,} numbers" if found.sizes[name] != 1 else "1 number"
    lines = [f"<b>{name}</b>", f"{found.shape_of[name]} · {size}"]
    role = found.roles[name]
    if name in found.group_of:
        i = found.group_of[name]
        if role == "joint":
            lines.append(f"group {i + 1}: scale-invariant together with {len(found.groups[i]) - 1} more")
        else:
            lines.append(f"group {i + 1}: scale-invariant by itself")
        broken = found.broken_by_eps[i]
        if broken is not None:
            lines.append(f"doubling the group changes the output by {format_number(broken, 2)} (eps)")
    elif role == "without effect":
        lines.append("the output does not depend on it")
    elif role == "fixed":
        lines.append("in no symmetry: its scale matters")
    if found.row_invariant is not None and name in found.row_invariant:
        lines.append("every row is scale-invariant by itself")
    for one in found.rescalings:
        if name in one:
            powers = (f"{other}: {exponent_text(c)}" for other, c in list(one.items())[:6])
            lines.append("rescaling, exponents " + ", ".join(powers) + (", …" if len(one) > 6 else ""))
    return "<br>".join(lines)
