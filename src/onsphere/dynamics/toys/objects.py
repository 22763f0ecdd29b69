"""Objects on a sphere: the toy on which over-parameterised training differs from under-parameterised training.

    L_i(x) = <a_i, x>² / |x|²,   |a_i| = 1;   L = mean of L_i = x̂ᵀ A x̂,   A = mean of a_i a_iᵀ

One object, drawn anew at every step, gives the gradient g = 2 <a_i, x̂> (a_i - <a_i, x̂> x̂) on the unit sphere, and
x̂ <- (x̂ - elr g) / |x̂ - elr g|. The minima are ±v, v the eigenvector of the smallest eigenvalue of A.

Where fewer objects than dimensions have a common orthogonal direction, L(v) = 0 and every L_i is least there: all noise
vanishes at the minimum (*over-parameterised*). Otherwise noise stays (*under-parameterised*), and at small ELRs

    C: stationary covariance of the tangent part,  H C + C H = elr Sigma,   H = 2 (A - L(v)), Sigma that of g at v
    U = L(v) + elr TrSigma / 4,   S = ln det(2 pi e C) / 2 + ln 2 (two minima),   T = dU/dS = elr TrSigma / (2 (d - 1))

Near the minimum of an over-parameterised model a step multiplies the distance by I - 2 elr a_i a_iᵀ, which shortens it
below an ELR of 1, only turns it at 1 and lengthens it above: it converges below :data:`THRESHOLD` and not beyond.

Source: Sadrtdinov et al. 2025 (free energy), toy example in three dimensions; the laws are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, numbers, positive
from onsphere.dynamics.entropy import sphere_entropy
from onsphere.dynamics.toys._shared import count
from onsphere.results import frame, plain_values

__all__ = ["MOST_STEPS", "OVER", "THRESHOLD", "UNDER", "ObjectsRun", "objects_steps", "simulate_objects"]

#: ELR below which an over-parameterised model converges.
THRESHOLD = 1.0

#: Two objects at 60 degrees, which e_3 is orthogonal to; and a third one that leaves no such direction.
OVER = ((np.sqrt(3) / 2, 0.5, 0.0), (np.sqrt(3) / 2, -0.5, 0.0))
UNDER = (*OVER, (0.5, 0.5, np.sqrt(0.5)))

#: Mean loss of a copy below which it has converged to zero.
CONVERGED = 1e-12
#: Relaxation times to wait, to measure, and from one direction that the entropy is from to the next.
_WAIT, _MEASURE, _APART = 20, 40, 4
#: Steps at the least, where relaxation takes a few: near a threshold it is slow whatever the ELR.
_LEAST, MOST_STEPS = 2000, 10**6
#: Share of the directions that must differ for their entropy to be estimated.
_SPREAD = 0.9


@dataclass(frozen=True, repr=False)
class ObjectsRun:
    """What :func:`simulate_objects` returns. Arrays have one entry an ELR: ``[E]``.

    Attributes:
        elr: The effective learning rates, one a setting.
        copies: Independent copies of each.
        dimension: d of the weights.
        over: Whether the smallest loss is zero.
        least: The smallest loss L(v).
        burn_in: Steps before recording ``[E]``.
        steps: Steps that were recorded ``[E]``.
        energy: U, mean loss over copies and steps.
        energy_error: Its standard error, from the spread over copies.
        predicted_energy: L(v) + elr TrSigma / 4; zero for an over-parameterised model.
        converged: Share of the copies whose loss has gone to zero.
        entropy: S of the directions by nearest neighbours, nats; NaN where copies have converged, or stay on a few
            directions, as two objects do just above an ELR of 1.
        entropy_error: Standard error of the entropy.
        predicted_entropy: By the law for small ELRs; NaN for an over-parameterised model.
        temperature: elr TrSigma / (2 (d - 1)) with TrSigma at the minimum: the law for small ELRs.
        signal_to_noise: |grad L| / sqrt(TrSigma), root mean squares over the directions visited; NaN where converged.
    """

    elr: Array
    copies: int
    dimension: int
    over: bool
    least: float
    burn_in: Array
    steps: Array
    energy: Array
    energy_error: Array
    predicted_energy: Array
    converged: Array
    entropy: Array
    entropy_error: Array
    predicted_entropy: Array
    temperature: Array
    signal_to_noise: Array
    points: Array = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the points."""
        return {one.name: plain_values(getattr(self, one.name)) for one in fields(self) if one.name != "points"}

    def to_frame(self) -> Any:
        """One row an ELR, as a pandas data frame (ImportError without pandas)."""
        columns = {name: value for name, value in self.to_dict().items() if isinstance(value, list)}
        return frame([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])

    def __repr__(self) -> str:
        kind = "over" if self.over else "under"
        lines = [
            f"ObjectsRun: {kind}-parameterised, d={self.dimension}, {self.copies} copies, least loss {self.least:.4g}",
            "  ELR        U          (law)      S        T (law)    S/N      converged",
        ]
        for i, elr in enumerate(self.elr):
            lines.append(
                f"  {elr:<9.4g}  {self.energy[i]:<9.4g}  {self.predicted_energy[i]:<9.4g}  {self.entropy[i]:<7.3f}  "
                f"{self.temperature[i]:<9.4g}  {self.signal_to_noise[i]:<7.3f}  {100 * self.converged[i]:.0f} %"
            )
        return "\n".join(lines)


