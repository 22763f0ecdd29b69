"""What the page draws of every run: its curve in the phase diagram and its effective learning rate over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.conventional.result import ConventionalResult
from onsphere.lab.experiments.conventional.spec import SETUPS, Setup
from onsphere.lab.experiments.conventional.sphere_map import SphereMap
from onsphere.lab.experiments.regimes.classify import Regime
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.copies import lr_factors
from onsphere.lab.population.course import courses, thinned
from onsphere.lab.report.smoothing import binned_mean
from onsphere.lab.store import Run

__all__ = ["NAMES", "Curve", "curves_of", "rate_name", "sphere_map_of"]

PHASE_BINS, ELR_BINS = 28, 150
Array = NDArray[np.float64]

#: Set-ups as the page writes them.
NAMES: Mapping[Setup, str] = {
    "sphere": "sphere",
    "invariant": "whole space, scale-invariant weights",
    "all": "ordinary network, all parameters",
}


@dataclass(frozen=True, eq=False)
class Curve:
    """One run as it is drawn.

    Attributes:
        setup: Its set-up.
        lr: Learning rate; on the sphere the effective one.
        seed: Seed.
        regime: Its label.
        end_elr: Effective learning rate of its last quarter; None if there is none.
        steps: Mean step of each point of the phase diagram.
        loss: Mean minibatch loss there.
        gradient: Mean effective gradient norm there.
        elr_steps: Steps of the course of the ELR.
        elr: The course, thinned so that the lowest and highest of each stretch stay.
    """

    setup: Setup
    lr: float
    seed: int
    regime: Regime
    end_elr: float | None
    steps: Array
    loss: Array
    gradient: Array
    elr_steps: Array
    elr: Array


def rate_name(setup: Setup) -> str:
    """What a set-up's learning rate is called."""
    return "ELR" if setup == "sphere" else "lr"


def curves_of(run: Run, result: ConventionalResult) -> list[Curve]:
    """The runs as they are drawn, by set-up, learning rate, seed."""
    known = {(r.setup, r.lr, r.seed): r for r in result.runs}
    found = []
    for setup in result.setups:
        steps = result.spec["steps"]
        factors = lr_factors(result.spec["schedule"] if setup == "all" else "constant", steps, 0, steps)
        for folder in run.shard_folders(setup):
            shard = ShardFolder(folder)
            invariant = result.engine["invariant"][setup]
            for course in courses(shard.readings(), shard.copies(), invariant, factors):
                one = known[setup, course.copy.lr, course.copy.seed]
                elr = course.elr if setup != "sphere" else np.full(len(course.loss), one.lr)
                step = np.arange(len(course.loss), dtype=np.float64)
                points, loss, gradient = binned_mean(step, course.loss, course.gradient, bins=PHASE_BINS, spacing="log")
                elr_steps, thin = thinned(elr, ELR_BINS)
                found.append(
                    Curve(
                        setup=setup,
                        lr=one.lr,
                        seed=one.seed,
                        regime=one.regime,
                        end_elr=one.elr,
                        steps=points,
                        loss=loss,
                        gradient=gradient,
                        elr_steps=elr_steps,
                        elr=thin,
                    )
                )
    return sorted(found, key=lambda curve: (SETUPS.index(curve.setup), curve.lr, curve.seed))


def sphere_map_of(result: ConventionalResult) -> SphereMap | None:
    """The sphere's map; None without runs on the sphere."""
    own = result.of("sphere")
    return SphereMap.of(own) if own else None


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """Geometric mean; None if a value is missing or not positive, or there is none."""
    numbers = [value for value in values if value is not None and value > 0]
    if not numbers or len(numbers) < len(values):
        return None
    return float(np.exp(np.log(numbers).mean()))
