"""The toys in which the laws can be seen exactly: pairs on a sphere, pairs under weight decay, noise, objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from onsphere.lab.claims.rules import MOST_SEEDS, above, below, near
from onsphere.lab.claims.study import FREE_ENERGY, IDEAL_GAS, PERIODS, REGIMES, Claim, Evidence, Study, Variant

if TYPE_CHECKING:
    from onsphere.lab.experiments.toy_free_energy.result import ToyFreeEnergyResult
    from onsphere.lab.experiments.toy_periods.result import ToyPeriodsResult
    from onsphere.lab.experiments.toy_regimes.result import RegimesRow, ToyRegimesResult
    from onsphere.lab.experiments.toy_thermo.result import MaxwellRow, ThermoRow, ToyThermoResult

THREE, TEN, FLOOR, NO_FLOOR, GAS = "3 pairs", "10 pairs", "floor 1e-16", "no floor", "3 weights"
THREE_AND_TWO = "3 objects and 2"
#: ELR times the sum of the coefficients.
_GRID = (0.5, 0.8, 0.945, 1.05, 1.25, 1.5, 2.0, 3.0, 10.0, 100.0)


def _pairs(data: str, alphas: tuple[float, ...]) -> Variant:
    total = sum(alphas)
    return Variant(data, {"alphas": alphas, "elrs": tuple(c / total for c in _GRID), "seeds": 1, "steps": 10_000})


PAIRS = Study(
    "toy-regimes",
    "The sum of α x²/(x² + y²) over pairs on one sphere, at ELRs below and above one over the sum of the α.",
    "toy regimes",
    (_pairs(THREE, (1.0, 2.0, 4.0)), _pairs(TEN, tuple(float(k) for k in range(1, 11)))),
    repeat=True,
    figures=("loss",),
)
DECAY = Study(
    "toy-periods",
    "One pair in the whole space with weight decay, lr 0.1 and decay 0.01, with and without a floor for |x|.",
    "toy periods",
    (Variant(FLOOR, {"floor": 1e-16}), Variant(NO_FLOOR, {"floor": 0.0})),
    repeat=True,
    figures=("course",),
)
NOISE = Study(
    "toy-thermo",
    "SGD on 1 + cos(angle) with isotropic noise in three dimensions, under three protocols.",
    "toy thermo",
    (Variant(GAS, {"copies": 256, "points": 4096}),),
    repeat=True,
    figures=("gas", "protocols"),
)
OBJECTS = Study(
    "toy-free-energy",
    "The loss ⟨a, x⟩²/‖x‖² of one object a step on a sphere in three dimensions: of three objects, and of two.",
    "toy free-energy",
    (Variant(THREE_AND_TWO, {"elrs": (0.02, 0.05, 0.1, 0.2, 0.5, 0.9, 1.2, 2.0, 4.0), "copies": 128, "points": 2048}),),
    repeat=True,
    figures=("objects",),
)


def rows(result: ToyRegimesResult, low: float, high: float) -> list[RegimesRow]:
    """The rows with low < ELR · A <= high."""
    return [row for row in result.rows if low < row.relative_elr <= high + 1e-9]


def from_law(low: float, high: float) -> Callable[[Evidence], list[float]]:
    """The largest distance of a loss from its law over a stretch of ELRs, over the loss at random directions."""
    return lambda e: [
        max(abs(row.loss - row.predicted_loss) / row.loss_at_random for row in rows(result, low, high))
        for result in e.each
    ]


def individual(result: ToyRegimesResult) -> float:
    """How far the farthest pair's individual ELR times its α is from the joint ELR times the sum of the α."""
    (row,) = rows(result, 1.4, 1.5)
    pairs = zip(result.alphas, row.individual_elrs, strict=True)
    return max(abs(alpha * elr / row.relative_elr - 1) for alpha, elr in pairs)


def farthest(name: str, law: str = "predicted") -> Callable[[Evidence], list[float]]:
    """The largest relative distance of a quantity from its law over all settings, by seed."""

    def of(row: ThermoRow) -> float:
        return abs(float(getattr(row, name)) / float(getattr(row, f"{law}_{name}")) - 1)

    return lambda e: [max(of(row) for row in result.rows) for result in e.each]


