"""What was found, in sentences, many names in few words: ``blocks.{0–3}.up.weight`` for one of each of four blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from onsphere.lab.experiments.symmetries.tensors import Tensors
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number
from onsphere.symmetry import Symmetries

_NUMBER = re.compile(r"\d+")


def describe(found: Symmetries) -> str:
    """The result in one line."""
    return (
        f"{len(found.invariant)} of {len(found.names)} tensors ({_percent(found)} % of {Tensors(found).total:,} "
        f"numbers) scale-invariant in {len(found.groups)} groups; {len(found.rescalings)} rescalings; "
        f"{len(found.without_effect)} without effect; {len(found.fixed)} in no symmetry"
    )


def answer(found: Symmetries) -> list[str]:
    """What was found, in a sentence, then what else there is and how exact it is."""
    if found.groups:
        first = (
            f"{len(found.invariant)} of {counted(len(found.names), 'tensor')} ({_percent(found)} % of the "
            f"numbers) are scale-invariant, in {counted(len(found.groups), 'group')}: only their direction matters."
        )
    else:
        first = f"None of {counted(len(found.names), 'tensor')} is scale-invariant, alone or together."
    others = (
        (len(found.rescalings), "rescaling", "trades", "trade", "the scale of one tensor for another's"),
        (len(found.without_effect), "tensor", "has", "have", "no effect at all"),
        (len(found.fixed), "tensor", "is", "are", "in no symmetry"),
    )
    rest = [f"{counted(n, what)} {one if n == 1 else many} {how}" for n, what, one, many, how in others if n]
    second = f"{', '.join(rest)}." if rest else "There is nothing else: every trainable tensor is in a group."
    return [first, second[0].upper() + second[1:], *_exactness(found)]


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


def _percent(found: Symmetries) -> str:
    return format_number(100 * Tensors(found).share(found.invariant))


def pattern(text: str) -> str:
    """The text with every number replaced by ``#``: equal for what is alike in every layer."""
    return _NUMBER.sub("#", text)


def folded(names: Iterable[str]) -> list[str]:
    """Names that differ in one number alone, written as one, in order of first appearance.

    Of names with several numbers that is the first whose folding leaves fewest texts.

    Args:
        names: Such as those of a group.

    Returns:
        At most as many texts; together they name the same parameters.
    """
    patterns: dict[str, dict[str, list[str]]] = {}
    for name in names:
        patterns.setdefault(pattern(name), {})[name] = _NUMBER.findall(name)
    found = []
    for members in patterns.values():

        def alike(place: int, members: dict[str, list[str]] = members) -> list[list[str]]:
            groups: dict[tuple[str, ...], list[str]] = {}
            for name, numbers in members.items():
                groups.setdefault((*numbers[:place], *numbers[place + 1 :]), []).append(name)
            return list(groups.values())

        places = range(len(next(iter(members.values()))))
        best = min(places, key=lambda place: len(alike(place)), default=0)
        found += [_written(group, best) for group in alike(best)]
    return found


def shortened(text: str, most: int) -> str:
    """The text with its middle left out if it is longer than ``most`` letters."""
    if len(text) <= most:
        return text
    end = (2 * (most - 1)) // 3
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def _written(members: Sequence[str], place: int) -> str:
    if len(members) == 1:
        return members[0]
    values = sorted({int(_NUMBER.findall(text)[place]) for text in members})
    consecutive = values == list(range(values[0], values[-1] + 1)) and len(values) > 2
    inside = f"{values[0]}–{values[-1]}" if consecutive else ",".join(map(str, values))
    start, end = [match.span() for match in _NUMBER.finditer(members[0])][place]
    return f"{members[0][:start]}{{{inside}}}{members[0][end:]}"
