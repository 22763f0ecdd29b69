"""Names of groups that a reader understands: what the names of their tensors have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence

from onsphere.monitor.finding import listed

__all__ = ["common_pattern", "gist"]

#: Parts that say nothing of where a tensor is.
_EVERYWHERE = {"*", "weight", "bias", "gain", "scale"}


def common_pattern(names: Sequence[str]) -> str:
    """The glob of some tensors' names, ``layers.*.q.weight``, or the first names where they have nothing in common.

    Args:
        names: Dotted names, at least one.

    Example:
        >>> common_pattern(["layers.0.q.weight", "layers.1.q.weight"])
        'layers.*.q.weight'
        >>> common_pattern(["stem.weight", "head.weight", "a.b.weight"])
        'stem.weight, head.weight, ...'
    """
    split = [name.split(".") for name in names]
    if len(names) == 1:
        return names[0]
    if len({len(parts) for parts in split}) == 1:
        pattern = [parts[0] if len(set(parts)) == 1 else "*" for parts in zip(*split, strict=True)]
    else:
        front = _shared(split)
        back = _shared([parts[len(front) :][::-1] for parts in split])[::-1]
        pattern = [*front, "*", *back]
    if set(pattern) - _EVERYWHERE:
        return ".".join(pattern)
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def gist(names: Sequence[str]) -> str:
    """What some groups are called, in few words: names that differ in a number alone become one pattern.

    Args:
        names: What the groups are called, at least one.

    Example:
        >>> gist(["layers.0.q.weight", "layers.0.k.weight", "layers.1.q.weight", "rest"])
        'layers.*.q.weight, layers.0.k.weight, rest'
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    return listed([common_pattern(several) if several[1:] else several[0] for several in alike.values()])


def _shared(lists: Sequence[Sequence[str]]) -> list[str]:
    """The parts that all lists begin with."""
    found = []
    for parts in zip(*lists, strict=False):
        if len(set(parts)) > 1:
            break
        found.append(parts[0])
    return found