def maxwell(protocol: str) -> Callable[[Evidence], list[float]]:
    """The slope of a Maxwell relation over what it is to be, by seed."""

    def of(result: ToyThermoResult) -> float:
        found: list[MaxwellRow] = [row for row in result.maxwell if row.protocol == protocol]
        return found[0].slope / found[0].expected if found else math.nan

    return lambda e: [of(result) for result in e.each]


def on_sphere(result: ToyThermoResult) -> list[ThermoRow]:
    """The settings on the unit sphere, by ELR."""
    own = [row for row in result.rows if row.protocol == "sphere" and abs(row.radius - 1) < 1e-9]
    return sorted(own, key=lambda row: row.elr)


def free_energy_margin(result: ToyThermoResult) -> float:
    """By how much U - T S of each ELR's state is below that of the others at its own temperature, the least, over T."""
    own = on_sphere(result)
    return min(
        ((other.energy - row.energy) - row.temperature * (other.entropy - row.entropy)) / row.temperature
        for row in own
        for other in own
        if other is not row
    )


def converges_below_one(result: ToyFreeEnergyResult) -> float:
    """1 where all copies with two objects converge at every ELR below 1, and none at those above."""
    return float(all(row.converged == (row.elr < 1) for row in result.of("over")))


def law_inside(result: ToyFreeEnergyResult) -> float:
    """1 where the law's temperature is one of least free energy at every ELR of small steps, of three objects."""
    own = [row for row in result.of("under") if row.elr <= 0.1]
    return float(all(row.exists and row.low <= row.temperature <= row.high for row in own))


def energy_power(result: ToyThermoResult) -> float:
    """The exponent of the energy in the ELR, from the smallest to the largest."""
    own = on_sphere(result)
    return math.log(own[-1].energy / own[0].energy) / math.log(own[-1].elr / own[0].elr)


def period_ratio(result: ToyPeriodsResult) -> float:
    """The period over its law."""
    return result.period / result.predicted_period if result.period and result.predicted_period else math.nan


