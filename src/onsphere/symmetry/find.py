"""Every scaling symmetry of a model: the null space of its log-scale Jacobian, read as groups and rescalings.

f(exp(c_1 t) θ_1, exp(c_2 t) θ_2, ...) = f(θ) for all t is linear in c, so all symmetries are the null space of one
matrix (:mod:`onsphere.symmetry.null_space`), computed on an exact copy (:mod:`onsphere.symmetry.probe`), read as small
integers (:mod:`onsphere.symmetry.lattice`), and each certified by rescaling the copy by powers of two, which is exact
in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from onsphere.functional.untouched import untouched_random_state
from onsphere.symmetry.blocks import find_blocks
from onsphere.symmetry.lattice import disjoint_groups, generators_of, largest_sphere, remaining_generators, row_reduced
from onsphere.symmetry.null_space import NullSpace, find_null_space
from onsphere.symmetry.probe import Probe, SymmetryError
from onsphere.symmetry.result import Symmetries

__all__ = ["INVARIANT_BELOW", "find_symmetries"]

#: A relative change of the output below this, after a rescaling in float64, counts as none. Clear cases
#: lie below 1e-9 (invariant; mostly exactly 0) or above 1e-6.
INVARIANT_BELOW = 1e-8

#: What exponents of a symmetry may miss of the row-reduced constraints.
_EXACT = 1e-6

#: Rows of a tensor whose products of gradient and weight stay below this part of its gradient's size are invariant.
_ROW_ZERO = 1e-9


def find_symmetries(
    model: nn.Module,
    *inputs: Any,
    output: Callable[[Any], Any] | None = None,
    rows: bool = False,
    blocks: bool = False,
    unused: Literal["raise", "ignore"] = "raise",
    **kwargs: Any,
) -> Symmetries:
    """All ways to rescale a model's trainable tensors without changing its output.

    Call it as the model is called: ``find_symmetries(model, batch)``; 8 to 64 examples are enough. It costs about one
    backward pass for each tensor that is not invariant and a few forward passes, in float64 on a copy. The model, its
    buffers, gradients, flags and hooks and all random states stay as they are; hooks are not run.

    Args:
        model: Any module. Frozen parameters are left out, tied ones are one.
        *inputs: Positional arguments of one call; tensors, nests of tensors, anything the model takes.
        output: Picks what to look at from the model's output; by default every floating-point tensor in it, but those
            of a cache for generation.
        rows: Also find the tensors that are invariant row by row (slices along dimension 0).
        blocks: Also find blocks of slices of one tensor that are invariant by themselves: heads, parts of a fused
            matrix, experts, channel groups. It costs about one backward pass for each slice of the tensor that has most
            of them that are not invariant one by one.
        unused: What to do about a parameter that the output is computed without: raise an error, or list it in
            ``without_effect``.
        **kwargs: Keyword arguments of the same call.

    Returns:
        The symmetries; printing them shows a table.

    Raises:
        SymmetryError: No clear gap; a forward pass that fails or is not deterministic; an output that shows nothing
            (no floating-point tensor, zeros, not finite) or does not depend on a parameter; nothing trainable.
        ValueError: ``unused`` is something else.

    Source: Euler's identity for functions of degree 0, as used for one joint norm by Kodryan et al., NeurIPS 2022.

    Example:
        >>> find_symmetries(nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 2)), torch.randn(16, 8)).groups
        [('0.weight', '0.bias')]
    """
    if unused not in ("raise", "ignore"):
        raise ValueError(f"unused is {unused!r}; it must be 'raise' or 'ignore'")
    with untouched_random_state(model), torch.inference_mode(False):
        probe = Probe(model, inputs, kwargs, output=output)
        found = Analysis(probe, rows=rows, unused=unused)
        groups, rescalings = found.groups, found.rescalings()
        for indices in groups:
            found.certify(dict.fromkeys(indices, 1))
        for exponents in rescalings:
            found.certify(exponents)
        notes = list(probe.notes)
        if found.space.differences:
            notes.append("the output has no backward pass: differences in log-scale were used")
        names, shapes = tuple(probe.names), tuple(tuple(p.shape) for p in probe.parameters)
        row_invariant = tuple(names[i] for i in found.row_invariant()) if rows else None
        own_blocks, said = find_blocks(probe) if blocks else (None, [])
        arguments = probe.arguments
        del probe, found.probe
        broken = _broken_by_eps(model, *arguments, output, groups)
    together = [tuple(names[i] for i in group) for group in groups]
    exponents_of = [{names[i]: c for i, c in exponents.items()} for exponents in rescalings]
    without_effect = tuple(names[i] for i in found.idle)
    return Symmetries(
        names=names,
        shapes=shapes,
        generators=generators_of(names, together, exponents_of, without_effect),
        groups=together,
        rescalings=exponents_of,
        without_effect=without_effect,
        dimension=found.space.dimension,
        gap=found.space.gap,
        broken_by_eps=broken,
        row_invariant=row_invariant,
        blocks=own_blocks,
        notes=(*notes, *said),
    )


class Analysis:
    """The null space of a probe's model and what follows from it.

    Args:
        probe: The copy of the model that is rescaled and run.
        rows: Whether to look at rows as well.
        unused: What to do about parameters that the output does not depend on, as for :func:`find_symmetries`.

    Attributes:
        space: The null space of the rows, the symmetries to first order.
        idle: Indices of parameters without effect.
    """

    def __init__(self, probe: Probe, *, rows: bool = False, unused: str = "ignore") -> None:
        self.probe = probe
        if unused == "raise":
            outside = [probe.names[i] for i in _outside_graph(probe)]
            if outside:
                more = " and others" if len(outside) > 5 else ""
                raise SymmetryError(
                    f"the output does not depend on {', '.join(outside[:5])}{more}: "
                    "nothing can be said about their scale. Freeze them (requires_grad_(False)), give an output= that "
                    "uses them, or pass unused='ignore'"
                )
        self.sizes = [p.numel() for p in probe.parameters]
        self.space: NullSpace = find_null_space(probe, row_products=rows)
        self.constraints = row_reduced(self.space.constraints)
        silent = [i for i in range(len(self.sizes)) if not np.abs(self.constraints[:, i]).any()]
        self.idle = [i for i in silent if probe.change_when_replaced(i) < INVARIANT_BELOW]

    @cached_property
    def sphere(self) -> list[int]:
        """Indices on the largest joint sphere."""
        allowed = [i for i in range(len(self.sizes)) if i not in set(self.idle)]
        return largest_sphere(self.constraints, self.sizes, allowed) if self.space.dimension else []

    @cached_property
    def groups(self) -> list[list[int]]:
        """The joint sphere as groups that cannot be split."""
        return disjoint_groups(self.constraints, self.sphere)

    def symmetric(self, indices: Sequence[int]) -> bool:
        """Whether some tensors may be multiplied by one common number."""
        return not len(self.constraints) or float(np.abs(self.constraints[:, list(indices)].sum(1)).max()) < _EXACT

    def restrict(self, indices: Sequence[int]) -> None:
        """From now on only these tensors, which are a symmetry, are the joint sphere."""
        self.sphere = list(indices)
        self.groups = disjoint_groups(self.constraints, self.sphere)

    def rescalings(self) -> list[dict[int, int | float]]:
        """Generators that complete the groups to all symmetries, index -> exponent."""
        n = len(self.sizes)
        have = np.zeros((0, n))
        for indices in [*self.groups, *([i] for i in self.idle)]:
            have = np.concatenate([have, _unit(indices, n)[None]])
        found = remaining_generators(self.constraints, have, self.space.dimension, self.idle)
        if len(have) + len(found) < self.space.dimension:
            raise SymmetryError(
                f"{self.space.dimension} symmetries were seen, but only {len(have) + len(found)} have small whole "
                "numbers as exponents: something in the model depends on the scale of a tensor in an unusual way"
            )
        return [{int(i): _exponent(row[i]) for i in np.flatnonzero(np.abs(row) > 1e-9)} for row in found]

    def row_invariant(self) -> list[int]:
        """Indices of tensors with several rows, each of which may be rescaled by itself."""
        products = self.space.row_products
        if products is None:
            return []
        idle = set(self.idle)
        return [
            i
            for i, rows in enumerate(products)
            if rows is not None and len(rows) > 1 and i not in idle and float(rows.max()) < _ROW_ZERO
        ]

    def certify(self, exponents: Mapping[int, int | float]) -> None:
        """Rescale the copy by powers of two in both directions; the output must stay (SymmetryError)."""
        for factor in (2.0, 0.5):
            change = self.probe.change_by({i: factor**c for i, c in exponents.items()})
            if not change < INVARIANT_BELOW:
                names = ", ".join(f"{self.probe.names[i]}^{c}" for i, c in exponents.items())
                raise SymmetryError(
                    f"gradients say that scaling {names} changes nothing, but a factor of {factor:g} changes the "
                    f"output by a relative {change:.1e}. Something in the model is not smooth in the scale (a "
                    "threshold, a rounding): probe a part of it"
                )


def _outside_graph(probe: Probe) -> Iterable[int]:
    with torch.enable_grad():
        for parameter in probe.parameters:
            parameter.requires_grad_()
        outputs = [t for t in probe.outputs() if t.requires_grad]
        if not outputs:
            return []
        try:
            gradients = torch.autograd.grad(
                outputs, probe.parameters, [torch.ones_like(t) for t in outputs], allow_unused=True
            )
        except (RuntimeError, NotImplementedError):
            return []
    return [i for i, g in enumerate(gradients) if g is None]


def _broken_by_eps(
    model: nn.Module,
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
    output: Callable[[Any], Any] | None,
    groups: Sequence[Sequence[int]],
) -> tuple[float, ...]:
    if not groups:
        return ()
    try:
        plain = Probe(model, inputs, kwargs, output=output, exact=False)
    except SymmetryError:
        return tuple(float("nan") for _ in groups)
    return tuple(plain.change_by(dict.fromkeys(indices, 2.0)) for indices in groups)


def _unit(indices: Sequence[int], n: int) -> NDArray[np.float64]:
    vector = np.zeros(n)
    vector[list(indices)] = 1
    return vector


def _exponent(value: float) -> int | float:
    return round(value) if abs(value - round(value)) < 1e-6 else float(value)
