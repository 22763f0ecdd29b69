"""The methods that are compared: the proposal, and its rivals on the sphere and in the whole space.

    proposed        start ELR held, then down to the end ELR
    constant        one ELR on the sphere
    cosine          from a peak ELR to 0 on the sphere
    space-constant  one lr with weight decay, the same weights in the whole space
    space-cosine    from a peak lr to 0 with weight decay, likewise

Every method takes the same steps from the same initial directions on the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onsphere.lab.experiments.schedule.spec import ScheduleSpec
from onsphere.lab.population import Copy
from onsphere.lab.population.phases import Phase
from onsphere.optim import ProposedElrs

Family = Literal["proposed", "constant", "cosine", "space-constant", "space-cosine"]
FAMILIES: tuple[Family, ...] = ("proposed", "constant", "cosine", "space-constant", "space-cosine")
NAMES: dict[Family, str] = {
    "proposed": "proposed schedule",
    "constant": "constant ELR",
    "cosine": "cosine ELR",
    "space-constant": "constant lr + weight decay",
    "space-cosine": "cosine lr + weight decay",
}


@dataclass(frozen=True)
class Setting:
    """One method with its numbers.

    Attributes:
        family: Which method it is.
        lr: Its first learning rate, on the sphere the effective one.
        end_lr: Its last one; equal to ``lr`` if constant.
        weight_decay: In the whole space; 0 on the sphere.
        phases: How the learning rate goes.
    """

    family: Family
    lr: float
    end_lr: float
    weight_decay: float = 0.0
    phases: tuple[Phase, ...] = ()

    @property
    def on_sphere(self) -> bool:
        """Whether it trains on the sphere."""
        return not self.family.startswith("space")

    def copies(self, seeds: int) -> list[Copy]:
        """One copy for each seed."""
        return [Copy(seed, self.lr, self.weight_decay, phases=self.phases) for seed in range(seeds)]


def settings_of(spec: ScheduleSpec, proposed: ProposedElrs) -> list[Setting]:
    """All methods, the proposal first, families together."""
    found = [proposal(spec, proposed)]
    found += [_constant("constant", factor * proposed.threshold) for factor in sorted(spec.constant)]
    found += [_cosine("cosine", factor * proposed.threshold) for factor in sorted(spec.peaks)]
    rates = [(lr, decay) for lr in sorted(spec.lr) for decay in sorted(spec.weight_decay)]
    found += [_constant("space-constant", lr, decay) for lr, decay in rates]
    return found + [_cosine("space-cosine", lr, decay) for lr, decay in rates]


def proposal(spec: ScheduleSpec, proposed: ProposedElrs) -> Setting:
    """The proposed schedule as phases: the course of :class:`onsphere.optim.RegimeSchedule`."""
    first, last = round(spec.hold * spec.steps), round((1 - spec.tail) * spec.steps)
    phases: list[Phase] = []
    if first > 0:
        phases.append(Phase(0, proposed.start))
    if first < last:
        phases.append(Phase(first, proposed.start, proposed.end, spec.shape))
    if last < spec.steps:
        phases.append(Phase(last, proposed.end))
    return Setting("proposed", proposed.start, proposed.end, phases=tuple(phases))


def copies_of(settings: Sequence[Setting], seeds: int) -> list[Copy]:
    """The copies of all settings: settings outermost, then seeds."""
    return [copy for setting in settings for copy in setting.copies(seeds)]


def _constant(family: Family, lr: float, weight_decay: float = 0.0) -> Setting:
    return Setting(family, lr, lr, weight_decay, (Phase(0, lr),))


def _cosine(family: Family, lr: float, weight_decay: float = 0.0) -> Setting:
    return Setting(family, lr, 0.0, weight_decay, (Phase(0, lr, 0.0, "cosine"),))
