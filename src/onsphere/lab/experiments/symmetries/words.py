"""What was found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onsphere.lab.experiments.symmetries.names import folded, pattern
from onsphere.lab.experiments.symmetries.tensors import Tensors
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number
from onsphere.symmetry import Symmetries

__all__ = ["answer", "certainty", "describe", "rescaling_kinds", "rescaling_sentences"]


def describe(found: Symmetries) -> str:
    """The result in one line."""
    tensors = Tensors(found)
    parts = [
        f"{len(found.invariant)} of {len(found.names)} tensors ({_percent(tensors)} % of {tensors.total:,} numbers) "
        f"scale-invariant in {len(found.groups)} groups",
        f"{len(found.rescalings)} rescalings",
        f"{len(found.without_effect)} without effect",
        f"{len(found.fixed)} in no symmetry",
    ]
    return "; ".join(parts)


def answer(found: Symmetries) -> list[str]:
    """What was found, in a sentence, then what else there is and how exact it is."""
    if found.groups:
        first = (
            f"{len(found.invariant)} of {counted(len(found.names), 'tensor')} ({_percent(Tensors(found))} % of the "
            f"numbers) are scale-invariant, in {counted(len(found.groups), 'group')}: only their direction matters."
        )
    else:
        first = f"None of {counted(len(found.names), 'tensor')} is scale-invariant, alone or together."
    rest = []
    if found.rescalings:
        verb = "trades" if len(found.rescalings) == 1 else "trade"
        rest.append(f"{counted(len(found.rescalings), 'rescaling')} {verb} the scale of one tensor for another's")
    if found.without_effect:
        verb = "has" if len(found.without_effect) == 1 else "have"
        rest.append(f"{counted(len(found.without_effect), 'tensor')} {verb} no effect at all")
    if found.fixed:
        verb = "is" if len(found.fixed) == 1 else "are"
        rest.append(f"{counted(len(found.fixed), 'tensor')} {verb} in no symmetry")
    second = f"{', '.join(rest)}." if rest else "There is nothing else: every trainable tensor is in a group."
    return [first, second[0].upper() + second[1:], *_exactness(found)]


def certainty(found: Symmetries) -> tuple[str, str]:
    """How many symmetries there are and how clearly they stand out, as two short facts."""
    return f"dimension {found.dimension}", f"gap {format_number(found.gap, 2)}"


def rescaling_sentences(found: Symmetries) -> list[str]:
    """One sentence for each rescaling."""
    return found.sentences()[len(found.groups) :][: len(found.rescalings)]


def rescaling_kinds(found: Symmetries) -> list[str]:
    """A sentence for each kind of rescaling: names that differ in numbers alone, with the same exponents."""
    kinds: dict[tuple[tuple[str, float], ...], list[str]] = {}
    for exponents, sentence in zip(found.rescalings, rescaling_sentences(found), strict=True):
        kind = tuple((pattern(name), power) for name, power in exponents.items())
        kinds.setdefault(kind, []).append(sentence)
    return [said[0] + (f" (and {len(said) - 1} more like it)" if len(said) > 1 else "") for said in kinds.values()]


def _exactness(found: Symmetries) -> Sequence[str]:
    known = [(change, i) for i, change in enumerate(found.broken_by_eps) if math.isfinite(change)]
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


def _percent(tensors: Tensors) -> str:
    return format_number(100 * tensors.share(tensors.found.invariant))
