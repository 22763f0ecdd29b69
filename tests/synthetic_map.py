"""A synthetic map of the three regimes like a real one: 12 ELRs x 5 seeds and each seed's refinements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onsphere.lab.experiments.regimes.charts import Course
from onsphere.lab.experiments.regimes.classify import Boundary, BoundaryName, Bracket, MapCell, Regime
from onsphere.lab.experiments.regimes.result import RegimesResult
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.result import Engine

END_OF_CONVERGENCE, ONSET_OF_DIVERGENCE, LOSS_AT_INIT = 4.2e-3, 0.125, 4.3


@dataclass(frozen=True)
class Map:
    """A result and the courses of its runs."""

    result: RegimesResult
    courses: list[Course]

    def but(self, **changes: Any) -> Map:
        """The same with other fields of the result."""
        return replace(self, result=replace(self.result, **changes))

    def bounded(self, name: BoundaryName, **changes: Any) -> Map:
        """The same with other fields of one boundary."""
        boundaries = self.result.boundaries
        return self.but(boundaries={**boundaries, name: replace(boundaries[name], **changes)})


def _regime(elr: float, seed: int) -> Regime:
    if elr < END_OF_CONVERGENCE * (1 + 0.06 * (seed - 2)):
        return "convergence"
    return "chaotic_equilibrium" if elr < ONSET_OF_DIVERGENCE * (1 + 0.04 * (seed - 2)) else "divergence"


def _run(elr: float, seed: int, round_: int) -> tuple[Course, MapCell]:
    rng = np.random.default_rng([seed, round(-1e4 * np.log10(elr)) % 2**31])
    regime = _regime(elr, seed)
    steps = np.linspace(25, 2500, 60)
    evaluation_steps = np.linspace(0, 2500, 26)
    noise = rng.normal(size=60)
    if regime == "convergence":
        loss = LOSS_AT_INIT / (1 + (elr / 1e-4) ** 0.7 * steps / 45) ** 1.25 * np.exp(0.06 * noise)
        norm = 9 * (loss / LOSS_AT_INIT) ** 0.55 * (elr / 1e-4) ** -0.22 * np.exp(0.05 * noise)
        error = 0.24 - 0.012 * np.log10(elr / 1e-4) + 0.65 * np.exp(-evaluation_steps * elr**0.4 / 12)
    elif regime == "chaotic_equilibrium":
        level = 0.5 * (elr / 0.06) ** 0.75
        loss = LOSS_AT_INIT * (level + (1 - level) * np.exp(-steps / 90)) * np.exp(0.16 * noise)
        norm = 11 * (loss / LOSS_AT_INIT) ** 0.2 * np.exp(0.09 * rng.normal(size=60))
        error = 0.2 + 0.55 * (elr / 0.12) ** 0.8 + 0.5 * np.exp(-evaluation_steps / 120)
    else:
        loss = LOSS_AT_INIT * (1.1 + 0.1 * np.log10(elr / 0.1)) * np.exp(0.04 * noise)
        norm = 40 * (elr / 0.1) ** 3.5 * np.exp(0.1 * noise) + 10
        error = np.full(26, 0.89)
    error = np.clip(error + 0.012 * rng.normal(size=26), 0, 1)
    angle = float(np.arctan(elr * norm[-15:].mean()))
    if regime == "divergence":
        angle = 1.45 + 0.02 * rng.random()
    trend = float(loss[-15:].mean() / loss[-30:-15].mean())
    train_error = {"convergence": 0.0, "chaotic_equilibrium": 0.3 * (elr / 0.03) ** 0.6, "divergence": 0.88}[regime]
    cell = MapCell(
        elr=elr,
        seed=seed,
        regime=regime,
        reason=f"angular update {angle:.3g} rad, trend {trend:.2f}",
        loss=float(loss[-15:].mean()),
        train_loss=float(loss[-15:].mean()),
        loss_at_init=LOSS_AT_INIT * (1 + 0.01 * seed),
        train_error=train_error,
        test_error=float(error[-1]),
        angular_update=angle,
        trend=trend,
        gradient_norm=float(norm[-15:].mean()),
        finite=True,
        round=round_,
    )
    return Course(elr, seed, regime, steps, loss, norm, evaluation_steps, error), cell


def synthetic_map(seeds: int = 5, elrs: int = 12, refine: int = 2) -> Map:
    """A map whose numbers follow formulas and a fixed seed."""
    grid = [float(elr) for elr in np.geomspace(1e-4, 1.0, elrs)]
    runs = [_run(elr, seed, 0) for seed in range(seeds) for elr in grid]
    names: tuple[BoundaryName, ...] = ("convergence", "divergence")
    per_seed: dict[BoundaryName, list[Bracket]] = {name: [] for name in names}
    for seed in range(seeds):
        for name in names:

            def inside(elr: float, seed: int = seed, name: str = name) -> bool:
                return (_regime(elr, seed) == "convergence") if name == "convergence" else _regime(elr, seed) != name

            low = max(elr for elr in grid if inside(elr))
            high = min(elr for elr in grid if elr > low)
            for round_ in range(1, refine + 1):
                middle = float(np.sqrt(low * high))
                runs.append(_run(middle, seed, round_))
                low, high = (middle, high) if inside(middle) else (low, middle)
            per_seed[name].append(Bracket(seed, low, high))
    reason = "every seed has runs on both sides, and runs below reach a training error under 1 %"
    boundaries = {
        name: Boundary(min(one.low or 0 for one in own), max(one.high or 0 for one in own), True, reason, own)
        for name, own in per_seed.items()
    }
    result = RegimesResult(
        run=Path("runs/synthetic"),
        report=Path("runs/synthetic/report.html"),
        spec=RegimesSpec(train=500, label_noise=0.25, elrs=elrs, seeds=seeds),
        seconds=41.7,
        engine=Engine("vmap", 30, True, 2),
        cpu_seconds=70.0,
        boundaries=boundaries,
        cells=sorted((cell for _, cell in runs), key=lambda cell: (cell.elr, cell.seed)),
        radius=None,
    )
    return Map(result, sorted((course for course, _ in runs), key=lambda course: (course.elr, course.seed)))
