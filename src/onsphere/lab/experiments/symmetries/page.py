"""The page of ``onsphere symmetries``, and the same page for symmetries found in a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onsphere.lab.experiments.symmetries.charts import areas_chart, bars_chart
from onsphere.lab.experiments.symmetries.result import SymmetriesResult
from onsphere.lab.experiments.symmetries.tensors import Tensors, exponent_text
from onsphere.lab.experiments.symmetries.words import answer, folded, pattern, rescaling_kinds, rescaling_sentences
from onsphere.lab.frame import Report, write_plain_page
from onsphere.lab.report.page import Block, Cell, Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.table import SORT, Column, table
from onsphere.lab.report.words import MISSING, format_number
from onsphere.lab.store import Run
from onsphere.symmetry import Symmetries

_MEASUREMENTS = (
    ("symmetry", "exponents cᵢ such that multiplying tensor i by a^cᵢ, for any a > 0, leaves the output as it is"),
    (
        "group",
        "exponents 0 and 1: these tensors, multiplied by one number together, change nothing; none can be left out",
    ),
    ("rescaling", "other exponents: one tensor makes up for another; not a sphere, only a product is meaningful"),
    ("without effect", "the output does not depend on the tensor at all, such as a bias ahead of a batch norm"),
    ("dimension", "number of independent symmetries; it and the rank add up to the number of tensors"),
    ("gap", "smallest singular value that counts over the largest taken for zero; below 1e4 there is no answer"),
    ("broken by eps", "relative change of the output when the group is doubled, with the model's eps and its weights"),
    ("joint sphere", "all groups together: sphere_groups(model, batch) gives it to an optimiser"),
)
_PROBED = (
    "On a copy in float64 and training mode, with perturbed weights, without dropout and running statistics. Every "
    "symmetry was certified by rescaling by 2 and by 1/2, which is exact in floating point."
)


_NO_SPHERES = (
    "Invariant, but not spheres: one tensor makes up for another. A learning rate or weight decay on one of them acts "
    "on all; a basis is shown, so that products of these are symmetries too."
)


def symmetries_page(found: Symmetries, path: str | Path, *, title: str = "Scaling symmetries") -> Path:
    """Write what :func:`onsphere.find_symmetries` returned as one self-contained HTML page.

    Args:
        found: The symmetries that were found.
        path: The file; its folder is made if missing.
        title: Heading of the page, such as the model's name.

    Returns:
        The path that was given.
    """
    return write_plain_page(Path(path), _report(found, title, ""), answer(found), found.to_dict())


def report(run: Run, result: SymmetriesResult) -> Report:
    """What is to be read about a model's symmetries."""
    spec = result.spec
    shapes = [("x".join(map(str, shape)), name) for name, shape in spec.inputs()]
    shapes += [(f"{'x'.join(map(str, shape))} tokens of {spec.vocab}", name) for name, shape in spec.token_inputs()]
    batch = ", ".join(f"{name} {shape}" if name else shape for shape, name in shapes)
    return _report(result.found, f"Scaling symmetries of {spec.model}", f"batch {batch} · seed {spec.seed}")


def _report(found: Symmetries, title: str, subtitle: str) -> Report:
    tensors = Tensors(found)
    notes = [Text(note[0].upper() + note[1:] + ".", tone="note") for note in found.notes]
    sections = [
        Section("tensors", "The model's tensors", [areas_chart(tensors), bars_chart(tensors, title)]),
        Section("groups", "Scale-invariant groups", [_groups(tensors)]),
        Section("rescalings", "Rescalings", _rescalings(found)),
        Section("all", "All tensors", [_tensors(tensors)]),
        Section("probing", "How the model was probed", [Text(_PROBED), *notes]),
    ]
    there = {"groups": found.groups, "rescalings": found.rescalings}
    return Report(
        title=title,
        subtitle=subtitle,
        summary=[
            f"{tensors.total:,} numbers in {counted(len(found.names), 'tensor')}",
            counted(len(found.groups), "group"),
            counted(len(found.rescalings), "rescaling"),
            *_certainty(found),
        ],
        sections=[section for section in sections if there.get(section.id, True)],
        measured=_MEASUREMENTS,
        note="",
        heading="word",
    )


def printed(result: SymmetriesResult) -> list[Table | str]:
    """Groups, rescalings and the rest; what is alike in several layers takes one line."""
    found, tensors = result.found, Tensors(result.found)
    parts = {
        "rescalings": rescaling_kinds(found),
        "without effect": folded(found.without_effect),
        "in no symmetry": folded(found.fixed),
        "row by row": [] if found.row_invariant is None else folded(found.row_invariant) or ["none"],
        "notes": found.notes,
    }
    rest = [line for name, lines in parts.items() if lines for line in (f"{name}:", *(f"  {one}" for one in lines))]
    groups = [_alike_groups(tensors)] if found.groups else []
    return [*groups, *[""][: len(groups) * len(rest)], *rest, ", ".join(_certainty(found))]


