"""The page of ``onsphere symmetries``, and the same page for symmetries found in a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.experiments.symmetries.charts import areas_chart, bars_chart
from onsphere.lab.experiments.symmetries.figures import tensors_figure
from onsphere.lab.experiments.symmetries.findings import Findings
from onsphere.lab.experiments.symmetries.look import Class, classes, exponent_text
from onsphere.lab.experiments.symmetries.names import folded
from onsphere.lab.experiments.symmetries.result import SymmetriesResult
from onsphere.lab.experiments.symmetries.spec import SymmetriesSpec
from onsphere.lab.report.page import Block, Cell, Facts, Page, Section, Table, Text
from onsphere.lab.report.sections import counted, measured_section, repeat_section
from onsphere.lab.report.words import MISSING, format_duration, format_number
from onsphere.lab.store import Run

if TYPE_CHECKING:
    from onsphere.symmetry import Symmetries

__all__ = ["symmetries_page", "write_report"]

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


def symmetries_page(found: Symmetries, path: str | Path, *, title: str = "Scaling symmetries") -> Path:
    """Write what :func:`onsphere.find_symmetries` returned as one self-contained HTML page.

    Args:
        found: The symmetries.
        path: The file; its folder is made if missing.
        title: Heading of the page, such as the model's name.

    Returns:
        The path.
    """
    findings = Findings.of(found)
    return _page(findings, title, "", [], findings.to_dict()).write(Path(path))


def write_report(run: Run, result: SymmetriesResult) -> Path:
    """Write ``report.html`` and ``figures/`` into a run's folder.

    Returns:
        The page.
    """
    title = f"Scaling symmetries of {result.spec['model']}"
    spec = SymmetriesSpec(**result.spec)
    shapes = [("x".join(map(str, shape)), name) for name, shape in spec.inputs()]
    shapes += [(f"{'x'.join(map(str, shape))} tokens of {spec.vocab}", name) for name, shape in spec.token_inputs()]
    batch = ", ".join(f"{name} {shape}" if name else shape for shape, name in shapes)
    subtitle = f"batch {batch} · seed {spec.seed}"
    with style():
        figure = tensors_figure(result.found, title, subtitle)
    save_figure(figure, run.folder / "figures" / "tensors")
    values = spec.model_dump(mode="json")
    given = {name: value for name, value in values.items() if value not in (None, [], ())}
    environment: Mapping[str, Any] = run.manifest["environment"]
    facts = [(name, _fact(value)) for name, value in environment.items()]
    cost = Text(f"The search took {format_duration(result.seconds)} of wall-clock time.")
    last = [
        Section("engine", "Cost and versions", [cost, Facts(facts)]),
        repeat_section(to_command(result.command, SymmetriesSpec, values), to_toml(given)),
    ]
    footer = " The figures folder beside this page holds its tensors as PNG and SVG."
    page = _page(result.found, title, subtitle, last, result.to_dict(), result.seconds, footer)
    return page.write(result.report)


def _page(
    found: Findings,
    title: str,
    subtitle: str,
    last: Sequence[Section],
    data: Mapping[str, Any],
    seconds: float | None = None,
    footer: str = "",
) -> Page:
    shown = classes(found)
    sections = [Section("tensors", "The model's tensors", [areas_chart(found), bars_chart(found)])]
    if found.groups:
        sections.append(Section("groups", "Scale-invariant groups", _groups(found, shown)))
    if found.rescalings:
        sections.append(Section("rescalings", "Rescalings", _rescalings(found)))
    sections += [
        Section("all", "All tensors", [_tensors(found, shown)]),
        Section("probing", "How the model was probed", _notes(found)),
        measured_section(("word", "what it is"), _MEASUREMENTS),
        *last,
    ]
    summary = [
        f"{found.total:,} numbers in {counted(len(found.names), 'tensor')}",
        f"{counted(len(found.groups), 'group')}",
        f"{counted(len(found.rescalings), 'rescaling')}",
        f"dimension {found.dimension}",
        f"gap {format_number(found.gap, 2) if found.gap is not None else '∞'}",
        *([format_duration(seconds)] if seconds is not None else []),
    ]
    return Page(
        title=title,
        subtitle=subtitle,
        answer=answer(found),
        summary=summary,
        sections=sections,
        footer=f"Made by onsphere {__version__}." + footer,
        data=dict(data) | {"version": __version__},
    )


def answer(found: Findings) -> list[str]:
    """What was found, in a sentence, then what else there is and how exact it is."""
    if found.groups:
        share = format_number(100 * found.share(found.invariant))
        first = (
            f"{len(found.invariant)} of {counted(len(found.names), 'tensor')} ({share} % of the numbers) "
            f"are scale-invariant, in {counted(len(found.groups), 'group')}: only their direction matters."
        )
    else:
        first = f"None of {counted(len(found.names), 'tensor')} is scale-invariant, alone or together."
    rest = []
    if found.rescalings:
        verb = "trades" if len(found.rescalings) == 1 else "trade"
        rest.append(f"{counted(len(found.rescalings), 'rescaling')} {verb} the scale of one tensor for another's")
    if found.without_effect:
        rest.append(f"{counted(len(found.without_effect), 'tensor')} {_have(found.without_effect)} no effect at all")
    if found.fixed:
        rest.append(f"{counted(len(found.fixed), 'tensor')} {_are(found.fixed)} in no symmetry")
    second = f"{', '.join(rest)}." if rest else "There is nothing else: every trainable tensor is in a group."
    return [first, second[0].upper() + second[1:], *_eps_sentence(found)]


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _eps_sentence(found: Findings) -> list[str]:
    known = [(change, i) for i, change in enumerate(found.broken_by_eps) if change is not None]
    if not known:
        return []
    change, i = max(known)
    if change < 1e-9:
        return ["With the eps that the model has, at the norms it has, every group is exact as well."]
    name = "; ".join(folded(found.groups[i])[:2])
    return [
        f"With the eps that the model has, at the norms it has, doubling a group changes the output by up to "
        f"{format_number(change, 2)} (group {i + 1}: {name})."
    ]


def _groups(found: Findings, shown: Sequence[Class]) -> list[Block]:
    colours = {name: one.colour for one in shown for name in one.names}
    rows: list[list[Cell | str]] = []
    for i, group in enumerate(found.groups):
        size = sum(found.sizes[name] for name in group)
        broken = found.broken_by_eps[i]
        rows.append(
            [
                Cell(str(i + 1), i + 1, colour=colours[group[0]]),
                Cell(str(len(group)), len(group)),
                Cell(f"{size:,}", size),
                Cell(f"{format_number(100 * found.share(group))} %", found.share(group)),
                Cell(_change(broken), float("nan") if broken is None else broken),
                Cell(", ".join(folded(group)), hint="\n".join(group)),
            ]
        )
    columns = [
        ("group", "its colour is that of the charts"),
        ("tensors", "how many are scaled together"),
        ("numbers", "in these tensors"),
        ("share", "of all trainable numbers"),
        ("broken by eps", "relative change of the output when the group is doubled, with the model's eps and norms"),
        ("names", "numbers in braces stand for several tensors"),
    ]
    caption = "Multiply all tensors of a group by one positive number, and the output stays. Click a heading to sort."
    return [Table(columns, rows, caption=caption, sortable=True, numeric=frozenset({1, 2, 3, 4}), tight=frozenset({0}))]


def _change(broken: float | None) -> str:
    if broken is None:
        return MISSING
    return "exact" if broken < 1e-12 else format_number(broken, 2)


def _rescalings(found: Findings) -> list[Block]:
    rows: list[list[Cell | str]] = []
    for i, (exponents, sentence) in enumerate(zip(found.rescalings, found.rescaling_sentences, strict=True), 1):
        powers = ", ".join(exponent_text(c) for c in exponents.values())
        rows.append([Cell(str(i), i), Cell(powers), Cell(sentence)])
    columns = [("", ""), ("exponents", "in the order of the names"), ("in words", "")]
    intro = Text(
        "Invariant, but not spheres: one tensor makes up for another. A learning rate or weight decay on one of them "
        "acts on all; a basis is shown, so that products of these are symmetries too."
    )
    return [intro, Table(columns, rows, sortable=len(rows) > 3, numeric=frozenset({0}), tight=frozenset({1}))]


def _tensors(found: Findings, shown: Sequence[Class]) -> Table:
    of = {name: one for one in shown for name in one.names}
    rows: list[list[Cell | str]] = []
    for i, name in enumerate(found.names):
        number = found.group_of.get(name)
        scaled = [f"{exponent_text(one[name])} in {k}" for k, one in enumerate(found.rescalings, 1) if name in one]
        rows.append(
            [
                Cell(str(i + 1), i + 1),
                Cell(name),
                Cell(found.shape_of[name]),
                Cell(f"{found.sizes[name]:,}", found.sizes[name]),
                Cell(found.roles[name], colour=of[name].colour),
                Cell(str(number + 1), number + 1) if number is not None else Cell(MISSING, float("nan")),
                Cell(", ".join(scaled) or MISSING),
                *([Cell("yes" if name in found.row_invariant else "no")] if found.row_invariant is not None else []),
            ]
        )
    columns = [
        ("", "place in the model"),
        ("tensor", ""),
        ("shape", ""),
        ("numbers", ""),
        ("role", "joint and alone: scale-invariant; fixed: in no symmetry"),
        ("group", "number of its scale-invariant group"),
        ("rescalings", "its exponent in which of them"),
        *([("by rows", "whether every row is scale-invariant by itself")] if found.row_invariant is not None else []),
    ]
    caption = "One row a tensor, in the model's order. Click a heading to sort, click again to turn the order around."
    tight = frozenset(range(1, len(columns))) - {3, 5}
    return Table(columns, rows, caption=caption, sortable=True, numeric=frozenset({0, 3, 5}), tight=tight)


def _notes(found: Findings) -> list[Block]:
    usual = (
        "On a copy in float64 and training mode, with perturbed weights, without dropout and running statistics. Every "
        "symmetry was certified by rescaling by 2 and by 1/2, which is exact in floating point."
    )
    return [Text(usual), *(Text(note[0].upper() + note[1:] + ".", tone="note") for note in found.notes)]


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(item)}" for name, item in value.items())
    return format_number(value)
