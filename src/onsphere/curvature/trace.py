"""The trace of the Hessian or Gauss-Newton matrix, in total and for groups of parameters, from random probes.

With probes v of independent entries of mean 0 and variance 1, and Q an orthonormal basis of a sketch A S:

    hutchinson   tr A = E <v, A v>
    hutch++      tr A = tr(Qᵀ A Q) + E <u, A u>,  u = (1 - Q Qᵀ) v

The first term of Hutch++ is exact, so only what the sketch missed is left to chance: a matrix whose rank is at most
the sketch's width has no error at all. The same products give the trace of every diagonal block g (a layer, say):
<v, A v> is a sum over entries, and its part over g has the mean tr A_gg. In Hutch++ that part is
sum_i <q_i, A q_i>_g + E <u, A u>_g, since A = A Q Qᵀ + A (1 - Q Qᵀ).

On the sphere A = ρ² P H P - ρ <g, x̂> P maps the tangent space to itself and the position to 0, so that any probe
counts by its tangent part alone.

Source: Hutchinson 1990; Meyer, Musco, Musco & Woodruff 2021 (Hutch++, algorithm 1). The split into blocks is
derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.curvature.operators import hessian_operator
from onsphere.functional.batches import Batches, Forward
from onsphere.functional.selection import Selection, select_parameters
from onsphere.results import frame

if TYPE_CHECKING:
    from onsphere.curvature.operators import HessianOperator, Kind

__all__ = ["Distribution", "Estimate", "Method", "estimate_trace", "trace"]

Method = Literal["hutchinson", "hutch++"]
Distribution = Literal["rademacher", "gaussian"]
Blocks = Mapping[str, list[slice]]

#: Probes that tell how far a finite difference is off by its step.
_STEPPED = 4


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated from random probes.

    Attributes:
        value: The estimate of the number, unbiased.
        standard_error: Standard deviation of ``value`` over draws of the probes, estimated from these; 0 where
            nothing was left to chance. It is no bound: about one estimate in three is further off. NaN where the
            products are in half precision (``coarse``), which chance is the least of.
        probes: Random vectors that ``standard_error`` comes from.
        products: Matrix-vector products that were spent.
        dimension: Eigenvalues that were summed; ``value / dimension`` is the mean eigenvalue.
        groups: Estimates for diagonal blocks, by name, from the same products.
        coarse: None, or what the products were computed in where that is coarser than float32.
    """

    value: float
    standard_error: float
    probes: int
    products: int
    dimension: int
    groups: Mapping[str, Estimate] = field(default_factory=dict)
    coarse: str | None = None

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        groups = f", {len(self.groups)} groups" if self.groups else ""
        error = f" ± {self.standard_error:.2g}" if self.coarse is None else ""
        known = "" if self.coarse is None else f", no standard error: products in {self.coarse}"
        return f"Estimate({self.value:.6g}{error}, {self.probes} probes{groups}{known})"

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of plain numbers; ``groups`` is a dictionary of such dictionaries."""
        plain = {"value": self.value, "standard_error": self.standard_error, "probes": self.probes}
        groups = {name: estimate.to_dict() for name, estimate in self.groups.items()}
        return plain | {"products": self.products, "dimension": self.dimension, "groups": groups, "coarse": self.coarse}

    def to_frame(self) -> Any:
        """A pandas table: one row for each group and, last, the row ``total`` (needs pandas)."""
        columns = ["group", "value", "standard_error", "dimension"]
        rows = [(n, e.value, e.standard_error, e.dimension) for n, e in {**self.groups, "total": self}.items()]
        return frame(rows, columns=columns)


def trace(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Batches,
    parameters: Selection = None,
    sphere: bool = False,
    mode: Literal["train", "eval"] = "train",
    *,
    kind: Kind = "hessian",
    method: Method = "hutchinson",
    probes: int = 100,
    distribution: Distribution = "rademacher",
    groups: Mapping[str, Any] | Literal["parameters"] | None = None,
    seed: int = 0,
    forward: Forward | None = None,
) -> Estimate:
    """The trace of the curvature matrix of a loss, with a standard error, and its parts for groups of parameters.

    Args:
        model: Any module. It comes back as it was: buffers, gradients, flags, random state.
        loss_fn: ``loss_fn(output, target) -> scalar``, a mean over examples.
        batches: One ``(input, target)`` pair or an iterable of them; weighted by their numbers of examples.
        parameters: What to differentiate by: None (all that require grad), names, patterns, tensors, or a group of
            :func:`onsphere.sphere_groups`.
        sphere: Take the parameters as one point of the unit sphere: the trace of the Riemannian Hessian.
        mode: ``train``: batch norm uses the statistics of each batch; ``eval``: running statistics.
        kind: ``hessian``, ``ggn`` or ``finite-difference``.
        method: ``hutchinson`` or ``hutch++``. Hutch++ wins where few eigenvalues hold most of the trace, and keeps
            ``probes / 3`` vectors of the parameters' size in memory.
        probes: Matrix-vector products to spend; at least 2, for Hutch++ at least 4 (a third each for the sketch, for
            its exact trace, and for probes of the rest).
        distribution: Distribution of the probes' entries. ``rademacher`` (signs) never has the larger variance. The
            sketch of Hutch++ is Gaussian.
        groups: None; ``"parameters"`` (each parameter tensor); or a dictionary from names to parameters, given as
            in ``parameters``, which may overlap and need not cover everything. A group's value is the trace of its
            diagonal block.
        seed: Seed of the random probes.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Returns:
        The trace; ``groups`` holds the blocks.

    Raises:
        ValueError: An argument out of its range, a group outside the selected parameters, a product that is not
            finite, or anything the curvature operator refuses (empty batches, NaN weights, a loss that is no mean).

    Source: see the module.
    """
    _check(method, probes, distribution)
    operator = hessian_operator(model, loss_fn, batches, parameters, sphere, mode, kind=kind, forward=forward)
    blocks = _blocks(model, groups, operator.slices)
    found = estimate_trace(
        operator.product,
        operator.size,
        method=method,
        probes=probes,
        distribution=distribution,
        blocks=blocks,
        dimension=operator.dimension,
        device=operator.device,
        seed=seed,
    )
    if operator.kind == "finite-difference":
        found = _with_steps(found, operator, blocks, distribution, seed)
    return found if operator.coarse is None else without_error(found, operator.coarse)


def without_error(estimate: Estimate, coarse: str) -> Estimate:
    """The estimate without a standard error, because products were computed in ``coarse``."""
    groups = {name: without_error(group, coarse) for name, group in estimate.groups.items()}
    return replace(estimate, standard_error=math.nan, groups=groups, coarse=coarse)


def _with_steps(
    estimate: Estimate, operator: HessianOperator, blocks: Blocks, distribution: Distribution, seed: int
) -> Estimate:
    """The estimate with what the step of finite differences leaves out added to its standard error.

    The step's error is the same in every probe, in the mean; from a few of them its mean is known well enough.
    """
    generator = torch.Generator().manual_seed(seed)
    probes = [
        _draw(operator.size, distribution, generator, operator.device) for _ in range(min(_STEPPED, estimate.probes))
    ]
    if not probes:
        probes = [_draw(operator.size, distribution, generator, operator.device)]
    off = np.abs(np.array([_parts(v, _finite(operator.step_error(v)), blocks) for v in probes])).mean(0)
    groups = {
        name: replace(group, standard_error=math.hypot(group.standard_error, float(error)))
        for (name, group), error in zip(estimate.groups.items(), off[1:], strict=True)
    }
    return replace(
        estimate,
        standard_error=math.hypot(estimate.standard_error, float(off[0])),
        products=estimate.products + 2 * len(probes),
        groups=groups,
    )


def estimate_trace(
    product: Callable[[Tensor], Tensor],
    size: int,
    *,
    method: Method = "hutchinson",
    probes: int = 100,
    distribution: Distribution = "rademacher",
    blocks: Blocks | None = None,
    dimension: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Estimate:
    """The trace of any symmetric matrix that is known by its products with vectors.

    Args:
        product: From a float64 vector ``[size]`` to the matrix times it.
        size: Number of rows and columns of the matrix.
        method: ``hutchinson`` or ``hutch++``; see :func:`trace` for when which wins.
        probes: Matrix-vector products to spend; at least 2, for Hutch++ at least 4.
        distribution: Distribution of the probes' entries, as for :func:`trace`.
        blocks: Slices of the vector that make up each group whose block trace is wanted.
        dimension: Rank that the matrix can have, if it is known to be below ``size``.
        device: The device on which the vectors lie.
        seed: Seed of the random probes.

    Returns:
        The estimate; ``groups`` as ``blocks``.

    Raises:
        ValueError: An argument out of its range, or a product that is not finite.

    Example:
        >>> estimate_trace(lambda v: 2 * v, 10, probes=4).value
        20.0
    """
    _check(method, probes, distribution)
    dimension = size if dimension is None else dimension
    blocks = blocks or {}
    generator = torch.Generator().manual_seed(seed)
    width = min(probes // 3, dimension) if method == "hutch++" else 0
    exact, basis = np.zeros(1 + len(blocks)), None
    if width:
        # Gaussian: a few short sign vectors can be linearly dependent, and the sketch would miss a direction.
        sketch = [_finite(product(_draw(size, "gaussian", generator, device))) for _ in range(width)]
        basis = torch.linalg.qr(torch.stack(sketch, dim=1)).Q
        exact = sum((_parts(q, _finite(product(q)), blocks) for q in basis.T), exact)
    samples = np.zeros((0 if width == dimension else probes - 2 * width, 1 + len(blocks)))
    for row in samples:
        v = _draw(size, distribution, generator, device)
        v = v if basis is None else v - basis @ (basis.T @ v)
        row[:] = _parts(v, _finite(product(v)), blocks)
    count = len(samples)
    values = exact + (samples.mean(0) if count else 0.0)
    errors = samples.std(0, ddof=1) / np.sqrt(count) if count else np.zeros_like(exact)
    sizes = {name: sum(s.stop - s.start for s in slices) for name, slices in blocks.items()}

    def estimate(i: int, rows: int, groups: Mapping[str, Estimate]) -> Estimate:
        return Estimate(float(values[i]), float(errors[i]), count, 2 * width + count, rows, groups)

    return estimate(0, dimension, {name: estimate(1 + i, sizes[name], {}) for i, name in enumerate(blocks)})


def _draw(size: int, distribution: Distribution, generator: torch.Generator, device: torch.device | str) -> Tensor:
    """A random vector, the same on every device."""
    if distribution == "rademacher":
        probe = torch.randint(2, (size,), generator=generator).to(torch.float64) * 2 - 1
    else:
        probe = torch.randn(size, generator=generator, dtype=torch.float64)
    return probe.to(device)


def _parts(v: Tensor, image: Tensor, blocks: Blocks) -> NDArray[np.float64]:
    """<v, A v>, in total and over the entries of each group."""
    terms = v * image
    return np.array([float(terms.sum()), *(sum(float(terms[s].sum()) for s in slices) for slices in blocks.values())])


def _finite(image: Tensor) -> Tensor:
    if not bool(torch.isfinite(image).all()):
        raise ValueError("a matrix-vector product is not finite; check the loss and the weights, or use float64")
    return image


def _blocks(model: torch.nn.Module, groups: Any, slices: Mapping[str, slice]) -> Blocks:
    """The slices of each group that the user named."""
    if groups is None:
        return {}
    if isinstance(groups, str) and groups == "parameters":
        return {name: [where] for name, where in slices.items()}
    if not isinstance(groups, Mapping):
        raise ValueError(f"groups is {groups!r}; it must be None, 'parameters' or a dictionary of parameters")
    blocks = {}
    for group, wanted in groups.items():
        names = select_parameters(model, wanted)
        outside = [name for name in names if name not in slices]
        if outside:
            raise ValueError(f"group {group!r} holds {outside[0]!r}, which is not among the selected parameters")
        blocks[str(group)] = [slices[name] for name in names]
    return blocks


def _check(method: str, probes: int, distribution: str) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}; it must be one of {', '.join(get_args(Method))}")
    if distribution not in get_args(Distribution):
        raise ValueError(f"distribution is {distribution!r}; it must be one of {', '.join(get_args(Distribution))}")
    least = 4 if method == "hutch++" else 2
    if isinstance(probes, bool) or int(probes) != probes or probes < least:
        raise ValueError(f"probes is {probes}; {method} needs a whole number of at least {least} for a standard error")
