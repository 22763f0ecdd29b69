"""What the report of the three regimes is told: curves, cells, boundaries, and how to repeat the experiment.

A *cell* is one training run on the sphere at a fixed effective learning rate (ELR) and seed, labelled
convergence, chaotic equilibrium or divergence. A *boundary* is a bracket ``low .. high`` of ELRs between
which one regime gives way to the next, in every seed. The view holds plain arrays and dicts, so that whatever
ran the experiment can fill it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.chart.theme import REGIME_NAMES

__all__ = ["CELL_KEYS", "MEASUREMENTS", "Boundary", "Curve", "RegimesView", "Region", "cell_value", "number"]

REGIMES = tuple(REGIME_NAMES)

#: A run with a smaller training error fits its training data.
INTERPOLATION_ERROR = 0.01
BoundaryName = Literal["convergence", "divergence"]

CELL_KEYS = (
    "elr", "seed", "regime", "reason", "loss", "loss_at_init", "train_error", "test_error",
    "angular_update", "trend", "gradient_norm", "finite", "round",
)  # fmt: skip

#: How each quantity is measured unless a view says otherwise: name, definition, batch statistics.
MEASUREMENTS: tuple[tuple[str, str, str], ...] = (
    (
        "training loss",
        "mean of the minibatch losses around a step; in the table, over the last quarter of training",
        "train mode: each minibatch's own",
    ),
    (
        "loss at initialisation",
        "training loss before the first step, over all training examples: the level of a random guess",
        "of all training examples together",
    ),
    (
        "gradient norm",
        "mean norm of the effective gradient, ρ‖∇‖ over the scale-invariant weights (the gradient at norm 1)",
        "train mode: each minibatch's own",
    ),
    (
        "angular update",
        "mean angle of a step, arctan(ELR · effective gradient norm), over the last quarter, in radians",
        "train mode: each minibatch's own",
    ),
    (
        "trend",
        "mean loss of the last quarter divided by that of the quarter before; below 1 it still falls",
        "train mode: each minibatch's own",
    ),
    (
        "training error",
        "percent wrong over all training examples, mean of the evaluations in the last quarter",
        "evaluation: re-estimated over the training data beforehand",
    ),
    (
        "test error",
        "fraction of wrong predictions over the whole test set at the end (in curves: at each evaluation), percent",
        "evaluation: re-estimated over the training data beforehand",
    ),
)


def number(value: object) -> float:
    """Read a cell's value as a float; None becomes NaN."""
    return math.nan if value is None else float(value)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Curve:
    """One run's course.

    Attributes:
        elr: Effective learning rate.
        seed: Seed of the run.
        regime: "convergence", "chaotic_equilibrium" or "divergence".
        steps: [T] step numbers at which the minibatch averages below are given, ascending.
        loss: [T] training loss, mean of the minibatch losses around the step (train-mode batch statistics).
        gradient_norm: [T] mean effective gradient norm.
        evaluation_steps: [E] step numbers of the evaluations.
        test_error: [E] fraction 0..1, batch statistics re-estimated over the training data.

    Raises:
        ValueError: If a length, the ELR or the regime does not make sense.
    """

    elr: float
    seed: int
    regime: str
    steps: NDArray[Any]
    loss: NDArray[Any]
    gradient_norm: NDArray[Any]
    evaluation_steps: NDArray[Any]
    test_error: NDArray[Any]

    def __post_init__(self) -> None:
        where = f"curve at ELR {self.elr:g}, seed {self.seed}"
        _check_elr_and_regime(self.elr, self.regime, where)
        for name, along in (
            ("loss", "steps"),
            ("gradient_norm", "steps"),
            ("test_error", "evaluation_steps"),
        ):
            given, wanted = np.shape(getattr(self, name)), np.shape(getattr(self, along))
            if given != wanted or len(given) != 1:
                raise ValueError(f"{where}: {name} has shape {given}, {along} {wanted}; give two vectors of one length")

    def __repr__(self) -> str:
        return f"Curve(elr={self.elr:.3g}, seed={self.seed}, regime={self.regime!r}, points={len(self.steps)})"


