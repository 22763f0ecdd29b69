"""What a simulation of the periodic toy returns: jumps, periods, and the traces for phase loops."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics._checks import Array
from onsphere.results import frame, plain_values

__all__ = ["PeriodsRun"]


@dataclass(frozen=True, repr=False, eq=False)
class PeriodsRun:
    """What :func:`onsphere.dynamics.toys.simulate_periods` found: K runs. Norm and ELR are those of all pairs together.

    Attributes:
        lr: Learning rate of every run, ``[K]``.
        weight_decay: Coupled weight decay, ``[K]``.
        floor: Relative floor of |x|, ``[K]``.
        alphas: Coefficients of the pairs, ``[n]``.
        steps: Steps of every run.
        burn_in: Steps in which jumps are not counted, ``[K]``.
        jumps: For every run the steps at which the ELR peaked before it fell, ascending.
        period: Median distance of consecutive jumps, ``[K]``; NaN with fewer than two.
        predicted_period: The period that :func:`onsphere.dynamics.toys.period_law` gives, in steps, ``[K]``.
        log_radius: log of the norm after the last step, ``[K]``: the norm itself may be too small for a float.
        fractions: x_i²/(x_i²+y_i²) after the last step, ``[K, n]``.
        seed: Seed of the random starts; None if the start was given.
        backend: What ran: ``"numpy"`` or ``"numba"``. The numbers do not depend on it.
        recorded_steps: Steps before which the traces were read, ``[T]``; None without a record, as the next four.
        recorded_log_radius: log of the norm, ``[K, T]``.
        recorded_loss: Loss F of all pairs, ``[K, T]``.
        recorded_effective_gradient_norm: Norm of the gradient at the unit sphere, ``[K, T]``.
        recorded_angle: Angle of the step from there, radians, ``[K, T]``.
    """

    lr: Array
    weight_decay: Array
    floor: Array
    alphas: Array
    steps: int
    burn_in: NDArray[np.int64]
    jumps: tuple[NDArray[np.int64], ...]
    period: Array
    predicted_period: Array
    log_radius: Array
    fractions: Array
    seed: int | None
    backend: str
    recorded_steps: Any = None
    recorded_log_radius: Any = None
    recorded_loss: Any = None
    recorded_effective_gradient_norm: Any = None
    recorded_angle: Any = None

    @property
    def periods(self) -> tuple[NDArray[np.int64], ...]:
        """For every run the distances of consecutive jumps, steps."""
        return tuple(np.diff(found) for found in self.jumps)

    @property
    def radius(self) -> Array:
        """The norm after the last step, ``[K]``; 0 where it is too small for a float."""
        return np.asarray(np.exp(self.log_radius))

    @property
    def recorded_radius(self) -> Any:
        """The norm, ``[K, T]``; None without a record."""
        return None if self.recorded_log_radius is None else np.exp(self.recorded_log_radius)

    @cached_property
    def recorded_elr(self) -> Any:
        """The effective learning rate lr / norm², ``[K, T]``, infinite beyond floats; None without a record."""
        if self.recorded_log_radius is None:
            return None
        with np.errstate(over="ignore"):
            return np.exp(np.log(self.lr)[:, None] - 2 * self.recorded_log_radius)

    def rows(self) -> list[dict[str, float]]:
        """One row a run: lr, weight_decay, floor, period, predicted_period, number of jumps, norm at the end."""
        names = ("lr", "weight_decay", "floor", "period", "predicted_period", "radius")
        columns = [getattr(self, name).tolist() for name in names]
        return [
            dict(zip(names, row, strict=True)) | {"jumps": len(jumps)}
            for row, jumps in zip(zip(*columns, strict=True), self.jumps, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Fields, periods, norm and ELR as plain numbers and nested lists; None for what is not finite."""
        names = [field.name for field in fields(self)] + ["periods", "radius", "recorded_radius", "recorded_elr"]
        return {name: plain_values(getattr(self, name)) for name in names}

    def to_frame(self) -> Any:
        """A pandas data frame of :meth:`rows`.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame(self.rows())

    def __repr__(self) -> str:
        runs, shown = len(self.lr), 6
        lines = [f"PeriodsRun: {len(self.alphas)} pairs, {runs} runs of {self.steps} steps"]
        lines += [
            f"  lr {row['lr']:.4g}, weight decay {row['weight_decay']:.4g}, floor {row['floor']:.3g}: "
            f"{row['jumps']} jumps, period {row['period']:.5g}, predicted {row['predicted_period']:.5g}"
            for row in self.rows()[:shown]
        ]
        return "\n".join(lines + ([f"  and {runs - shown} more"] if runs > shown else []))