CLAIMS = (
    Claim(
        "toys.converge",
        "Pairs on one sphere all converge at an ELR below one over the sum of their coefficients.",
        f"{REGIMES}, toy example",
        PAIRS,
        "largest loss at ELRs below it, over that at random directions",
        lambda e: [max(row.loss / row.loss_at_random for row in rows(result, 0, 0.95)) for result in e.each],
        below(1e-6),
        {THREE: "holds", TEN: "holds"},
    ),
    Claim(
        "toys.level",
        "Above it the mean loss is (A - 1/ELR)/2, A the sum of the coefficients.",
        f"{REGIMES}, toy example",
        PAIRS,
        "largest distance from the law up to 1.5 / A, over the loss at random directions",
        from_law(1, 1.5),
        below(0.03, origin="derived"),
        {THREE: "holds", TEN: "holds"},
    ),
    Claim(
        "toys.chaotic",
        "Further up the pairs move chaotically around that level.",
        f"{REGIMES}, toy example",
        PAIRS,
        "largest distance from the law beyond 1.5 / A, over the loss at random directions",
        from_law(1.5, 100),
        below(0.09, origin="derived"),
        {THREE: "holds", TEN: "holds"},
    ),
    Claim(
        "toys.random",
        "At very large ELRs the loss is that of random directions.",
        f"{REGIMES}, toy example",
        PAIRS,
        "loss at 100 / A over that at random directions",
        lambda e: [rows(result, 50, 100)[0].loss / rows(result, 50, 100)[0].loss_at_random for result in e.each],
        near(1, 0.02),
        {THREE: "holds", TEN: "holds"},
    ),
    Claim(
        "toys.steps-equal",
        "In the chaotic equilibrium the pairs share the norm so that individual ELR times curvature is equal for all.",
        f"{REGIMES}, toy example",
        PAIRS,
        "largest relative difference from ELR · A, over pairs, at 1.5 / A",
        lambda e: [individual(result) for result in e.each],
        below(0.05, origin="derived"),
        {THREE: "holds", TEN: "holds"},
    ),
    Claim(
        "toys.period",
        "With weight decay and a floor the pair is periodic, with the period √(2 ln(1/floor) / (lr · wd)).",
        f"{PERIODS}, mechanism of the periods (the law is ours)",
        DECAY,
        "median period over the law's",
        lambda e: [period_ratio(result) for result in e.each],
        near(1, 0.1),
        {FLOOR: "holds"},
    ),
    Claim(
        "toys.instability",
        "Without a floor, which stands for noise or rounding, gradients vanish and the norm decays for ever.",
        f"{PERIODS}, instability presumption",
        DECAY,
        "1 where the loss becomes exactly zero and no period follows",
        lambda e: [float(result.outcome == "instability") for result in e.each],
        MOST_SEEDS,
        {NO_FLOOR: "holds"},
    ),
    Claim(
        "toys.gas-energy",
        "With isotropic noise weights settle as a gas: their mean loss is that of the von Mises-Fisher law at T.",
        IDEAL_GAS,
        NOISE,
        "largest relative distance of the mean loss from the law, over settings",
        farthest("energy"),
        below(0.05, origin="derived"),
        {GAS: "holds"},
    ),
    Claim(
        "toys.gas-radius",
        "The norm at which they settle is that of the ideal gas law, r² = T (d - 1) / wd.",
        IDEAL_GAS,
        NOISE,
        "largest relative distance of the norm from the law, over settings",
        farthest("radius"),
        below(0.05, origin="derived"),
        {GAS: "holds"},
    ),
    Claim(
        "toys.gas-pressure",
        "On a sphere the growth of the norm that is undone at every step is the gas's pressure, T (d - 1) / r².",
        IDEAL_GAS,
        NOISE,
        "largest relative distance of the pressure from the law, over settings",
        farthest("pressure"),
        below(0.05, origin="derived"),
        {GAS: "holds"},
    ),
    Claim(
        "toys.maxwell-elr",
        "The Maxwell relation at a fixed ELR holds: dS/dln wd is -(d - 1)/2.",
        f"{IDEAL_GAS}, Maxwell relations",
        NOISE,
        "slope over what it is to be",
        maxwell("fixed_elr"),
        near(1, 0.05),
        {GAS: "holds"},
    ),
    Claim(
        "toys.maxwell-lr",
        "The Maxwell relation at a fixed learning rate holds: dS/dln lr - dS/dln wd is (d - 1)/2.",
        f"{IDEAL_GAS}, Maxwell relations",
        NOISE,
        "slope over what it is to be",
        maxwell("fixed_lr"),
        near(1, 0.05),
        {GAS: "holds"},
    ),
    Claim(
        "toys.maxwell-sphere",
        "On spheres entropy grows with the logarithm of the radius, d - 1 for each factor e.",
        f"{IDEAL_GAS}, Maxwell relations",
        NOISE,
        "slope over what it is to be",
        maxwell("sphere"),
        near(1, 0.05),
        {GAS: "holds"},
    ),
    Claim(
        "toys.free-energy",
        "The state of every learning rate has the least free energy U - T S at its own temperature.",
        f"{FREE_ENERGY}, abstract",
        NOISE,
        "by how much, the least over pairs of ELRs, in units of T",
        lambda e: [free_energy_margin(result) for result in e.each],
        above(0),
        {GAS: "holds"},
    ),
    Claim(
        "toys.temperature",
        "Temperature, and with it the mean loss, grows with the learning rate as a power: here in proportion.",
        FREE_ENERGY,
        NOISE,
        "exponent of the mean loss in the ELR",
        lambda e: [energy_power(result) for result in e.each],
        near(1, 0.05),
        {GAS: "holds"},
    ),
    Claim(
        "toys.over-parameterised",
        "A model that can fit every example has a temperature of zero at small ELRs: training converges to zero loss.",
        f"{FREE_ENERGY}, toy example (the threshold is ours)",
        OBJECTS,
        "1 where all copies converge at every ELR below 1, and none above",
        lambda e: [converges_below_one(result) for result in e.each],
        MOST_SEEDS,
        {THREE_AND_TWO: "holds"},
    ),
    Claim(
        "toys.under-parameterised",
        "A model that cannot has a temperature in proportion to the ELR where steps are small: ELR TrΣ / (2 (d - 1)).",
        f"{FREE_ENERGY}, toy example (the law is ours)",
        OBJECTS,
        "1 where this is a temperature of least free energy at every ELR up to 0.1",
        lambda e: [law_inside(result) for result in e.each],
        MOST_SEEDS,
        {THREE_AND_TWO: "holds"},
    ),
)