def simulate_objects(
    elr: Numbers,
    *,
    objects: Numbers = UNDER,
    copies: int = 512,
    entropy_points: int = 4096,
    neighbours: int = 3,
    seed: int = 0,
) -> ObjectsRun:
    """Train on one random object a step, at several effective learning rates, in independent copies.

    Args:
        elr: Effective learning rates ``[E]``, positive.
        objects: a_i ``[n, d]``, n and d at least 2; only their directions count.
        copies: Independent copies of each ELR, from uniformly random directions, at least 2.
        entropy_points: Directions that the entropy is from, spread over copies and recorded steps.
        neighbours: Which nearest neighbour the entropy estimate goes by.
        seed: Seed of everything that is drawn at random; other ELRs have other noise.

    Returns:
        Energies, entropies and signal-to-noise ratios with their laws. At an ELR of exactly 1/2 a step puts the weights
        onto great circles, and the entropy is not one of a density.

    Raises:
        ValueError: An argument is out of range, a vector is zero, the smallest loss is reached in more than one
            direction, or an ELR is so small that it takes more than a million steps to settle.

    Source: Sadrtdinov et al. 2025 (free energy), toy example.

    Example:
        >>> from onsphere.dynamics.toys import simulate_objects
        >>> run = simulate_objects([0.05, 0.1], copies=64, entropy_points=128)
        >>> bool(run.energy[0] < run.energy[1])
        True
    """
    model, rates = _Model.of(objects), np.atleast_1d(positive("elr", elr)).ravel()
    copies, kept = count("copies", copies, least=2), count("entropy_points", entropy_points, least=neighbours + 2)
    count("neighbours", neighbours)
    snapshots = -(-kept // copies)
    wait, length = objects_steps(rates, objects=objects, snapshots=snapshots)
    if (wait + length).max() > MOST_STEPS:
        raise ValueError(
            f"elr is {rates.min():g}, which takes {(wait + length).max():,} steps to settle and be measured, more than "
            f"{MOST_STEPS:,}; give a larger one"
        )
    children = np.random.SeedSequence(count("seed", seed, least=0)).spawn(len(rates))
    found: dict[str, list[float]] = {name: [] for name in _MEASURED}
    clouds = []
    for rate, child, before, during in zip(rates, children, wait, length, strict=True):
        one, cloud = _run(model, float(rate), copies, int(before), int(during), snapshots, child)
        cloud = cloud[:kept]
        clouds.append(cloud)
        one |= {"entropy": np.nan, "entropy_error": np.nan, "signal_to_noise": np.nan}
        if one["converged"] == 0:
            one["signal_to_noise"] = model.signal_to_noise(cloud)
            if len(np.unique(cloud.round(9), axis=0)) > _SPREAD * len(cloud):  # a few directions have no density
                estimate = sphere_entropy(cloud, neighbours=neighbours)
                one |= {"entropy": estimate.value, "entropy_error": estimate.error}
        for name, values in found.items():
            values.append(one[name])
    return ObjectsRun(
        elr=rates,
        copies=copies,
        dimension=model.dimension,
        over=model.over,
        least=model.least,
        burn_in=wait,
        steps=length,
        predicted_energy=model.least + rates * model.trace / 4,
        predicted_entropy=model.entropy(rates),
        temperature=rates * model.trace / (2 * (model.dimension - 1)),
        points=np.stack(clouds),
        **{name: np.array(values) for name, values in found.items()},
    )


def objects_steps(elr: Numbers, *, objects: Numbers = UNDER, snapshots: int = 1) -> tuple[Array, Array]:
    """How many steps :func:`simulate_objects` takes to settle and to measure at each ELR, by its slowest direction.

    Args:
        elr: Effective learning rates ``[E]``.
        objects: The objects a_i ``[n, d]``.
        snapshots: Directions of each copy that the entropy is from.
    """
    relaxation = 1 / (np.atleast_1d(positive("elr", elr)).ravel() * _Model.of(objects).slowest)
    spans = (_WAIT * relaxation, max(_MEASURE, _APART * snapshots) * relaxation)
    wait, length = (np.maximum(np.ceil(span), _LEAST).astype(int) for span in spans)
    return wait, length


_MEASURED = ("energy", "energy_error", "converged", "entropy", "entropy_error", "signal_to_noise")


@dataclass(frozen=True)
class _Model:
    """The objects ``[n, d]``, the smallest loss, a basis ``[d, d - 1]`` of the tangent space at v, H, Sigma."""

    objects: Array
    least: float
    basis: Array
    curvatures: Array
    noise: Array

    @classmethod
    def of(cls, objects: Numbers) -> _Model:
        a = numbers("objects", objects)
        if a.ndim != 2 or min(a.shape) < 2:
            raise ValueError(f"objects has shape {a.shape}; give at least two vectors of at least two coordinates")
        norms = np.linalg.norm(a, axis=1, keepdims=True)
        if not (norms > 0).all():
            raise ValueError("an object is zero and has no direction; leave it out")
        a = a / norms
        values, vectors = np.linalg.eigh(a.T @ a / len(a))
        if values[1] - values[0] < 1e-6:
            raise ValueError(
                "the smallest loss is reached in more than one direction (two eigenvalues of the objects' second "
                "moment are equal), for which there is no law here; add an object"
            )
        v, basis = vectors[:, 0], vectors[:, 1:]
        at = 2 * (a @ v)[:, None] * (a @ basis)
        least = max(float(values[0]), 0.0)
        return cls(a, 0.0 if least < 1e-12 else least, basis, 2 * (values[1:] - values[0]), at.T @ at / len(a))

    @property
    def dimension(self) -> int:
        return int(self.objects.shape[1])

    @property
    def over(self) -> bool:
        return self.least == 0.0

    @property
    def trace(self) -> float:
        """TrSigma at the minimum."""
        return 0.0 if self.over else float(np.trace(self.noise))

    @property
    def slowest(self) -> float:
        """The least curvature, by which the slowest direction relaxes."""
        return float(self.curvatures.min())

    def entropy(self, rates: Array) -> Array:
        """S by the law for small ELRs ``[E]``: H is diagonal in the basis, so that C is known in closed form."""
        if self.over:
            return np.full_like(rates, np.nan)
        unit = self.noise / (self.curvatures[:, None] + self.curvatures[None, :])
        sign, log_determinant = np.linalg.slogdet(2 * np.pi * np.e * unit)
        if not sign > 0:
            return np.full_like(rates, np.nan)
        return np.asarray((log_determinant + (self.dimension - 1) * np.log(rates)) / 2 + np.log(2))

    def losses(self, x: Array) -> Array:
        """L at directions ``[N, d]``."""
        return np.asarray(((x @ self.objects.T) ** 2).mean(axis=1))

    def signal_to_noise(self, x: Array) -> float:
        """|grad L| over sqrt(TrSigma) at directions ``[N, d]``, root mean squares."""
        inner = x @ self.objects.T
        each = 2 * inner[..., None] * (self.objects[None] - inner[..., None] * x[:, None, :])
        mean = each.mean(axis=1)
        noise = ((each - mean[:, None]) ** 2).sum(axis=2).mean(axis=1)
        return float(np.sqrt((mean**2).sum(axis=1).mean() / noise.mean()))


def _run(
    model: _Model, rate: float, copies: int, wait: int, length: int, snapshots: int, child: np.random.SeedSequence
) -> tuple[dict[str, float], Array]:
    """One ELR: what was measured, and directions ``[snapshots * copies, d]``."""
    rng = np.random.default_rng(child)
    x = rng.standard_normal((copies, model.dimension))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    total, last, cloud = np.zeros(copies), np.zeros(copies), []
    due = {wait + round(length * (i + 1) / snapshots) for i in range(snapshots)}
    for step in range(1, wait + length + 1):
        a = model.objects[rng.integers(len(model.objects), size=copies)]
        inner = (a * x).sum(axis=1, keepdims=True)
        x = x - 2 * rate * inner * (a - inner * x)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        if step > wait:
            last = model.losses(x)
            total += last
        if step in due:
            cloud.append(x)
    means = total / length
    measured = {
        "energy": float(means.mean()),
        "energy_error": float(means.std(ddof=1) / np.sqrt(copies)),
        "converged": float((last < CONVERGED).mean()) if model.over else 0.0,
    }
    return measured, np.concatenate(cloud)
