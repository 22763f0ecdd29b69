"""What was found about learned features, in sentences: what is seen, and what is not decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from onsphere.lab.experiments.drop.result import Difference
from onsphere.lab.experiments.drop.words import describe_threshold
from onsphere.lab.experiments.features.result import FeaturesResult, Group, GroupName, StartSummary
from onsphere.lab.intervals import Interval
from onsphere.lab.report.words import format_number

__all__ = ["GROUP_NAMES", "answer", "describe", "of_interval", "percent"]

GROUP_NAMES: dict[GroupName, str] = {
    "small": "starts clearly below the convergence threshold",
    "above": "starts slightly above the threshold",
    "large": "larger starts",
}
_CLAIM = "That starts slightly above the convergence threshold leave fewer features than smaller and larger ones"


def answer(result: FeaturesResult) -> list[str]:
    """The finding first, then how sure it is, then test error; the last says what the intervals are over."""
    found = _features(result) if result.limit is not None else _bands(result)
    return [
        *found,
        _test_error(result),
        f"Intervals are those of 95 % over {result.spec.seeds} seeds of weights and batch order; the examples are the "
        "same in all runs, so how the numbers vary with the data is not measured.",
    ]


def describe(result: FeaturesResult) -> str:
    """The result in one line."""
    return answer(result)[0]


def of_interval(found: Interval, scale: float = 1.0, digits: int = 3) -> str:
    """A mean and its 95 % interval: ``9.5 (8.1 to 10.9)``."""
    mean, low, high = (format_number(scale * value, digits) for value in (found.mean, found.low, found.high))
    return f"{mean} ({low} to {high})"


def percent(found: Interval) -> str:
    """A mean share in percent with its 95 % interval: ``99.87 (99.80 to 99.94)``."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*(100 * value for value in (found.mean, found.low, found.high)))


def _features(result: FeaturesResult) -> list[str]:
    number, groups = result.spec.features, {group.name: group for group in result.groups}
    if not groups:
        return [
            f"{_fewest(result)}, of {number} redundant ones.",
            f"{_CLAIM} cannot be decided: the convergence threshold is not bracketed "
            f"({describe_threshold(result.threshold)}).",
        ]
    parts = [f"{of_interval(group.effective)} after {_named(group)}" for group in result.groups]
    return [
        f"Of {number} redundant features networks use an effective number of {_listed(parts)}.",
        _verdict(result),
        f"{_fewest(result)}; {describe_threshold(result.threshold)}.",
        *_useful(result, groups),
    ]


def _fewest(result: FeaturesResult) -> str:
    known = [one for one in result.starts if math.isfinite(one.effective.mean)]
    if not known:
        return "How many features networks use is not known: from every start some run became non-finite"
    lowest = min(known, key=lambda one: one.effective.mean)
    return (
        f"The fewest features, an effective number of {of_interval(lowest.effective)}, are left by the start at ELR "
        f"{format_number(lowest.start)}, which was picked for that"
    )


def _named(group: Group) -> str:
    ends = list(dict.fromkeys(format_number(start) for start in (group.starts[0], group.starts[-1])))
    return f"{GROUP_NAMES[group.name]} ({' to '.join(ends)})"


def _verdict(result: FeaturesResult) -> str:
    found = {one.other: one.difference for one in result.contrasts}
    missing = [GROUP_NAMES[name] for name in ("above", "small", "large") if name not in _names(result)]
    if missing:
        return f"{_CLAIM} is not decided: there are no {_listed(missing)}."
    parts = []
    for name, others in (("small", "smaller"), ("large", "larger")):
        if name in found:
            parts.append(f"beside {others} ones they leave {_fewer(found[name])}")
    verdict = {"seen": "is seen here", "not seen": "is not seen here", "not decided": "is not decided here"}
    return f"{_CLAIM} {verdict[result.verdict]}: {_listed(parts)}."


def _names(result: FeaturesResult) -> set[str]:
    return {group.name for group in result.groups}


def _fewer(difference: Difference) -> str:
    size = format_number(abs(difference.mean))
    side = "fewer" if difference.mean < 0 else "more"
    clear = "" if difference.clear else ", which is not clear"
    ends = f"difference {format_number(difference.low)} to {format_number(difference.high)}"
    return f"{size} features {side}{clear} ({ends})"


def _useful(result: FeaturesResult, groups: dict[GroupName, Group]) -> list[str]:
    every = fmean(part.best for part in result.parts if part.best is not None)
    known = {name: group.usefulness for name, group in groups.items() if math.isfinite(group.usefulness.mean)}
    if not known:
        return []
    parts = [f"{percent(found)} % after {GROUP_NAMES[name]}" for name, found in known.items()]
    return [
        f"The features used, weighted by what they add, allow an accuracy of {_listed(parts)} if one of them is read "
        f"as well as it can be; the mean of all is {100 * every:.2f} %."
    ]


def _bands(result: FeaturesResult) -> list[str]:
    control = next(one for one in result.starts if one.start == result.spec.end)
    most = max(range(len(result.parts)), key=lambda i: control.alone[i].mean)
    needed = min(range(len(result.parts)), key=lambda i: control.without[i].mean)
    clear = [d for d in result.differences if d.alone.clear]
    throughout = f"ELR {format_number(result.spec.end)} throughout"
    found = [
        f"With {throughout}, the band of {result.parts[most].name} periods over the image carries most alone, an "
        f"accuracy of {percent(control.alone[most])} %, and leaving out {result.parts[needed].name} costs most, with "
        f"{percent(control.without[needed])} % left.",
    ]
    if not result.differences:
        return found
    if clear:
        clear.sort(key=lambda one: -abs(one.alone.mean))
        told = [f"{_points(d.alone)} for {result.parts[d.part].name} from {format_number(d.start)}" for d in clear]
        more = f"; the largest: {_listed(told[:3])}" if len(told) > 3 else f": {_listed(told)}"
        found.append(
            f"Beside {throughout}, {len(clear)} of {len(result.differences)} pairs of a start and a band "
            f"{'differ' if len(clear) > 1 else 'differs'} clearly in the accuracy of the band alone{more} (points; "
            "intervals hold for all pairs at once)."
        )
    else:
        found.append(
            f"Which bands a start makes a network read is not decided: beside {throughout}, none of "
            f"{len(result.differences)} pairs of a start and a band differs clearly in the accuracy of the band alone."
        )
    left = sum(d.without.clear for d in result.differences)
    found.append(
        f"In the accuracy without a band {left or 'none'} of {len(result.differences)} pairs "
        f"{'differ' if left > 1 else 'differs'} clearly"
        + (", as the accuracy on whole images may do as well." if left else ".")
    )
    return found


def _points(found: Difference) -> str:
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _test_error(result: FeaturesResult) -> str:
    def told(one: StartSummary) -> str:
        return f"{percent(one.test_error)} % from ELR {format_number(one.start)}"

    lowest = min(result.starts, key=lambda one: (math.isnan(one.test_error.mean), one.test_error.mean))
    control = next(one for one in result.starts if one.start == result.spec.end)
    beside = "" if lowest is control else f"; without a drop it is {percent(control.test_error)} %"
    return f"The test error after the drop is lowest, {told(lowest)}{beside}."


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