@dataclass(frozen=True)
class Boundary:
    """Where a regime ends.

    Attributes:
        name: "convergence" (its upper end) or "divergence" (its lower end).
        low: ELR up to which every seed lies below the boundary, None if there is none.
        high: ELR from which on every seed lies above it, None if there is none.
        resolved: Whether runs on both sides were seen and their labels can be trusted.
        reason: Why it is (not) resolved, one sentence.
        per_seed: The same bracket for each seed by itself: ``{"seed", "low", "high"}``.
        labelled: Whether labels beside the boundary mean something although it is not resolved. Convergence
            cannot be told from slowness unless some run fits its training data.
    """

    name: str
    low: float | None
    high: float | None
    resolved: bool
    reason: str
    per_seed: tuple[Mapping[str, Any], ...]
    labelled: bool = True

    @property
    def known_below(self) -> float | None:
        """Up to this ELR the regime below the boundary is certain; None if nothing is.

        An unresolved boundary with both ends given is tentative and vouches for neither side; with one end
        given, the map ran out of ELRs on the other side and that end holds, if labels can be trusted.
        """
        return self.low if self.resolved or (self.labelled and self.high is None) else None

    @property
    def known_above(self) -> float | None:
        """From this ELR on the regime above the boundary is certain; None if nothing is."""
        return self.high if self.resolved or (self.labelled and self.low is None) else None


@dataclass(frozen=True)
class Region:
    """A stretch of the ELR axis that belongs to one regime for certain."""

    regime: str
    left: float
    right: float


