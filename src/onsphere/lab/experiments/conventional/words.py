"""What a comparison found, in sentences: where the ordinary run lies, how far its loss is from the sphere's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median

from onsphere.lab.chart.theme import REGIME_NAMES
from onsphere.lab.experiments.conventional.result import CLOSE, ConventionalResult, ConventionalRun, Distance
from onsphere.lab.experiments.conventional.spec import SETUPS, Setup
from onsphere.lab.experiments.regimes.classify import REGIMES
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number, format_percent

#: Set-ups as the page writes them.
NAMES: Mapping[Setup, str] = {
    "sphere": "sphere",
    "invariant": "whole space, scale-invariant weights",
    "all": "ordinary network, all parameters",
}

WORDS: dict[Setup, str] = {
    "sphere": "on the sphere",
    "invariant": "with weight decay on the scale-invariant weights alone",
    "all": "in the ordinary network, all parameters trained",
}


def rate_name(setup: Setup) -> str:
    """What a set-up's learning rate is called."""
    return "ELR" if setup == "sphere" else "lr"


def describe(runs: Sequence[ConventionalRun]) -> str:
    """Labels, as far as they are known, in one line."""
    labels = {setup: [run.regime for run in runs if run.setup == setup] for setup in SETUPS}
    counts = {
        s: [f"{own.count(name)} {REGIME_NAMES[name]}" for name in dict.fromkeys(own)] for s, own in labels.items()
    }
    return "; ".join(f"{setup}: {', '.join(known)}" for setup, known in counts.items() if known)


def answer(result: ConventionalResult) -> list[str]:
    """Where the best ordinary run lies; the distance of each set-up from the sphere; outcomes by learning rate."""
    setup: Setup | None = next((s for s in ("all", "invariant") if result.of(s)), None)
    sentences = []
    if setup is not None and (lr := best_rate(result, setup)) is not None:
        sentences.append(_where(setup, lr, result.of(setup, lr)))
    sentences += [_distance(one, result) for one in result.distances if result.of("sphere")]
    found = "; ".join(f"{WORDS[s]}: {outcomes(result, s)}" for s in result.setups)
    return [*sentences, f"{found[0].upper()}{found[1:]}."]


def best_rate(result: ConventionalResult, setup: Setup) -> float | None:
    """The learning rate of a set-up with the lowest mean test error; None if no run has one."""
    errors = {}
    for lr in sorted({run.lr for run in result.of(setup)}):
        values = [run.test_error for run in result.of(setup, lr) if run.finite and run.test_error is not None]
        if values and len(values) == len(result.of(setup, lr)):
            errors[lr] = mean(values)
    return min(errors, key=errors.__getitem__, default=None)


def _where(setup: Setup, lr: float, runs: Sequence[ConventionalRun]) -> str:
    errors = [run.test_error for run in runs if run.test_error is not None]
    kind = "ordinary run" if setup == "all" else "run with weight decay"
    text = f"The {kind} with the lowest test error (lr {format_number(lr)}: {format_percent(mean(errors))} %) "
    elrs = [run.elr for run in runs if run.elr is not None]
    labels = " or ".join(dict.fromkeys(REGIME_NAMES[run.regime] for run in runs))
    text += f"ends in {labels}, at an effective learning rate of {_spread(elrs)}"
    shares = [run.shares for run in runs if run.shares is not None]
    if shares:
        parts = {name: mean(share[name] for share in shares) for name in REGIMES}
        spent = [f"{REGIME_NAMES[name]} ({format_percent(part)} %)" for name, part in parts.items() if part >= 5e-4]
        text += f"; by ELR its steps fall into the sphere's {' and '.join(spent)}"
    ratios = [run.ratio for run in runs if run.ratio is not None]
    if ratios:
        text += f"; its loss is {format_number(median(ratios), 2)} times that of the sphere at the same ELR"
    return text + "."


def _spread(values: Sequence[float]) -> str:
    low, high = format_number(min(values), 2), format_number(max(values), 2)
    return low if low == high else f"{low} to {high}"


def _distance(one: Distance, result: ConventionalResult) -> str:
    runs, words = len(result.of(one.setup)), WORDS[one.setup][0].upper() + WORDS[one.setup][1:]
    if one.median is None or one.low is None or one.high is None:
        return f"{words}, no run levels off at an ELR at which the sphere does."
    text = (
        f"{words}, {one.runs} of {runs} runs level off at an ELR at which the sphere does too; their loss is "
        f"{format_number(one.median, 2)} times the sphere's there"
    )
    if one.runs > 1:
        text += f" (median; {format_number(one.low, 2)} to {format_number(one.high, 2)})"
    return f"{text}, within {100 * CLOSE:g} % in {one.close} of {one.runs}."


def outcomes(result: ConventionalResult, setup: Setup) -> str:
    """Which learning rates end in which regime, in words."""
    name = rate_name(setup)
    parts = []
    for regime in REGIMES:
        rates = sorted({run.lr for run in result.of(setup) if run.regime == regime})
        if rates:
            between = " to ".join(map(format_number, (rates[0], rates[-1])[: len(rates)]))
            parts.append(f"{REGIME_NAMES[regime]} at {name} {between}")
    return ", ".join(parts)


def warnings_of(result: ConventionalResult) -> list[str]:
    """What limits the comparison."""
    found = []
    counts = {setup: result.engine.invariant[setup] for setup in result.setups}
    other = next((s for s in counts if set(counts[s]) != set(counts[result.setups[0]])), None)
    if other is not None:
        first = result.setups[0]
        more = sorted(set(counts[other]) - set(counts[first])) or sorted(set(counts[first]) - set(counts[other]))
        found.append(
            f"ELR and gradient are those of {counted(len(counts[first]), 'tensor')} in the set-up {first} and of "
            f"{len(counts[other])} in the set-up {other} ({', '.join(more[:2])}{', ...' * (len(more) > 2)} as well): "
            "--elr-of weights counts convolutions and matrices in both."
        )
    lost = [run for run in result.runs if not run.finite]
    if lost:
        verb = "counts" if len(lost) == 1 else "count"
        found.append(f"{counted(len(lost), 'run')} became non-finite and {verb} as divergence.")
    if result.spec.schedule == "cosine" and result.of("all"):
        found.append(
            "With the cosine schedule the ordinary network's ELR falls to 0: its last quarter is no equilibrium, and "
            "its loss is not comparable with that at a fixed ELR."
        )
    if result.spec.weight_decay == 0:
        found.append("Without weight decay the norm only grows and the ELR only falls: there is no equilibrium.")
    return found
