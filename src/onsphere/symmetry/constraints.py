"""Which fixed norms are a choice of gauge, and which take something away from the function.

Rescaling by the symmetries with coefficients a changes the log of tensor i's norm by (Gᵀ a)_i, G [s, n] the generators,
and the log of the norm of sphere j, to first order, by

    (Mᵀ a)_j,   M = G Sᵀ [s, m],   S_ji = ||w_i||² / rho_j²  for the tensors i of sphere j, else 0

Any norms of the m spheres can be reached without changing the function if M has rank m. If not, every y with M y = 0
is a product prod_j rho_j^y_j that no symmetry changes: a property of the function, which fixed norms fix.

Source: the Lie algebra of the rescalings is that of :func:`onsphere.find_symmetries`; the rule is derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onsphere.groups import given_names, sphere_kind
from onsphere.products import squares
from onsphere.results import frame
from onsphere.symmetry.lattice import integers, row_reduced

if TYPE_CHECKING:
    from onsphere.symmetry.result import Symmetries

__all__ = ["Constraints", "FixedNorm", "constraints_of"]

Status = Literal["exact", "gauge", "constraint"]

#: Singular values of M below this part of the largest are zeros.
_ZERO = 1e-9


@dataclass(frozen=True)
class FixedNorm:
    """One sphere of a set, or all the rows of one tensor.

    Attributes:
        names: The tensors whose common norm is fixed.
        sphere: ``joint``, or ``rows`` where each row has a norm of its own.
        status: ``exact``: the function does not depend on this norm; ``gauge``: it does, but other rescalings make up
            for any change of it, also while all the other norms are fixed; ``constraint``: with the others fixed, this
            one fixes a property of the function.
    """

    names: tuple[str, ...]
    sphere: str
    status: Status


@dataclass(frozen=True, repr=False)
class Constraints:
    """What fixing the norms of a set of spheres does to the functions that a model can be.

    Attributes:
        norms: Every sphere of the set.
        count: How many degrees of freedom of the function are fixed; 0 if all norms are a choice of gauge.
        sentences: One for each of these, in words.
    """

    norms: tuple[FixedNorm, ...]
    count: int
    sentences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    def to_frame(self) -> Any:
        """One row a tensor as a pandas data frame (needs pandas)."""
        return frame(
            [
                {"name": name, "sphere": norm.sphere, "of": len(norm.names), "status": norm.status}
                for norm in self.norms
                for name in norm.names
            ]
        )

    def __repr__(self) -> str:
        counts = [f"{sum(n.status == s for n in self.norms)} {s}" for s in ("exact", "gauge", "constraint")]
        head = f"Constraints: {len(self.norms)} spheres ({', '.join(counts)}), {self.count} degrees of freedom fixed"
        rows = [(n.names[0] + (f" and {len(n.names) - 1} more" if n.names[1:] else ""), n) for n in self.norms]
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"  {name:<{width}}  {norm.sphere:<5}  {norm.status}" for name, norm in rows]
        return "\n".join([head, *lines, *(f"  {sentence}" for sentence in self.sentences)])


def constraints_of(found: Symmetries, groups: Iterable[Mapping[str, Any]]) -> Constraints:
    """What :meth:`onsphere.Symmetries.constraints` returns, and raises."""
    column = {name: i for i, name in enumerate(found.names)}
    generators = found.generators
    spheres: list[tuple[tuple[str, ...], str]] = []
    shares: list[NDArray[np.float64]] = []
    seen: set[str] = set()
    for group in groups:
        kind = sphere_kind(group)
        if kind is None:
            continue
        names = _names(group, column)
        if kind in ("columns", "blocks"):
            raise ValueError(
                f"what fixing the norms of the {kind} of {names[0]} takes away is not counted; give the tensor "
                "one joint sphere"
            )
        twice = seen.intersection(names)
        if twice:
            raise ValueError(f"{min(twice)} is on two spheres; a tensor has one norm")
        seen.update(names)
        if kind == "rows":
            spheres += [((name,), kind) for name in names]
            shares += [_unit(column[name], len(column)) for name in names]
            continue
        spheres.append((names, kind))
        shares.append(_shares(group["params"], [column[name] for name in names], len(column)))
    if not spheres:
        raise ValueError('no group has a sphere; give groups with "sphere": "joint" or "rows"')
    _check_rows(found, spheres)
    selection = np.stack(shares)
    exact = [_spanned(generators, [column[name] for name in names]) for names, _ in spheres]
    matrix = generators @ selection.T
    left_over = _null_space(matrix)
    involved = np.abs(left_over).max(axis=0, initial=0.0) > 1e-6
    norms = tuple(
        FixedNorm(names, kind, "constraint" if fixed else ("exact" if free else "gauge"))
        for (names, kind), fixed, free in zip(spheres, involved, exact, strict=True)
    )
    return Constraints(norms, len(left_over), tuple(_sentence(y, [names for names, _ in spheres]) for y in left_over))


def _names(group: Mapping[str, Any], known: Mapping[str, int]) -> tuple[str, ...]:
    names = given_names(group)
    if names is None:
        raise ValueError(
            'a sphere group has no "names"; give those of the model, as onsphere.sphere_groups(model, batch) does'
        )
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]} is not among the trainable parameters whose symmetries were searched for")
    return tuple(names)


def _shares(tensors: Sequence[Tensor], columns: Sequence[int], size: int) -> NDArray[np.float64]:
    """What part of a joint sphere's squared norm each tensor has, [n]; of one alone all, whatever its norm."""
    share = np.zeros(size)
    found = np.array([float(square.detach()) for square in squares(tensors)]) if len(tensors) > 1 else np.ones(1)
    if not found.sum() > 0:
        raise ValueError("all tensors of a joint sphere are zero, so that they have no norm to fix")
    share[list(columns)] = found / found.sum()
    return share


