"""What a spectrum found, in sentences: trends with their intervals, and "not clear" where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from onsphere.lab.experiments.spectrum.result import SpectrumResult, Trend
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import MISSING, format_number

__all__ = ["NAMES", "answer", "change_text", "describe", "place_name", "warnings_of"]

NAMES: Mapping[str, str] = {
    "batch_loss": "minibatch loss",
    "gradient_norm": "mean gradient norm",
    "sharpness": "sharpness",
    "train_loss": "train loss",
    "test_loss": "test loss",
    "test_error": "test error",
    "angle": "angle from init",
    "loss_barrier": "barrier to the minimum of the smallest ELR",
}


def answer(result: SpectrumResult) -> list[str]:
    """The finding at matched loss, what that does on test data, and how far apart the minima are."""
    sentences = []
    if result.target is None:
        sentences.append("No run converged, so that there is no loss at which they could be compared.")
    else:
        place = f"At a train loss of {format_number(result.target)}"
        gradient, sharpness = (result.trend("matched", name) for name in ("gradient_norm", "sharpness"))
        sentences.append(f"{place} {_phrase(gradient)}; {_phrase(sharpness)}.")
    loss, error, travelled = (result.trend("end", name) for name in ("test_loss", "test_error", "angle"))
    sentences.append(f"At the end of training {_phrase(loss)}; {_phrase(error)}; {_phrase(travelled)}.")
    if far := _between(result):
        sentences.append(far)
    ends = " to ".join(format_number(elr) for elr in (result.elrs[0], result.elrs[-1]))
    sentences.append(f"Changes are from the smallest to the largest ELR ({ends}), in brackets their 95 % intervals.")
    return sentences


def warnings_of(result: SpectrumResult) -> list[str]:
    """What stands in the way of reading the spectrum as one of regime 1."""
    found = []
    other = [run for run in result.runs if run.regime != "convergence"]
    if other:
        smallest = min(run.elr for run in other)
        found.append(
            f"{counted(len(other), 'run')} of {len(result.runs)}, from ELR {format_number(smallest)} on, did not "
            "converge within these steps by the rules of onsphere regimes: what stands at their end is no minimum."
        )
    late = [run for run in result.runs if run.matched is None]
    if late and result.target is not None:
        found.append(
            f"{counted(len(late), 'run')} never reached the train loss {format_number(result.target)} and "
            f"{'is' if len(late) == 1 else 'are'} missing there."
        )
    if len(result.seeds) == 1:
        found.append("One seed has no spread, so that no trend is called clear; take --seeds 3 or more.")
    return found


def describe(result: SpectrumResult) -> str:
    """The result in one line."""
    trend = result.trend("matched", "gradient_norm")
    return f"{len(result.runs)} runs; at train loss {format_number(result.target)} {_phrase(trend)}"


def place_name(result: SpectrumResult, where: str) -> str:
    """A place of the runs as the page writes it."""
    if where == "pairs":
        return "pairs at the end"
    return f"end, step {result.spec.steps}" if where == "end" else f"train loss {format_number(result.target)}"


def change_text(trend: Trend) -> str:
    """The mean change with its interval, as a factor, in points or in radians."""
    if trend.mean is None:
        return MISSING
    scale, unit = {"test_error": (100.0, " points"), "angle": (1.0, " rad")}.get(trend.quantity, (1.0, ""))
    if trend.kind == "ratio":
        text = f"by the factor {format_number(trend.mean, 2)}"
    else:
        text = f"by {'+' if trend.mean > 0 else ''}{format_number(scale * trend.mean, 2)}{unit}"
    if trend.low is None or trend.high is None:
        return text
    return f"{text} ({format_number(scale * trend.low, 2)} to {format_number(scale * trend.high, 2)})"


def _phrase(trend: Trend) -> str:
    """The quantity, its verdict, its change with the interval."""
    name = f"the {NAMES[trend.quantity]}"
    if trend.mean is None:
        return f"{name} has too few values"
    seeds = f"in {trend.agreeing} of {len(trend.changes)} seeds"
    verb = {
        "rises": f"rises with the ELR {seeds}",
        "falls": f"falls with the ELR {seeds}",
        "not clear": f"has no clear trend ({'higher' if trend.mean_rises else 'lower'} {seeds})",
    }
    return f"{name} {verb[trend.verdict]}, {change_text(trend)}"


def _between(result: SpectrumResult) -> str:
    """Barriers and angles between neighbours, and between the smallest and the largest ELR."""
    elrs, known = result.elrs, [pair for pair in result.pairs if pair.loss_barrier is not None]
    far = [pair for pair in known if (pair.low, pair.high) == (elrs[0], elrs[-1])]
    near = [pair for pair in known if elrs.index(pair.high) == elrs.index(pair.low) + 1]
    if not far or not near:
        return ""
    barriers = [fmean(p.loss_barrier for p in pairs if p.loss_barrier is not None) for pairs in (near, far)]
    angles = [fmean(pair.angle for pair in pairs) for pairs in (near, far)]
    verdict = {
        "rises": "Minima part with the ELR",
        "falls": "Minima of far ELRs are not further apart",
        "not clear": "Whether minima of far ELRs are separated is not clear",
    }[result.barriers.verdict]
    return (
        f"{verdict}: those of neighbouring ELRs are {angles[0]:.2f} rad apart with a barrier of "
        f"{format_number(barriers[0], 2)} in train loss, those of the smallest and the largest ELR {angles[1]:.2f} rad "
        f"with {format_number(barriers[1], 2)} (means over seeds)."
    )