def _certainty(found: Symmetries) -> tuple[str, str]:
    """How many symmetries there are and how clearly they stand out."""
    return f"dimension {found.dimension}", f"gap {format_number(found.gap, 2)}"


def _alike_groups(tensors: Tensors) -> Table:
    """The groups, those whose names differ in numbers alone on one line; those with most numbers first."""
    groups, broken = tensors.found.groups, tensors.found.broken_by_eps
    gathered: dict[tuple[str, ...], list[int]] = {}
    for i, group in enumerate(groups):
        gathered.setdefault(tuple(map(pattern, group)), []).append(i)

    def names(alike: Sequence[int]) -> list[str]:
        return [name for i in alike for name in groups[i]]

    def worst(alike: Sequence[int]) -> float:
        return max((broken[i] for i in alike if math.isfinite(broken[i])), default=math.nan)

    def listed(alike: Sequence[int]) -> str:
        alone = len(groups[alike[0]]) == 1
        how = ("each by itself: " if len(alike) > 1 else "by itself: ") if alone else ""
        return how + ", ".join(folded(names(alike)))

    columns = (
        Column("groups", len),
        Column("tensors each", lambda alike: len(groups[alike[0]])),
        *_measures(tensors, names, worst),
        Column("scale-invariant together", listed, kind="text"),
    )
    return table(sorted(gathered.values(), key=lambda alike: -tensors.size(names(alike))), columns)


def _groups(tensors: Tensors) -> Table:
    groups, colours = tensors.found.groups, tensors.colours

    def names(i: int) -> Cell:
        return Cell(", ".join(folded(groups[i])), hint="\n".join(groups[i]))

    columns = (
        Column(
            "group",
            lambda i: Cell(str(i + 1), i + 1, colours[groups[i][0]]),
            "its colour is that of the charts",
            kind="tight",
        ),
        Column("tensors", lambda i: len(groups[i]), "how many are scaled together"),
        *_measures(tensors, groups.__getitem__, tensors.found.broken_by_eps.__getitem__),
        Column("names", names, "numbers in braces stand for several tensors", kind="text"),
    )
    told = "Multiply all tensors of a group by one positive number, and the output stays."
    return table(range(len(groups)), columns, f"{told} {SORT}")


def _measures(
    tensors: Tensors, names: Callable[[Any], Sequence[str]], broken: Callable[[Any], float]
) -> tuple[Column, ...]:
    """Columns that tell how large a group is, and how exact."""

    def change(row: Any) -> Cell:
        value = broken(row)
        return Cell("exact" if value < 1e-12 else format_number(value, 2), value)

    eps = "relative change of the output when the group is doubled, with the model's eps and norms"
    return (
        Column("numbers", lambda row: tensors.size(names(row)), "in these tensors", form=","),
        Column("share (%)", lambda row: tensors.share(names(row)), "of all trainable numbers", scale=100),
        Column("broken by eps", change, eps),
    )


def _rescalings(found: Symmetries) -> list[Block]:
    said = rescaling_sentences(found)

    def exponents(i: int) -> str:
        return ", ".join(map(exponent_text, found.rescalings[i].values()))

    columns = (
        Column("", lambda i: i + 1),
        Column("exponents", exponents, "in the order of the names", kind="tight"),
        Column("in words", said.__getitem__, kind="text"),
    )
    return [Text(_NO_SPHERES), table(range(len(said)), columns, "", sortable=len(said) > 3)]


def _tensors(tensors: Tensors) -> Table:
    found, colours = tensors.found, tensors.colours
    places = {name: i for i, name in enumerate(found.names, 1)}
    groups = {name: i + 1 for name, i in tensors.group_of.items()}

    def scaled(name: str) -> str:
        powers = [f"{exponent_text(one[name])} in {k}" for k, one in enumerate(found.rescalings, 1) if name in one]
        return ", ".join(powers) or MISSING

    def role(name: str) -> Cell:
        return Cell(tensors.roles[name], colour=colours[name])

    columns = [
        Column("", places.get, "place in the model"),
        Column("tensor", str, kind="tight"),
        Column("shape", tensors.shape_of.get, kind="tight"),
        Column("numbers", tensors.sizes.get, form=","),
        Column("role", role, "joint and alone: scale-invariant; fixed: in no symmetry", kind="tight"),
        Column("group", groups.get, "number of its scale-invariant group"),
        Column("rescalings", scaled, "its exponent in which of them", kind="tight"),
    ]
    if (rows := found.row_invariant) is not None:
        hint = "whether every row is scale-invariant by itself"
        columns.append(Column("by rows", lambda name: "yes" if name in rows else "no", hint, kind="tight"))
    caption = "One row a tensor, in the model's order. Click a heading to sort, click again to turn the order around."
    return table(found.names, columns, caption)