@dataclass(frozen=True, eq=False)
class RegimesView:
    """Everything the report of the three regimes shows.

    Attributes:
        title: What was trained, in a few words.
        subtitle: Data, network and loss, such as "digits, 500 images, 25 % label noise · MLP 64-64 ·
            cross-entropy".
        curves: Up to some hundred runs; the figures draw the first seed's boldly.
        cells: One dict a run with the keys of `CELL_KEYS`; numbers may be None or not finite; `round` is 0
            for the grid and 1, 2, .. for refinements; `angular_update` in radians, errors as fractions.
        boundaries: ``{"convergence": {...}, "divergence": {...}}``, each with the fields of `Boundary` but
            its name.
        spec: The experiment's specification.
        command: The shell command that repeats it.
        toml: The same as a TOML file.
        environment: Versions and facts of the machine.
        engine: How the runs were executed.
        seconds: Wall-clock time of the experiment.
        version: Version of onsphere.
        divergence_angle: Angular update in radians above which a run counts as divergent (a line in the map).
        measurements: Name, definition and batch-statistics mode of every quantity.

    Raises:
        ValueError: If there is nothing to show, or a cell or boundary lacks a field.
    """

    title: str
    subtitle: str
    curves: Sequence[Curve]
    cells: Sequence[Mapping[str, Any]]
    boundaries: Mapping[str, Mapping[str, Any]]
    spec: Mapping[str, Any]
    command: str
    toml: str
    environment: Mapping[str, Any]
    engine: Mapping[str, Any]
    seconds: float
    version: str
    divergence_angle: float = 1.2
    measurements: Sequence[tuple[str, str, str]] = field(default=MEASUREMENTS, repr=False)

    def __post_init__(self) -> None:
        if not self.cells or not self.curves:
            raise ValueError(
                f"the view has {len(self.cells)} cells and {len(self.curves)} curves; "
                "a report needs at least one of each"
            )
        for index, cell in enumerate(self.cells):
            missing = [key for key in CELL_KEYS if key not in cell]
            if missing:
                raise ValueError(f"cells[{index}] lacks {', '.join(missing)}; give every one of {', '.join(CELL_KEYS)}")
            _check_elr_and_regime(cell["elr"], cell["regime"], f"cells[{index}]")
        ends = ("convergence", "divergence")
        if not set(ends) <= set(self.boundaries):
            raise ValueError(f"boundaries has {sorted(self.boundaries)}; give both 'convergence' and 'divergence'")
        for name in ends:
            fields = ("low", "high", "resolved", "reason", "per_seed")
            missing = [key for key in fields if key not in self.boundaries[name]]
            if missing:
                raise ValueError(
                    f"boundaries[{name!r}] lacks {', '.join(missing)}; use None for an end that is unknown"
                )

    def __repr__(self) -> str:
        return (
            f"RegimesView({self.title!r}, {len(self.cells)} cells, {len(self.elrs)} ELRs x "
            f"{len(self.seeds)} seeds, {len(self.curves)} curves)"
        )

    @property
    def elrs(self) -> list[float]:
        """Every ELR of the cells, ascending."""
        return sorted({float(cell["elr"]) for cell in self.cells})

    @property
    def seeds(self) -> list[int]:
        """Every seed of the cells, ascending."""
        return sorted({int(cell["seed"]) for cell in self.cells})

    @property
    def curve_seeds(self) -> list[int]:
        """Every seed that has curves, ascending; the first is the one drawn boldly."""
        return sorted({curve.seed for curve in self.curves})

    @property
    def elr_range(self) -> tuple[float, float]:
        """The shown stretch of the ELR axis: the map and a margin of 4 % of its logarithmic length."""
        low, high = self.elrs[0], self.elrs[-1]
        margin = (high / low) ** 0.04 if high > low else math.sqrt(10)
        return low / margin, high * margin

    @property
    def loss_at_init(self) -> float:
        """Median loss before the first step over the cells: the level of a random guess; NaN if unknown."""
        return _median(loss for cell in self.cells if (loss := number(cell["loss_at_init"])) > 0)

    def boundary(self, name: BoundaryName) -> Boundary:
        """Read one of the two boundaries."""
        given = self.boundaries[name]
        low, high = (None if given[end] is None else float(given[end]) for end in ("low", "high"))
        per_seed = tuple(given["per_seed"] or ())
        labelled = name == "divergence" or any(
            cell["regime"] == "convergence" and number(cell["train_error"]) < INTERPOLATION_ERROR for cell in self.cells
        )
        return Boundary(name, low, high, bool(given["resolved"]), str(given["reason"]), per_seed, labelled)

    def regions(self) -> list[Region]:
        """The stretches of `elr_range` whose regime is certain, left to right; at most one a regime."""
        left, right = self.elr_range
        convergence, divergence = self.boundary("convergence"), self.boundary("divergence")
        candidates = (
            ("convergence", left, convergence.known_below),
            ("chaotic_equilibrium", convergence.known_above, divergence.known_below),
            ("divergence", divergence.known_above, right),
        )
        return [
            Region(regime, start, stop)
            for regime, start, stop in candidates
            if start is not None and stop is not None and start < stop
        ]

    def gaps(self) -> list[tuple[float, float]]:
        """Stretches neither in a certain region nor in a resolved bracket: there the map is silent."""
        left, right = self.elr_range
        taken = [(region.left, region.right) for region in self.regions()]
        taken += [(b.low, b.high) for b in self.brackets() if b.resolved and b.low is not None and b.high is not None]
        gaps, cursor = [], left
        for start, stop in [*sorted(taken), (right, right)]:
            # A sliver under 5 % of the axis is the margin beside the last ELR, not a finding.
            if start > cursor and math.log(start / cursor) > 0.05 * math.log(right / left):
                gaps.append((cursor, start))
            cursor = max(cursor, stop)
        return gaps

    def brackets(self) -> list[Boundary]:
        """The boundaries that have both ends, one of each distinct bracket."""
        found: dict[tuple[float, float], Boundary] = {}
        for name in ("convergence", "divergence"):
            boundary = self.boundary(name)
            if boundary.low is not None and boundary.high is not None:
                found.setdefault((boundary.low, boundary.high), boundary)
        return list(found.values())

    def median_over_seeds(self, key: str, *, relative_to: str | None = None) -> tuple[list[float], list[float]]:
        """Median of a cell value over the seeds of an ELR, leaving out what is not finite.

        ELRs that fewer than half of the seeds have tried (refinements follow each seed's own boundary) are
        left out: a median of one run beside medians of five would draw zigzags that are only differences of
        seeds.

        Args:
            key: Which value of the cells.
            relative_to: Divide by this other value of the same cell first.

        Returns:
            The ELRs that have a finite value, ascending, and their medians.
        """
        runs: dict[float, list[float]] = {elr: [] for elr in self.elrs}
        for cell in self.cells:
            runs[float(cell["elr"])].append(cell_value(cell, key, relative_to))
        medians = [(elr, _median(values)) for elr, values in runs.items() if 2 * len(values) >= len(self.seeds)]
        finite = [(elr, median) for elr, median in medians if math.isfinite(median)]
        return [elr for elr, _ in finite], [median for _, median in finite]


def cell_value(cell: Mapping[str, Any], key: str, relative_to: str | None = None) -> float:
    """Read a number of a cell, divided by another of the same cell if asked; NaN if either is missing."""
    value = number(cell[key])
    if relative_to is None:
        return value
    base = number(cell[relative_to])
    return value / base if base > 0 else math.nan


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else math.nan


def _check_elr_and_regime(elr: object, regime: object, where: str) -> None:
    value = number(elr)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{where}: elr is {elr}; give a positive, finite effective learning rate")
    if regime not in REGIMES:
        raise ValueError(f"{where}: regime is {regime!r}; allowed are {', '.join(REGIMES)}")
