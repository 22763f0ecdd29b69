"""A study: runs that several claims share, at a scale and on each of its data sets; and a claim, which reads them.

    Study -> Variant (a data set) -> parts (a run of an experiment each) -> Evidence -> Claim.measure -> a number a seed

At scale ``small`` a study trains digits or Fashion-MNIST for seconds to a minute on two cores; at scale ``paper`` the
published networks on the published data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from onsphere.lab.claims.rules import Rule, Verdict

Scale = Literal["small", "paper"]
SCALES: tuple[Scale, ...] = ("small", "paper")

Fields = Mapping[str, Any]
#: What a library study finds for one seed: numbers by name.
Values = dict[str, float]


@dataclass(frozen=True)
class Variant:
    """A study on one data set.

    Attributes:
        data: What the page calls the data: ``digits``, ``Fashion-MNIST``.
        fields: Fields of the experiment's spec that all its parts share, or the arguments of the study's function.
        places: Settings that claims refer to by a name, such as the ELR of a converging run.
        parts: What differs between several runs, by the part's name; one run without a name where there is one.
    """

    data: str
    fields: Fields
    places: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, Fields] = field(default_factory=lambda: {"": {}})

    @property
    def slug(self) -> str:
        """The data as part of a folder's name."""
        return "".join(c if c.isalnum() else "-" for c in self.data.lower()).strip("-")


@dataclass(frozen=True)
class Evidence:
    """What a study found on one data set.

    Attributes:
        parts: Results of the experiment's runs by part; of a study that repeats its run for each seed, by seed.
        values: What a library study found: one number a seed, by name.
        places: Those of the variant.
    """

    parts: Mapping[str, Any]
    values: Mapping[str, Sequence[float]]
    places: Mapping[str, float]

    @property
    def result(self) -> Any:
        """The result of the first part."""
        return next(iter(self.parts.values()))

    @property
    def each(self) -> list[Any]:
        """The results of a study that repeats its run for each seed, by seed."""
        return list(self.parts.values())


@dataclass(frozen=True)
class Study:
    """Runs that several claims share.

    Attributes:
        name: Unique; part of its folders' names.
        says: What is trained, one sentence.
        command: The experiment, as in the registry; empty for a library study.
        small: Its variants at the scale ``small``, the first the one the claims were first seen on.
        paper: Those at the scale ``paper``; empty where the papers have no such run.
        repeat: Whether the experiment runs once a seed, with the field ``seed``, because its result is over seeds.
        least_seeds: The fewest seeds that the experiment takes.
        function: For a library study, ``MODULE:NAME`` in :mod:`onsphere.lab.claims.measures`: what goes from a seed
            and a variant's fields to numbers.
        figures: Names of the experiment's figures (without suffix) that the page shows.
    """

    name: str
    says: str
    command: str
    small: tuple[Variant, ...]
    paper: tuple[Variant, ...] = ()
    repeat: bool = False
    least_seeds: int = 1
    function: str = ""
    figures: tuple[str, ...] = ()

    def variants(self, scale: Scale) -> tuple[Variant, ...]:
        """Its variants at a scale."""
        return self.small if scale == "small" else self.paper

    def runs(self, variant: Variant, seeds: int) -> dict[str, dict[str, Any]]:
        """The fields of each run of the experiment, by part."""
        if self.repeat:
            return {str(seed): {**variant.fields, "seed": seed} for seed in range(seeds)}
        return {name: {**variant.fields, **own, "seeds": seeds} for name, own in variant.parts.items()}


@dataclass(frozen=True)
class Claim:
    """A statement of a paper that numbers can decide.

    Attributes:
        id: What names the claim, ``TOPIC.NAME``.
        says: The statement in our words, one sentence that is true or not.
        source: Paper, and section or figure where it is known.
        study: Which runs answer it.
        number: What the measured number is, with its unit.
        measure: From the evidence to one number a seed; pure.
        rule: What decides by the numbers.
        recorded: What was seen at the scale ``small`` with seeds 0 to 4, by data set; "not run" until somebody records
            it. ``tests/science`` holds "holds" and "does not hold". Data that are not named do not have the claim.
        note: What a reader must know, such as how far the small study is from the paper's.
    """

    id: str
    says: str
    source: str
    study: Study
    number: str
    measure: Callable[[Evidence], Sequence[float]] = field(repr=False)
    rule: Rule
    recorded: Mapping[str, Verdict]
    note: str = ""

    @property
    def topic(self) -> str:
        """The first part of its identifier."""
        return self.id.partition(".")[0]

    def variants(self, scale: Scale) -> list[Variant]:
        """The variants of its study that it is asked of: at the scale ``small`` those that are recorded."""
        return [v for v in self.study.variants(scale) if scale == "paper" or v.data in self.recorded]


#: The papers, as the page names them.
PERIODS = "Lobacheva, Kodryan et al., NeurIPS 2021"
REGIMES = "Kodryan et al., NeurIPS 2022"
QUADRATIC = "Nakhodnov et al., 2022"
SPLIT = "Chirkova et al., 2020"
POWER_LAWS = "Lobacheva et al., NeurIPS 2020"
LARGE_RATES = "Sadrtdinov, Kodryan et al., NeurIPS 2024"
IDEAL_GAS = "Sadrtdinov et al., 2025 (ideal gas)"
FREE_ENERGY = "Sadrtdinov et al., 2025 (free energy)"
SPHERICAL_MOTION = "Wan et al., NeurIPS 2021"
ROTATION = "Kosson et al., ICML 2024"
INTRINSIC = "Li, Lyu, Arora, NeurIPS 2020"
