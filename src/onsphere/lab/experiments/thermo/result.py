"""What was found about the thermodynamics of a network: runs, settings, relations, maps, temperatures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onsphere.lab.experiments.thermo.spec import ThermoSpec
from onsphere.lab.intervals import Interval
from onsphere.lab.result import Real, Rows, TrainedResult

#: What each population is called in prose.
NAMES = {
    "fixed_elr": "fixed ELR",
    "fixed_lr": "fixed lr",
    "sphere": "fixed sphere",
    "under": "under-parameterised",
    "over": "over-parameterised",
}


@dataclass(frozen=True)
class Window:
    """Means over a part of a run, and the entropy of the weights that it went through.

    Attributes:
        end: The last step of the window.
        energy: U, the mean minibatch loss.
        radius: Root mean square of the norm r.
        log_radius: Mean of ln r.
        elr: Mean effective learning rate.
        moment: Mean of the squared effective gradient: TrΣ + |grad L|² of the unit sphere.
        pressure: Mean of (|x'| - r) / (ELR r³), x' the weights after the gradient's part of a step.
        entropy: Entropy of the directions by neighbours, nats, up to a constant of d and the number of samples.
        bound: What it cannot exceed, from the covariance.
        effective_dimension: (tr C)² / tr C² of the covariance of the directions.
        growth: How much the entropy of the window exceeds the mean of its halves, at equal numbers of samples: zero
            where the weights go through the same cloud again and again.
    """

    end: int
    energy: Real
    radius: Real
    log_radius: Real
    elr: Real
    moment: Real
    pressure: Real
    entropy: Real
    bound: Real
    effective_dimension: Real
    growth: Real


@dataclass(frozen=True)
class ThermoRow:
    """One run in the last window, and what the laws say of it.

    Attributes:
        population: The protocol, or "under" and "over" in the study of free energies.
        rate: The learning rate of "fixed_lr", otherwise the effective learning rate.
        weight_decay: Weight decay; 0 on the sphere.
        seed: Index of the seed.
        dimension: d, the number of trained weights.
        energy: U, the mean minibatch loss.
        energy_drift: Mean loss of the window's second half less that of its first.
        radius: Root mean square of the norm r.
        elr: Mean effective learning rate.
        pressure: The weight decay; on the sphere as measured from the growth of the norm in a step.
        moment: Mean of the squared effective gradient along the steps.
        noise_trace: TrΣ at fixed weights of the unit sphere, from independent batches.
        squared_gradient: |grad L|² at the same places, unbiased.
        signal_to_noise: |grad L| / sqrt(TrΣ).
        temperature: T by the protocol's law, with the discrete correction.
        raw_temperature: The same without it.
        predicted: The norm that the law gives; on the sphere the pressure.
        ratio: Measured norm (pressure) over the predicted one.
        gas_law: p V / ((d - 1) T / 2) - 1.
        entropy: S of the weights by neighbours, nats, up to a constant of d and the number of samples.
        bound: What S cannot exceed, from the covariance, nats.
        effective_dimension: (tr C)² / tr C² of the cloud of directions, at most d - 1.
        growth: How much the entropy of the window exceeds that of its halves, nats.
        train_error: Share of wrong predictions on the training images at the end.
    """

    population: str
    rate: float
    weight_decay: float
    seed: int
    dimension: int
    energy: Real
    energy_drift: Real
    radius: Real
    elr: Real
    pressure: Real
    moment: Real
    noise_trace: Real
    squared_gradient: Real
    signal_to_noise: Real
    temperature: Real
    raw_temperature: Real
    predicted: Real
    ratio: Real
    gas_law: Real
    entropy: Real
    bound: Real
    effective_dimension: Real
    growth: Real
    train_error: Real


@dataclass(frozen=True)
class Setting:
    """The runs of one setting: means over seeds with 95 % intervals; the names are those of :class:`ThermoRow`."""

    population: str
    rate: float
    weight_decay: float
    temperature: Interval
    energy: Interval
    radius: Interval
    pressure: Interval
    ratio: Interval
    gas_law: Interval
    signal_to_noise: Interval
    entropy: Interval
    bound: Interval
    effective_dimension: Interval


@dataclass(frozen=True)
class Relation:
    """A Maxwell relation, from one regression a seed.

    Attributes:
        population: The protocol that was trained by.
        name: The derivative, such as "dS/dln wd".
        expected: What the relation says.
        slope: The measured one, from entropies by neighbours.
        bound_slope: The same from the bounds.
        fit: R² of a quadratic function of both logarithms for the entropies by neighbours.
    """

    population: str
    name: str
    expected: float
    slope: Interval
    bound_slope: Interval
    fit: Interval


@dataclass(frozen=True)
class EnergyMap:
    """Whether states minimise the free energy at their own hyper-parameters.

    Attributes:
        population: The protocol or network.
        potential: "F" at a fixed norm, else "G".
        settings: (rate, weight decay) of every state.
        excess: ``[n][n]``, mean over seeds of (the free energy of state j at the hyper-parameters of i, less that of
            state i there) / T_i, nats, by entropies of neighbours: positive where state i is the better one.
        low: Lower ends of the 95 % intervals over seeds.
        high: Upper ends of these intervals.
        bound_excess: The same means from the bounds in place of the entropies.
    """

    population: str
    potential: str
    settings: list[tuple[float, float]]
    excess: list[list[Real]]
    low: list[list[Real]]
    high: list[list[Real]]
    bound_excess: list[list[Real]]

    def counts(self) -> tuple[int, int, int]:
        """Pairs of different states: own state better, worse, not decided (both estimates must agree to decide)."""
        n = len(self.settings)
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        better = sum(self.low[i][j] > 0 and self.bound_excess[i][j] > 0 for i, j in pairs)
        worse = sum(self.high[i][j] < 0 and self.bound_excess[i][j] < 0 for i, j in pairs)
        return better, worse, len(pairs) - better - worse


@dataclass(frozen=True)
class Temperature:
    """At which temperatures the state of an ELR minimises U - T S among those of all ELRs.

    Attributes:
        population: The network, "under" or "over".
        elr: Its effective learning rate.
        low: Lower end, from means over seeds and entropies by neighbours.
        high: Upper end, not finite at the highest entropy.
        bound_low: Lower end from the bounds in place of the entropies.
        bound_high: Upper end from them.
        exists: In how many seeds the interval by neighbours is not empty.
        law: ELR (TrΣ + |grad L|²) / (2 (d - 1)), mean over seeds with its interval.
        signal_to_noise: |grad L| / sqrt(TrΣ).
        energy: U, the mean minibatch loss.
        stationary: Whether within the window the loss moves by less than half its difference to the neighbouring ELRs,
            and the entropy grows by less than the mean step from one ELR to the next.
    """

    population: str
    elr: float
    low: Real
    high: Real
    bound_low: Real
    bound_high: Real
    exists: int
    law: Interval
    signal_to_noise: Interval
    energy: Interval
    stationary: bool


@dataclass(frozen=True)
class PowerLaw:
    """How a temperature grows with the ELR, T ~ ELR^power, fitted in every seed.

    Attributes:
        population: The network, "under" or "over".
        by: "slopes" (of energies over entropies) or "noise" (the law).
        power: Mean over seeds with its interval.
        points: ELRs that it is from, in the seed with the fewest.
    """

    population: str
    by: str
    power: Interval
    points: int


@dataclass(frozen=True)
class CurvePoint:
    """Energy and entropy of one window of one setting, means over seeds.

    Attributes:
        population: The network, "under" or "over".
        elr: The effective learning rate of the runs.
        end: Last step of the window.
        energy: U, the mean minibatch loss.
        entropy: S by neighbours, nats.
    """

    population: str
    elr: float
    end: int
    energy: Real
    entropy: Real


@dataclass(frozen=True, repr=False, kw_only=True)
class ThermoResult(TrainedResult):
    """What :func:`onsphere.lab.measure_thermo` returns.

    Attributes:
        rows: One for every run.
        settings: One for every setting.
        relations: Maxwell relations, of the study gas.
        maps: Maps of the free energies, one a population.
        temperatures: Temperatures of the study free-energy, by network and ELR.
        powers: Power laws of these temperatures.
        curves: Energy and entropy along training, of the study free-energy.
    """

    command: ClassVar[str] = "thermo"
    rows_field: ClassVar[str] = "rows"

    spec: ThermoSpec
    rows: Rows[ThermoRow]
    settings: Rows[Setting]
    relations: list[Relation]
    maps: Rows[EnergyMap]
    temperatures: list[Temperature]
    powers: list[PowerLaw]
    curves: list[CurvePoint]

    def of(self, population: str) -> list[Setting]:
        """The settings of one population, in order."""
        return [one for one in self.settings if one.population == population]
