"""The isotropic-noise model: the toy on which the thermodynamics of training is exact.

    L(x) = 1 + <mu, x / |x|>,  |mu| = 1;   gradient at x: (tangent part of mu + sigma xi) / |x|

xi is standard normal noise in the tangent space, fresh at every step. As steps get small the directions settle into
the von Mises-Fisher law exp(-L / T), see :mod:`onsphere.dynamics.von_mises_fisher`. One step of each protocol, with g
the gradient on the unit sphere, r = |x| and the ELR elr = lr / r²:

    "fixed_elr"   x <- (1 - elr r² wd) x - elr r g     lr follows the norm: lr = elr r²
    "fixed_lr"    x <- (1 - lr wd) x - (lr / r) g      plain SGD with coupled weight decay
    "sphere"      x <- r (x - elr r g) / |x - elr r g|

In directions x̂ = x / r all are x̂ <- b x̂ - elr g, normalised, b = 1 - lr wd; the length of the right side multiplies r
unless the sphere holds it.

Source: Sadrtdinov et al. 2025 (ideal gas), isotropic noise model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers
from onsphere.dynamics._protocols import Protocol, space_dimension
from onsphere.dynamics.entropy import sphere_entropy
from onsphere.dynamics.free_energy import GasState
from onsphere.dynamics.thermodynamics import pressure, stationary_radius, temperature, total_entropy
from onsphere.dynamics.toys._noise import settings, simulate
from onsphere.dynamics.toys._shared import count
from onsphere.dynamics.von_mises_fisher import vmf_energy, vmf_entropy, vmf_sample
from onsphere.results import frame, plain_values

__all__ = ["NoiseRun", "simulate_noise", "vmf_energy", "vmf_entropy", "vmf_sample"]

#: Relaxation times of the directions and of the norm to wait for, between two samples for the entropy, and to measure.
_WAIT, _WAIT_NORM, _APART, _MEASURE = 10, 5, 4, 120
_MOST_STEPS = 10**6


@dataclass(frozen=True, repr=False)
class NoiseRun:
    """What :func:`simulate_noise` returns. Arrays have one entry a setting: ``[settings]``.

    Attributes:
        protocol: What was held fixed.
        dimension: Dimension d of the weights.
        copies: Independent copies of each setting.
        burn_in: Steps taken before recording began.
        steps: Steps that were recorded.
        elr: Effective learning rate; for "fixed_lr" the mean of lr / r².
        lr: Learning rate; otherwise the mean of elr r².
        weight_decay: Coupled weight decay; 0 for "sphere".
        sigma: Noise scale on the unit sphere; TrSigma = sigma² (d - 1).
        temperature: T by the protocol's law, without the discrete correction.
        energy: Mean loss U over copies and steps.
        energy_error: Standard error of the energy, from the spread over copies.
        radius: Root mean square of the norm.
        radius_error: Standard error of the radius.
        pressure: For "sphere" from the growth of the norm in a step, otherwise the weight decay.
        pressure_error: Standard error of the pressure; 0 where the pressure is given.
        gradient_norm: Root mean square of |grad L| on the unit sphere, for the discrete correction.
        sphere_entropy: Entropy of the directions by k nearest neighbours, nats.
        entropy: S = sphere_entropy + (d - 1) <ln r>, nats.
        entropy_error: Standard error of the entropy, without the estimator's bias.
        points: The directions the entropy is from ``[settings, N, d]``; mu is the first axis. Not in ``to_dict``.
    """

    protocol: Protocol
    dimension: int
    copies: int
    burn_in: int
    steps: int
    elr: Array
    lr: Array
    weight_decay: Array
    sigma: Array
    temperature: Array
    energy: Array
    energy_error: Array
    radius: Array
    radius_error: Array
    pressure: Array
    pressure_error: Array
    gradient_norm: Array
    sphere_entropy: Array
    entropy: Array
    entropy_error: Array
    points: Array = field(compare=False)

    @property
    def state(self) -> GasState:
        """The measured states; T by the protocol's law."""
        volume = self.radius**2 / 2
        return GasState(self.dimension, self.temperature, self.pressure, volume, self.energy, self.entropy)

    @property
    def predicted(self) -> GasState:
        """The closed forms: von Mises-Fisher at T, norm or pressure by the protocol's law."""
        return self._law(np.zeros_like(self.gradient_norm))

    @property
    def corrected(self) -> GasState:
        """As ``predicted``, with the discrete correction from the measured ``gradient_norm``."""
        return self._law(self.gradient_norm)

    def _law(self, gradient_norm: Array) -> GasState:
        rates = {"lr": self.lr} if self.protocol == "fixed_lr" else {"elr": self.elr}
        decay = {} if self.protocol == "sphere" else {"weight_decay": self.weight_decay}
        moments = {"noise_trace": self.sigma**2 * (self.dimension - 1), "gradient_norm": gradient_norm}
        known_at = decay if self.protocol == "fixed_lr" else {}
        heat = temperature(self.protocol, dimension=self.dimension, **rates, **known_at, **moments)
        r = stationary_radius(self.protocol, **rates, **decay, **moments) if decay else self.radius
        force = self.weight_decay if decay else pressure(self.dimension, heat, r)
        entropy = total_entropy(self.dimension, vmf_entropy(self.dimension, heat), r)
        return GasState(self.dimension, heat, force, r**2 / 2, vmf_energy(self.dimension, heat), entropy)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the points; the predicted ones as ``predicted``."""
        values = {f.name: plain_values(getattr(self, f.name)) for f in fields(self) if f.name != "points"}
        return values | {"predicted": plain_values(self.predicted.to_dict())}

    def to_frame(self) -> Any:
        """One row a setting, as a pandas data frame, with ``predicted_`` columns beside the measured ones.

        Raises:
            ImportError: pandas is not installed.
        """
        law = self.predicted
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "points"}
        columns |= {f"predicted_{name}": getattr(law, name) for name in ("energy", "radius", "pressure", "entropy")}
        each = {name: np.broadcast_to(value, self.energy.shape).tolist() for name, value in columns.items()}
        return frame([dict(zip(each, row, strict=True)) for row in zip(*each.values(), strict=True)])

    def __repr__(self) -> str:
        lines = [
            f"NoiseRun: {self.protocol}, d={self.dimension}, {self.copies} copies, {self.burn_in} + {self.steps} steps",
            "  T           U          (law)       r          (law)       p          (law)       S        (law)",
        ]
        law = self.predicted
        pairs = [(self.energy, law.energy), (self.radius, law.radius), (self.pressure, law.pressure)]
        for i, heat in enumerate(self.temperature):
            shown = "  ".join(f"{got[i]:<9.4g}  {want[i]:<9.4g}" for got, want in pairs)
            lines.append(f"  {heat:<10.4g}  {shown}  {self.entropy[i]:<7.3f}  {law.entropy[i]:<7.3f}")
        return "\n".join(lines)


def simulate_noise(
    dimension: int,
    *,
    protocol: Protocol,
    elr: Numbers | None = None,
    lr: Numbers | None = None,
    weight_decay: Numbers | None = None,
    sigma: Numbers = 1.0,
    radius: Numbers | None = None,
    copies: int = 512,
    steps: int | None = None,
    burn_in: int | None = None,
    sample_every: int = 10,
    entropy_points: int = 4096,
    neighbours: int = 3,
    seed: int = 0,
) -> NoiseRun:
    """Simulate the isotropic-noise model at several settings at once, in independent copies from random directions.

    ``elr``, ``lr``, ``weight_decay``, ``sigma`` and ``radius`` broadcast against each other; each entry is a setting.
    Agreement with the laws is at first order in the ELR: U differs by a relative elr / 2, which ``NoiseRun.corrected``
    accounts for, and then by the order of the squared angle of a step.

    Args:
        dimension: Dimension d of the weights, at least 2.
        protocol: What is held fixed.
        elr: Effective learning rate, for "fixed_elr" and "sphere".
        lr: Learning rate, for "fixed_lr".
        weight_decay: Coupled weight decay, for "fixed_elr" and "fixed_lr".
        sigma: Noise scale on the unit sphere, per tangent coordinate.
        radius: The sphere's radius (default 1); otherwise where the norm starts (default: half of the copies 1.25 times
            above and half below the predicted norm, so that agreement is found, not put in).
        copies: Independent copies, at least 2; errors come from their spread.
        steps: Recorded steps; default: 120 relaxation times 1 / elr of the directions, or more where the entropy's
            points need it, to lie four apart.
        burn_in: Steps before; default: 10 relaxation times 1 / elr of the directions or 5 of the norm (1 / (4 lr wd) at
            a fixed lr, 1 / s² at a fixed ELR, s the angle of a step), whichever is more.
        sample_every: Steps between two readings of U, r and p.
        entropy_points: Directions kept for the entropy, evenly over copies and recorded steps. Closer in time than a
            few 1 / elr they are not independent, and the entropy comes out too small.
        neighbours: Which nearest neighbour k the entropy estimate goes by.
        seed: Seed of everything that is drawn at random.

    Returns:
        Measured quantities with errors; ``.state``, ``.predicted`` and ``.corrected`` as :class:`GasState`.

    Raises:
        ValueError: An argument is missing, not wanted or not positive; ``weight_decay`` is at least 1 / lr; no norm is
            stationary; a count is too small; or the default number of steps exceeds a million (give ``steps`` and
            ``burn_in``, or a larger ELR).
    """
    d, copies, every = space_dimension(dimension), count("copies", copies, least=2), count("sample_every", sample_every)
    kept = count("entropy_points", entropy_points, least=count("neighbours", neighbours) + 2)
    s = settings(d, protocol, elr, lr, weight_decay, sigma, radius)
    snapshots = -(-kept // copies)
    relaxation = (1 / s.elr).max()
    wait = max(_WAIT * relaxation, _WAIT_NORM * s.norm_relaxation)
    length = max(_APART * snapshots, _MEASURE) * relaxation
    if (steps is None and length > _MOST_STEPS) or (burn_in is None and wait > _MOST_STEPS):
        raise ValueError(
            f"these settings need {wait:.2g} steps to settle and {length:.2g} to measure (smallest elr "
            f"{s.elr.min():g}); beyond {_MOST_STEPS:.0e} give burn_in and steps, or raise the learning rate"
        )
    burn = int(np.ceil(wait)) if burn_in is None else count("burn_in", burn_in, least=0)
    length = int(np.ceil(length)) if steps is None else count("steps", steps, least=max(snapshots, every))
    readings, points = simulate(
        d, s, copies, burn, length, every, snapshots, np.random.default_rng(count("seed", seed, least=0))
    )
    points = points[:, :kept]
    mean = {name: value.mean(axis=1) for name, value in readings.items()}
    error = {name: value.std(axis=1, ddof=1) / np.sqrt(copies) for name, value in readings.items()}
    found = [sphere_entropy(cloud, neighbours=neighbours) for cloud in points]
    directions, spread = np.array([e.value for e in found]), np.array([e.error for e in found])
    root = np.sqrt(mean["square"])
    sphere = protocol == "sphere"
    return NoiseRun(
        protocol=protocol,
        dimension=d,
        copies=copies,
        burn_in=burn,
        steps=length,
        elr=mean["rate"] if protocol == "fixed_lr" else s.rate,
        lr=s.rate if protocol == "fixed_lr" else s.rate * mean["square"],
        weight_decay=s.decay,
        sigma=s.sigma,
        temperature=s.temperature,
        energy=mean["energy"],
        energy_error=error["energy"],
        radius=s.radius if sphere else root,
        radius_error=np.zeros_like(root) if sphere else error["square"] / (2 * root),
        pressure=mean["pressure"] if sphere else s.decay,
        pressure_error=error["pressure"] if sphere else np.zeros_like(root),
        gradient_norm=np.sqrt(mean["gradient"]),
        sphere_entropy=directions,
        entropy=directions + (d - 1) * mean["log_radius"],
        entropy_error=np.hypot(spread, (d - 1) * error["log_radius"]),
        points=points,
    )
