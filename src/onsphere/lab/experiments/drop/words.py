"""What a drop experiment found, in sentences: the best start with its interval, the threshold, the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onsphere.lab.experiments.drop.analyse import WITHIN
from onsphere.lab.experiments.drop.result import Analysis, Best, Difference, DropResult, Flatness, StartClass, Threshold
from onsphere.lab.report.words import format_number

__all__ = ["answer", "describe", "describe_threshold", "described_classes", "interval"]

_MEANINGS = {
    "1": "converge by themselves",
    "2A": "chaotic equilibrium, one basin",
    "2B": "chaotic equilibrium, basin lost",
    "2": "chaotic equilibrium",
    "3": "diverge before the drop",
}


def answer(result: DropResult) -> list[str]:
    """The finding first, then how far it may be trusted, then what the geometry says."""
    best = result.lowest
    rate = result.spec.rate
    sentences = [_headline(best, rate), _constant(result, rate), _selection(best), _bracket(result, best, rate)]
    sentences += [_other(other, rate) for other in result.best if other is not best]
    sentences.append(_stages(result, rate))
    sentences += [_flatness(result, found, rate) for found in result.flatness]
    sentences.append(_average(result, len(result.snapshots), rate))
    if result.paths:
        sentences.append(f"Starts by class: {described_classes(result.classes)}.")
    return [sentence for sentence in sentences if sentence]


def describe(result: DropResult) -> str:
    """The result in one line."""
    return _headline(result.lowest, result.spec.rate)


def describe_threshold(found: Threshold, rate: str = "ELR") -> str:
    """Where convergence ends, so far, in one line."""
    ends = ["?" if end is None else f"{end:.2g}" for end in (found.low, found.high)]
    return f"convergence ends between {rate} {ends[0]} and {ends[1]}"


def described_classes(classes: Sequence[StartClass]) -> str:
    """Which starts are of which class, in one line."""
    parts = []
    for label, meaning in _MEANINGS.items():
        own = [c.start for c in classes if c.label == label]
        if own:
            together = own == [c.start for c in classes if own[0] <= c.start <= own[-1]]
            told = map(format_number, (own[0], own[-1]) if together and len(own) > 1 else own)
            parts.append(f"{label} ({meaning}) {(' to ' if together else ', ').join(told)}")
    return "; ".join(parts)


def interval(difference: Difference) -> str:
    """A difference of shares in points with its interval: ``-1.67 (-2.60 to -0.70)``."""
    mean, low, high = (f"{100 * value:.2f}" for value in (difference.mean, difference.low, difference.high))
    return f"{mean} ({low} to {high})"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _headline(best: Best, rate: str) -> str:
    end = format_number(best.end)
    if best.gain is None:
        told = f"{rate} {end} throughout has the lowest test error, {_percent(best.no_drop)}"
        return f"No start is better than none: {told}."
    return (
        f"Training at {rate} {format_number(best.start)} and then at {end} gives the lowest mean test error, "
        f"{_percent(best.test_error)}, against {_percent(best.no_drop)} at {rate} {end} throughout with as many steps: "
        f"{_points(best.gain)}."
    )


def _points(gain: Difference) -> str:
    ends = sorted((abs(gain.low), abs(gain.high))) if gain.clear else [-gain.high, -gain.low]
    size = f"{100 * abs(gain.mean):.2f} points"
    spread = f"95 % interval {100 * ends[0]:.2f} to {100 * ends[1]:.2f}, {gain.seeds} seeds"
    return f"{size} fewer ({spread})" if gain.clear else f"{size} fewer, which is not clear ({spread})"


def _selection(best: Best) -> str:
    if best.gain is None:
        return ""
    parts = list[str]()
    for clear, said in ((False, "is not clearly better"), (True, "is clearly better")):
        beside = [format_number(start) for start, d in best.neighbours if d.clear == clear]
        if beside:
            neighbours = f"neighbour{'s' if len(beside) > 1 else ''} {' and '.join(beside)}"
            parts.append(f"{'it' if parts else 'The best start'} {said} than its {neighbours}")
    if best.held_out is not None:
        parts.append(
            f"{'if' if parts else 'If'} the other seeds choose each seed's start, the mean gain is "
            f"{-100 * best.held_out:.2f} points"
        )
    return "; ".join(parts) + "." if parts else ""


def _bracket(analysis: Analysis, best: Best, rate: str) -> str:
    limits = analysis.threshold
    if limits.value is None:
        side = "No start converges" if limits.low is None else "Every start converges"
        return f"{side} in most seeds before the drop, so the convergence threshold is not bracketed."
    ends = f"Convergence ends between {rate} {format_number(limits.low)} and {format_number(limits.high)}"
    fitted = "" if limits.fitted else " (judged by the falling loss: no run fits its training images before the drop)"
    ratio = f"the best start is {format_number(best.start / limits.value, 2)} times the former"
    inside = "within" if best.within else "outside"
    return f"{ends}{fitted}; {ratio}, {inside} the range from 1 to {WITHIN:g} times."


def _stages(result: DropResult, rate: str) -> str:
    """The best of the starts in stages beside its stages alone."""
    found = [(cell, one) for one in result.staged for cell in one.matrix if cell.seeds]
    if not found:
        return ""
    cell, one = min(found, key=lambda each: each[0].test_error)
    beside = [
        f"at {format_number(each.rate)} alone {interval(each.difference)}"
        for each in one.differences
        if each.end == cell.end
    ]
    return (
        f"Of starts in stages {one.name}, then {rate} {format_number(cell.end)}, is best, {_percent(cell.test_error)}; "
        f"minus the test error after as many steps {', '.join(beside)} points (95 % intervals)."
    )


def _flatness(result: DropResult, found: Flatness, rate: str) -> str:
    """Whether flat goes with good at one train loss."""
    mean, low, high = found.correlation.mean, found.correlation.low, found.correlation.high
    where = f"At a train loss of {format_number(result.spec.matched_loss)} after the drop to {rate} "
    where += f"{format_number(found.end)}, over {found.starts} starts"
    if math.isnan(mean):
        return f"{where}, sharpness and test error have no rank correlation in every seed."
    said = "" if found.correlation.clear else ", which is not clear"
    return (
        f"{where}, the rank correlation of sharpness and test error is {mean:.2f} (95 % interval {low:.2f} to "
        f"{high:.2f}, {found.correlation.seeds} seeds){said}."
    )


def _average(analysis: Analysis, snapshots: int, rate: str) -> str:
    best = analysis.average
    if best is None:
        return ""
    over, snapshots = best.over_drop, best.snapshots or snapshots
    found = (
        f"Without a drop, the average of the last {snapshots} snapshots is best at {rate} {format_number(best.start)}, "
        f"{_percent(best.test_error)}:"
    )
    mean, *ends = (100 * value for value in (over.mean, over.low, over.high))
    if not over.clear:
        spread = f"95 % interval {ends[0]:.2f} to {ends[1]:.2f}"
        return f"{found} not clearly different from the best drop ({mean:.2f} points, {spread})."
    low, high = sorted(map(abs, ends))
    beside = f"{abs(mean):.2f} points {'more' if over.mean > 0 else 'fewer'}"
    return f"{found} {beside} than the best drop (95 % interval {low:.2f} to {high:.2f})."


def _constant(analysis: Analysis, rate: str) -> str:
    best = analysis.constant
    if best is None or best.elr == analysis.lowest.end:
        return ""
    found = f"The best of the final {rate}s without a drop is {format_number(best.elr)}, {_percent(best.test_error)}"
    if best.drop.mean < 0:
        return f"{found}: beside it the drop has {_points(best.drop)}."
    return f"{found}, which no drop beats."


def _other(best: Best, rate: str) -> str:
    end = format_number(best.end)
    if best.gain is None:
        return f"To {rate} {end}: no start is better than none ({_percent(best.no_drop)})."
    return (
        f"To {rate} {end}: best from {format_number(best.start)}, {_percent(best.test_error)} against "
        f"{_percent(best.no_drop)}, {_points(best.gain)}."
    )