def _check_rows(found: Symmetries, spheres: Sequence[tuple[tuple[str, ...], str]]) -> None:
    """Rows that are not free one by one may be so together with other tensors' columns, which nobody has looked for."""
    free = set(found.row_invariant or ())
    for names, kind in spheres:
        if kind == "rows" and names[0] not in free:
            raise ValueError(
                f"the rows of {names[0]} are not known to be scale-invariant one by one, so what fixing each of their "
                "norms takes away cannot be told"
                + ("; search with rows=True" if found.row_invariant is None else "; give the tensor one joint sphere")
            )


def _unit(index: int, size: int) -> NDArray[np.float64]:
    vector = np.zeros(size)
    vector[index] = 1.0
    return vector


def _spanned(generators: NDArray[np.float64], members: Sequence[int]) -> bool:
    """Whether scaling these tensors by one number is a symmetry."""
    if not len(generators):
        return False
    target = np.zeros(generators.shape[1])
    target[list(members)] = 1.0
    solution = np.linalg.lstsq(generators.T, target, rcond=None)[0]
    return bool(np.abs(generators.T @ solution - target).max() < 1e-9)


def _null_space(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The y with M y = 0, [nullity, m], of small whole numbers where there are such."""
    size = matrix.shape[1]
    if not len(matrix):
        return np.eye(size)
    _, values, directions = np.linalg.svd(matrix, full_matrices=True)
    rank = int((values > _ZERO * max(values[0], 1.0)).sum())
    return integers(row_reduced(directions[rank:])) if rank < size else np.zeros((0, size))


def _sentence(exponents: NDArray[np.float64], names: Sequence[tuple[str, ...]]) -> str:
    places = np.flatnonzero(np.abs(exponents) > 1e-6)
    exponents = exponents * np.sign(exponents[places[0]])
    if len(places) == 1:
        return f"{_who(names[places[0]])}: nothing makes up for this norm, so that it is fixed in the function itself"
    powers = [f"‖{_who(names[int(i)])}‖{'' if exponents[i] == 1 else f'^{exponents[i]:g}'}" for i in places]
    return f"{' · '.join(powers)}: no rescaling changes this product, so that it is fixed in the function itself"


def _who(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more together"
