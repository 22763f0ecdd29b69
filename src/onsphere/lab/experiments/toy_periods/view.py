"""What the page of the periods toy draws: the traces of the run, and one period cut out of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.toy_periods.result import ToyPeriodsResult
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_table

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trace:
    """The course of the run, each ``[T]``.

    Attributes:
        steps: Step numbers.
        elr: Effective learning rate lr / norm².
        log_radius: log of the norm.
        loss: F.
        gradient: Norm of the gradient at the unit sphere.
    """

    steps: Array
    elr: Array
    log_radius: Array
    loss: Array
    gradient: Array

    @property
    def radius(self) -> Array:
        """The norm; 0 where it is too small for a float."""
        return np.asarray(np.exp(self.log_radius))

    def between(self, first: int, last: int) -> Trace:
        """The part from one step to another, both included."""
        here = (self.steps >= first) & (self.steps <= last)
        return Trace(self.steps[here], self.elr[here], self.log_radius[here], self.loss[here], self.gradient[here])


def trace(run: Run) -> Trace:
    """The traces, read back from the run's folder."""
    table = {name: column.astype(np.float64) for name, column in read_table(run.table_path("trace")).items()}
    return Trace(table["step"], table["elr"], table["log_radius"], table["loss"], table["effective_gradient_norm"])


def one_period(result: ToyPeriodsResult, whole: Trace) -> Trace | None:
    """The last whole period, from peak to peak of the ELR; None with fewer than two jumps."""
    if len(result.jumps) < 2:
        return None
    return whole.between(result.jumps[-2].step, result.jumps[-1].step)
