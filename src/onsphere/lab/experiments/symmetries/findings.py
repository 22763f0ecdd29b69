"""What was found, as plain values that go to disk and come back, and what each tensor is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from onsphere.symmetry import Symmetries

__all__ = ["Findings", "Role"]

Role = Literal["joint", "alone", "rescaling", "without effect", "fixed"]


@dataclass(frozen=True)
class Findings:
    """The content of a :class:`onsphere.symmetry.Symmetries`.

    Attributes:
        names: Trainable parameters in registration order, tied ones once.
        shapes: Theirs.
        groups: Names of every scale-invariant group; they are disjoint.
        broken_by_eps: For each group the relative change of the output when it is doubled, with the model's own eps
            and norms, or None.
        rescalings: Name to exponent, of every rescaling symmetry that is no group.
        sentences: Every symmetry in words: groups, rescalings, without effect.
        without_effect: Names that the output does not depend on.
        fixed: Names in no symmetry.
        invariant: Names on the joint sphere.
        row_invariant: Names whose rows are scale-invariant one by one, or None if that was not asked.
        generators: A basis of all symmetries: groups, rescalings, without effect; one row each, one column a name.
        dimension: Of the space of symmetries.
        gap: Smallest singular value that counts over the largest taken for zero, or None where there is no such pair.
        notes: How the model was probed.
    """

    names: list[str]
    shapes: list[list[int]]
    groups: list[list[str]]
    broken_by_eps: list[float | None]
    rescalings: list[dict[str, float]]
    sentences: list[str]
    without_effect: list[str]
    fixed: list[str]
    invariant: list[str]
    row_invariant: list[str] | None
    generators: list[list[float]]
    dimension: int
    gap: float | None
    notes: list[str]

    @classmethod
    def of(cls, found: Symmetries) -> Self:
        """Take everything over from what :func:`onsphere.find_symmetries` returned."""
        return cls(
            names=list(found.names),
            shapes=[[int(size) for size in shape] for shape in found.shapes],
            groups=[list(group) for group in found.groups],
            broken_by_eps=[_finite(change) for change in found.broken_by_eps],
            rescalings=[{name: _exponent(c) for name, c in one.items()} for one in found.rescalings],
            sentences=found.sentences(),
            without_effect=list(found.without_effect),
            fixed=list(found.fixed),
            invariant=list(found.invariant),
            row_invariant=None if found.row_invariant is None else list(found.row_invariant),
            generators=[[_exponent(c) for c in row] for row in found.generators.tolist()],
            dimension=int(found.dimension),
            gap=_finite(found.gap),
            notes=list(found.notes),
        )

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> Self:
        """From what :meth:`to_dict` gave, among other keys.

        Raises:
            ValueError: A group is empty, or holds what is no tensor's name.
        """
        found = cls(**{field.name: values[field.name] for field in fields(cls)})
        for group in found.groups:
            if not group or not set(group) <= set(found.names):
                raise ValueError(f"a group {str(group)[:40]} of tensors that the model does not have")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Numbers in every tensor."""
        return {name: math.prod(shape) for name, shape in zip(self.names, self.shapes, strict=True)}

    @cached_property
    def shape_of(self) -> dict[str, str]:
        """Every tensor's shape as text, ``64x3x3x3``."""
        return {
            name: "x".join(map(str, shape)) or "number" for name, shape in zip(self.names, self.shapes, strict=True)
        }

    @cached_property
    def total(self) -> int:
        """Numbers in all trainable tensors."""
        return sum(self.sizes.values())

    def share(self, names: list[str]) -> float:
        """Part of all trainable numbers that lies in these tensors."""
        return sum(self.sizes[name] for name in names) / self.total if self.total else 0.0

    @cached_property
    def group_of(self) -> dict[str, int]:
        """Index of the group that holds a tensor, for tensors in a group."""
        return {name: i for i, group in enumerate(self.groups) for name in group}

    @cached_property
    def roles(self) -> dict[str, Role]:
        """What every tensor is."""
        moved = {name for one in self.rescalings for name in one}
        found: dict[str, Role] = {}
        for name in self.names:
            if name in self.without_effect:
                found[name] = "without effect"
            elif name in self.group_of:
                found[name] = "alone" if len(self.groups[self.group_of[name]]) == 1 else "joint"
            else:
                found[name] = "rescaling" if name in moved else "fixed"
        return found

    @property
    def rescaling_sentences(self) -> list[str]:
        """One for each rescaling."""
        return self.sentences[len(self.groups) :][: len(self.rescalings)]

    @cached_property
    def joint_groups(self) -> list[int]:
        """Indices of the groups of several tensors, those of most tensors first, then those with most numbers."""
        several = [i for i, group in enumerate(self.groups) if len(group) > 1]

        def order(i: int) -> tuple[int, int, int]:
            return -len(self.groups[i]), -sum(self.sizes[name] for name in self.groups[i]), i

        return sorted(several, key=order)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _exponent(value: float) -> float:
    return int(value) if float(value).is_integer() else float(value)
