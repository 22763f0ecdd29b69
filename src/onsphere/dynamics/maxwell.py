"""Maxwell relations of training on the sphere, tested on measured entropies by regression.

Each free energy's mixed second derivatives agree, and with the gas law that fixes how the entropy S moves with the
hyper-parameters when the temperature stays:

    protocol      relation                                    from
    "fixed_elr"   dS/dln wd = -(d - 1)/2                      (dS/dp)_T = -(dV/dT)_p
    "fixed_lr"    dS/dln lr - dS/dln wd = (d - 1)/2           (dS/dp)_T = -(dV/dT)_p, along lr wd = const
    "sphere"      dS/dln r = d - 1                            (dS/dV)_T = (dp/dT)_V

How S depends on the temperature is the problem's own affair, so the regression leaves it free: a polynomial in ln elr
(or in ln(lr wd), which sets the temperature at a fixed lr), and one slope across it.

Source: Sadrtdinov et al. 2025 (ideal gas).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, numbers, positive
from onsphere.dynamics._protocols import Protocol, given, known, only, rate_and_decay, space_dimension

__all__ = ["MaxwellTest", "maxwell_residuals"]

_NAMES = {"fixed_elr": "dS/dln wd", "fixed_lr": "dS/dln lr - dS/dln wd", "sphere": "dS/dln r"}


@dataclass(frozen=True, repr=False)
class MaxwellTest:
    """One Maxwell relation against measured entropies.

    Attributes:
        protocol: What was held fixed.
        name: The derivative, in words.
        slope: The measured value of that derivative.
        error: Standard error of the slope.
        expected: The value that the relation gives it.
        points: How many runs the slope is from.
    """

    protocol: Protocol
    name: str
    slope: float
    error: float
    expected: float
    points: int

    @property
    def residual(self) -> float:
        """The measured slope minus the expected one."""
        return self.slope - self.expected

    @property
    def relative_residual(self) -> float:
        """The residual over the expected value's size."""
        return self.residual / abs(self.expected)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the residuals included."""
        return asdict(self) | {"residual": self.residual, "relative_residual": self.relative_residual}

    def __repr__(self) -> str:
        return (
            f"MaxwellTest: {self.name} = {self.slope:.4f} +- {self.error:.4f}, expected {self.expected:g} "
            f"({self.protocol}, {self.points} runs)"
        )


def maxwell_residuals(
    protocol: Protocol,
    *,
    dimension: int,
    entropy: Numbers,
    elr: Numbers | None = None,
    lr: Numbers | None = None,
    weight_decay: Numbers | None = None,
    radius: Numbers | None = None,
    entropy_error: Numbers | None = None,
    degree: int = 2,
) -> MaxwellTest:
    """Test the protocol's Maxwell relation on runs of one problem at different hyper-parameters.

    Args:
        protocol: What was held fixed.
        dimension: Dimension d of the weights, at least 2.
        entropy: S of each run at its norm, ``[n]``, nats, up to a common constant.
        elr: Effective learning rate, for "fixed_elr" and "sphere"; ``[n]`` or one number.
        lr: Learning rate, for "fixed_lr"; ``[n]`` or one number.
        weight_decay: Coupled weight decay, for "fixed_elr" and "fixed_lr"; ``[n]`` or one number.
        radius: Radius of the sphere in each run, for "sphere"; ``[n]``.
        entropy_error: Standard errors of the entropies, ``[n]`` or one number, independent between runs. They weight
            the regression and give the slope's error; without them the scatter around the fit does.
        degree: Highest power of ln temperature left free; fewer where there are fewer temperatures.

    Returns:
        Measured and expected slope.

    Raises:
        ValueError: An argument is missing, not wanted or not positive; lengths disagree; or the runs do not tell the
            slope: too few, or no variation of the weight decay (the radius) at one temperature.
    """
    d, s = space_dimension(dimension), np.atleast_1d(numbers("entropy", entropy))
    if known(protocol) == "fixed_lr":
        only(protocol, elr=elr, radius=radius)
        rate, decay = rate_and_decay(protocol, lr, weight_decay)
        heat, across, expected = np.log(rate * decay), (np.log(rate) - np.log(decay)) / 2, (d - 1) / 2
    else:
        only(protocol, lr=lr, **({"radius": radius} if protocol == "fixed_elr" else {"weight_decay": weight_decay}))
        heat = np.log(positive("elr", given(protocol, elr=elr)))
        if protocol == "fixed_elr":
            across = np.log(positive("weight_decay", given(protocol, weight_decay=weight_decay)))
            expected = -(d - 1) / 2
        else:
            across, expected = np.log(positive("radius", given(protocol, radius=radius))), d - 1.0
    spread = None if entropy_error is None else positive("entropy_error", entropy_error)
    try:
        heat, across = np.broadcast_to(heat, s.shape), np.broadcast_to(across, s.shape)
        spread = None if spread is None else np.broadcast_to(spread, s.shape)
    except ValueError:
        raise ValueError(
            f"entropy has shape {s.shape}, but the hyper-parameters or errors do not broadcast to it; give one a run"
        ) from None
    if not isinstance(degree, int) or degree < 0:
        raise ValueError(f"degree is {degree!r}; it must be a non-negative integer")
    slope, error = _slope(s.ravel(), heat.ravel(), across.ravel(), None if spread is None else spread.ravel(), degree)
    return MaxwellTest(protocol, _NAMES[protocol], slope, error, expected, s.size)


def _slope(s: Array, heat: Array, across: Array, spread: Array | None, degree: int) -> tuple[float, float]:
    """The coefficient of ``across`` beside a polynomial in ``heat``, and its standard error."""
    reach = np.ptp(heat)
    flat = reach <= 1e-9 * max(1.0, float(np.abs(heat).max()))
    u = np.zeros_like(heat) if flat else (heat - heat.mean()) / reach
    powers = min(degree, len(np.unique(np.round(u, 9))) - 1)
    columns = [u**k for k in range(powers + 1)] + [across - across.mean()]
    design = np.stack(columns, axis=1)
    weight = np.ones_like(s) if spread is None else 1 / spread
    solution, _, rank, _ = np.linalg.lstsq(design * weight[:, None], s * weight, rcond=1e-9)
    unknowns = design.shape[1]
    if rank < unknowns:
        raise ValueError(
            "the runs do not tell the slope: at one temperature the weight decay (on the sphere: the radius) must vary "
            "too; give a grid of both"
        )
    spare = len(s) - unknowns
    if spread is None and spare < 1:
        raise ValueError(
            f"{len(s)} runs are too few for {unknowns} coefficients and an error; give at least {unknowns + 1}, lower "
            "degree, or give entropy_error"
        )
    covariance = np.linalg.inv((design * weight[:, None]).T @ (design * weight[:, None]))
    scatter = 1.0 if spread is not None else float(((s - design @ solution) ** 2).sum() / spare)
    return float(solution[-1]), float(np.sqrt(covariance[-1, -1] * scatter))
