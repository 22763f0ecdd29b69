"""What :func:`onsphere.find_symmetries` returns: groups, rescalings, and how sure it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf, nan, prod
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from onsphere.groups import Only
from onsphere.results import frame
from onsphere.symmetry import files
from onsphere.symmetry.blocks import Block, said_of_blocks
from onsphere.symmetry.constraints import Constraints, constraints_of
from onsphere.symmetry.mapping import Spheres, groups_of

__all__ = ["Symmetries"]


@dataclass(frozen=True, repr=False, eq=False)
class Symmetries:
    """All scaling symmetries of a model: multiply tensor i by a^c_i for any a > 0, and the output stays.

    Attributes:
        names: Trainable parameters in registration order, tied ones once.
        shapes: Shapes of these parameters.
        generators: A basis of all symmetries, ``[symmetries, parameters]``: first the groups (entries 0 and 1), then
            the rescalings, then one unit vector for each parameter without effect.
        groups: The scale-invariant groups: tensors that may be multiplied by one common number. They are disjoint, none
            can be split, and together they are the joint sphere. Each was certified by multiplying by 2 and by 1/2.
        rescalings: The other generators, name -> exponent; certified likewise.
        without_effect: Parameters that change nothing at all (a bias ahead of a batch norm).
        dimension: Number of independent symmetries; rank + dimension = number of parameters.
        gap: Smallest singular value counted over the largest taken for zero; the clearer, the larger.
        broken_by_eps: For each group the relative change of the output when it is doubled, with the eps that the model
            has and the weights as they are (float64, training mode).
        row_invariant: With ``rows``: tensors of which every row (slice along dimension 0) may be rescaled by itself.
        blocks: With ``blocks``: for tensors that have some, the sets of slices (rows, or columns) that may be rescaled
            by themselves: heads, parts of a fused matrix, experts, channel groups. Each was certified by multiplying
            by 2 and by 1/2. Blocks of several tensors at once are not looked for.
        notes: What was changed in the forward pass to see this.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    generators: NDArray[np.float64]
    groups: list[tuple[str, ...]]
    rescalings: list[dict[str, int | float]]
    without_effect: tuple[str, ...]
    dimension: int
    gap: float
    broken_by_eps: tuple[float, ...]
    row_invariant: tuple[str, ...] | None = None
    notes: tuple[str, ...] = field(default=())
    blocks: dict[str, tuple[Block, ...]] | None = None

    @property
    def invariant(self) -> tuple[str, ...]:
        """Names on the joint sphere, in registration order: the largest 0/1 vector of the symmetries."""
        members = {name for group in self.groups for name in group}
        return tuple(name for name in self.names if name in members)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Parameters in no symmetry."""
        touched = np.abs(self.generators).sum(axis=0) > 0 if len(self.generators) else np.zeros(len(self.names), bool)
        return tuple(name for name, free in zip(self.names, touched, strict=True) if not free)

    def sentences(self) -> list[str]:
        """Every symmetry in words, groups first."""
        said = []
        for group, broken in zip(self.groups, self.broken_by_eps, strict=True):
            who = group[0] if len(group) == 1 else f"{_listing(group)} together"
            verb = "is" if len(group) == 1 else "are"
            said.append(f"{who} {verb} scale-invariant ({_damage(broken)})")
        for exponents in self.rescalings:
            if len(exponents) == 2:
                (first, c), (second, d) = exponents.items()
                how = f"{first} and {second}: scaling the first by {_power(c)} and the second by {_power(d)}"
            else:
                how = "scaling " + _listing([f"{name} by {_power(c)}" for name, c in exponents.items()])
            said.append(f"{how} changes nothing")
        for name, blocks in (self.blocks or {}).items():
            verb = "is scale-invariant" if len(blocks) == 1 else "are scale-invariant each by itself"
            said.append(f"{said_of_blocks(blocks)} of {name} {verb}")
        said += [f"{name} has no effect on the output" for name in self.without_effect]
        return said

    def role(self, name: str) -> str:
        """What a parameter is: ``group K``, ``rescaling``, ``without effect`` or ``fixed``."""
        for number, group in enumerate(self.groups, start=1):
            if name in group:
                return f"group {number}"
        if name in self.without_effect:
            return "without effect"
        return "rescaling" if any(name in exponents for exponents in self.rescalings) else "fixed"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON but for a gap that is infinite; :meth:`from_dict` reads them again."""
        return {
            "names": list(self.names),
            "shapes": [list(shape) for shape in self.shapes],
            "groups": [list(group) for group in self.groups],
            "broken_by_eps": list(self.broken_by_eps),
            "rescalings": [dict(exponents) for exponents in self.rescalings],
            "sentences": self.sentences(),
            "without_effect": list(self.without_effect),
            "fixed": list(self.fixed),
            "invariant": list(self.invariant),
            "row_invariant": None if self.row_invariant is None else list(self.row_invariant),
            "blocks": None
            if self.blocks is None
            else [asdict(block) | {"rows": list(block.rows)} for own in self.blocks.values() for block in own],
            "generators": [[_plain(x) for x in row] for row in self.generators.tolist()],
            "dimension": self.dimension,
            "gap": self.gap,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The symmetries that :meth:`to_dict` wrote, also after they went through JSON.

        Args:
            values: Plain values. None stands for a gap that is infinite, and for a change of the output that is NaN;
                what follows from the rest (``sentences``, ``fixed``, ``invariant``) need not be there.

        Raises:
            KeyError: A value is missing.
            ValueError: A group is empty or holds what is no parameter's name, or the generators or the shapes are not
                of as many numbers as there are names.
        """
        names, generators = tuple(values["names"]), values["generators"]
        groups = [tuple(group) for group in values["groups"]]
        for group in groups:
            if not group or not set(group) <= set(names):
                raise ValueError(f"a group {str(list(group))[:40]} of tensors that the model does not have")
        if (len(values["shapes"]), len(values["broken_by_eps"])) != (len(names), len(groups)):
            raise ValueError("there must be as many shapes as names, and as many broken_by_eps as groups")
        rows, gap, blocks = values["row_invariant"], values["gap"], values.get("blocks")
        found = [Block(one["name"], one["dim"], tuple(one["rows"])) for one in blocks or ()]
        by_name = {block.name: tuple(other for other in found if other.name == block.name) for block in found}
        return cls(
            names=names,
            shapes=tuple(tuple(shape) for shape in values["shapes"]),
            generators=np.array(generators, dtype=np.float64).reshape(len(generators), len(names)),
            groups=groups,
            rescalings=[dict(exponents) for exponents in values["rescalings"]],
            without_effect=tuple(values["without_effect"]),
            dimension=values["dimension"],
            gap=inf if gap is None else gap,
            broken_by_eps=tuple(nan if change is None else change for change in values["broken_by_eps"]),
            row_invariant=None if rows is None else tuple(rows),
            notes=tuple(values["notes"]),
            blocks=None if blocks is None else by_name,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the symmetries into a JSON file, which :meth:`load` reads.

        The file holds what :meth:`to_dict` gives and ``"format": 1``. It appears whole or not at all, in the place of
        one that is there. A gap that is infinite and changes of the output that are not finite are null in it; the
        latter come back as NaN.

        Args:
            path: Where to write, such as ``twin.json``; its folder must be there.

        Raises:
            OSError: The file cannot be written.
        """
        files.write(path, self.to_dict())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read the symmetries that :meth:`save` wrote.

        Args:
            path: A file of :meth:`save`.

        Returns:
            Symmetries that are equal to the ones saved in every field.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It cannot be read.
            ValueError: It is damaged, of another kind, or of a format of a later version; the sentence names the file.

        Example:
            >>> twin = nn.Sequential(nn.Linear(6, 8, bias=False), nn.LayerNorm(8))
            >>> onsphere.find_symmetries(twin, torch.randn(16, 6)).save("twin.json")
            >>> onsphere.Symmetries.load("twin.json").groups
            [('0.weight',)]
        """
        return files.read(path, cls.from_dict)

    def groups_for(self, model: nn.Module, *, spheres: Spheres = "joint", only: Only = None) -> list[dict[str, Any]]:
        """Parameter groups for a model that was not searched itself: its tensors are found by their names.

        Search once, on a twin that is whole, in one process and as small as you like, and use the answer for the model
        that is sharded, large or not initialised yet. The two must have the same layers, frozen and tied alike; sizes
        may differ, of which none should be 1 in the twin alone. What wrappers put into names is passed over on both
        sides: ``module.`` (DataParallel, DistributedDataParallel), ``_orig_mod.`` (torch.compile, also of a part),
        ``_checkpoint_wrapped_module.``, ``_fsdp_wrapped_module.``. A tied parameter may be listed under any of its
        names. Values are not looked at: parameters may be DTensors or on the meta device, and nothing is said about an
        eps that is too large for the model's norms (:func:`onsphere.sphere_groups` warns).

        Make the groups after what replaces parameters (``fully_shard``; ``to_empty`` of a model on the meta device;
        ``load_state_dict(..., assign=True)``), or pass them through :func:`onsphere.regroup` then.

        Args:
            model: The model to train.
            spheres: As for :func:`onsphere.sphere_groups`: ``joint``, ``groups``, ``rows`` or ``blocks``.
            only: As for :func:`onsphere.sphere_groups`: ``"weights"``, globs of the twin's names, or None for all.

        Returns:
            What ``sphere_groups(model, batch, spheres=spheres, only=only)`` gives for a model like the twin:
            dictionaries ``{"params": [...], "names": [...], "sphere": "joint"}`` (or ``"rows"``), and last, if there
            are other trainable parameters, one with ``"sphere": None``. ``names`` are the model's own. Where a sphere
            can be chosen in several ways (values or outputs of attention) the twin's sizes have decided.

        Raises:
            ValueError: ``spheres`` is something else, or is ``rows`` (``blocks``) and the search was without
                ``rows=True`` (``blocks=True``), or on a twin with too few rows (of another size along blocks); the
                model has trainable parameters that the search did not see, lacks some that it saw, or has them frozen
                or tied otherwise (the first 5 are listed); shapes differ in their number of dimensions; a parameter is
                lazy.
            SymmetryError: The search found nothing that is scale-invariant, or ``only`` picks none of it, or a part of
                some tensors that are scale-invariant only together.
            TypeError: ``only`` is neither a string nor several.

        Example:
            >>> def network(width):
            ...     return nn.Sequential(nn.Linear(6, width, bias=False), nn.BatchNorm1d(width), nn.Linear(width, 2))
            >>> symmetries = onsphere.find_symmetries(network(8), torch.randn(16, 6))
            >>> with torch.device("meta"):
            ...     large = network(10**6)
            >>> [(group["sphere"], group["names"]) for group in symmetries.groups_for(large)]
            [('joint', ['0.weight']), (None, ['1.weight', '1.bias', '2.weight', '2.bias'])]
        """
        return groups_of(self, model, spheres, only)

    def constraints(self, groups: Iterable[Mapping[str, Any]]) -> Constraints:
        """Which fixed norms are a choice of gauge, and which fix something of the function.

        A fixed norm of a tensor that is not scale-invariant may still cost nothing: a gain behind it, or a matrix that
        it is multiplied with, can make up for it.

        Args:
            groups: Groups with ``sphere`` and the model's ``names``, chosen or found; groups without a sphere are free.
                On a joint sphere only the common norm is fixed.

        Returns:
            For each sphere ``exact``, ``gauge`` or ``constraint``, how many degrees of freedom of the function are
            fixed in all, and which, in words.

        Raises:
            ValueError: No group has a sphere, a group has no names or unknown ones, a tensor is on two spheres, or the
                rows of a tensor are to be fixed that are not known to be free one by one.

        Example:
            >>> network = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
            >>> found = onsphere.find_symmetries(network, torch.randn(16, 4))
            >>> spheres = [{"params": [network[i].weight], "names": [f"{i}.weight"], "sphere": "joint"} for i in (0, 2)]
            >>> found.constraints(spheres[:1]).count, found.constraints(spheres).count
            (0, 1)
        """
        return constraints_of(self, groups)

    def to_frame(self) -> Any:
        """One row a parameter as a pandas data frame (needs pandas)."""
        rows = [
            {
                "name": name,
                "shape": shape,
                "numbers": prod(shape),
                "role": self.role(name),
                "row_invariant": None if self.row_invariant is None else name in self.row_invariant,
            }
            for name, shape in zip(self.names, self.shapes, strict=True)
        ]
        return frame(rows)

    def __repr__(self) -> str:
        numbers = sum(
            prod(shape) for name, shape in zip(self.names, self.shapes, strict=True) if name in self.invariant
        )
        total = sum(map(prod, self.shapes))
        lines = [
            f"Symmetries: {len(self.names)} parameters, {self.dimension} symmetries, gap {self.gap:.0e}; "
            f"{len(self.groups)} scale-invariant groups hold {100 * numbers / max(total, 1):.3g} % of {total:,} numbers"
        ]
        width = max((len(name) for name in self.names), default=0)
        marked = set(self.row_invariant or ())
        for name, shape in zip(self.names, self.shapes, strict=True):
            size = "x".join(map(str, shape)) or "scalar"
            row = ", row by row" if name in marked else ""
            own = (self.blocks or {}).get(name)
            row += f", {said_of_blocks(own)}" if own else ""
            lines.append(f"  {name:<{width}}  {size:>16}  {self.role(name)}{row}")
        lines += [
            f"  {sentence}" for sentence in self.sentences() if not sentence.endswith("has no effect on the output")
        ]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def _listing(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _power(exponent: float) -> str:
    return "a" if exponent == 1 else f"a^{_plain(exponent)}"


def _damage(change: float) -> str:
    return "exactly, eps included" if change < 1e-12 else f"up to eps: doubling changes the output by {change:.0e}"


def _plain(value: float) -> int | float:
    return round(value) if float(value).is_integer() else float(value)
