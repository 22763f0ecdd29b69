"""What was found, in sentences."""

from __future__ import annotations

import math
from statistics import median

from onsphere.lab.experiments.zones.result import ZonesResult, agreement
from onsphere.lab.report.words import format_number, format_range

__all__ = ["answer", "describe"]

ZONE = 1.2  # rise of sharpness from which a stretch of a path is called a zone
LATE = 0.5  # share of the loss at step 0 below which sharpness tells what a step does


def describe(result: ZonesResult) -> str:
    """The result in one line."""
    counts = ", ".join(f"{count} {name}" for name, count in result.counts().items() if count)
    return f"{_zone(result)} Continuations: {counts}."


def answer(result: ZonesResult) -> list[str]:
    """Sentences: the zone, what happens to those who cross it with other ELRs, how well 2 / ELR tells."""
    return [_zone(result), *_others(result), _outcomes(result), *_threshold(result), *_flatter(result)]


def _zone(result: ZonesResult) -> str:
    elr = result.spec.path_elrs[0]
    zones = [zone for zone in result.zones if zone.elr == elr]
    rising = [zone for zone in zones if zone.rise > ZONE]
    if not rising:
        return (
            f"No zone of high sharpness lies on the path of ELR {format_number(elr)}: sharpness never rises by more "
            f"than a factor {format_number(max(zone.rise for zone in zones))} above what it was before."
        )
    some = f"{len(rising)} of {len(zones)} paths" if len(rising) < len(zones) else "the path"
    highest = max(zone.sharpness for zone in rising)
    return (
        f"On {some} of ELR {format_number(elr)} lies a zone of high sharpness: after a first fall sharpness rises by "
        f"a factor of {format_range(zone.rise for zone in rising)}, up to {format_number(highest)}, at a loss of "
        f"{format_range(zone.loss for zone in rising)}; 2 / sharpness there is an ELR of {format_number(2 / highest)}."
    )


def _others(result: ZonesResult) -> list[str]:
    """What larger ELRs have made of the zone on paths of their own."""
    found = []
    first = result.spec.path_elrs[0]
    for elr in result.spec.path_elrs[1:]:
        own, base = (median(z.sharpness for z in result.zones if z.elr == e) for e in (elr, first))
        highest = max(point.product for point in result.path if point.elr == elr and point.step)
        found.append(
            f"A path of ELR {format_number(elr)} has a sharpness of {format_number(own)} at its zone instead of "
            f"{format_number(base)} (medians over seeds); its ELR · sharpness is {format_number(highest)} at most."
        )
    return found


def _outcomes(result: ZonesResult) -> str:
    counts, total = result.counts(), len(result.continuations)
    parts = {
        "at once": "converge at once, no higher than the path",
        "up first": "go up first and come through",
        "held": "stay above the path without rising",
        "leaves": "go up and do not come back",
    }
    told = ", ".join(f"{counts[name]} {words}" for name, words in parts.items() if counts[name])
    return f"Of {total} continuations {told}, within {result.spec.continue_steps} steps."


def _threshold(result: ZonesResult) -> list[str]:
    limit, found = LATE * median(point.loss for point in result.main if point.step == 0), []
    up, above, flat, below = agreement([row for row in result.continuations if row.loss < limit])
    if above and below:
        found.append(
            f"ELR · sharpness where they begin tells most: once the loss is below half of that at step 0, {up} of "
            f"{above} above 2 go up, and {flat} of {below} below 2 do not."
        )
    up, above, _, _ = agreement([row for row in result.continuations if row.loss >= limit])
    if above:
        found.append(f"At the higher losses before, {up} of {above} above 2 go up: there it is no threshold.")
    return found


def _flatter(result: ZonesResult) -> list[str]:
    rows = [r for r in result.continuations if r.outcome == "up first" and math.isfinite(r.end_sharpness)]
    if not rows:
        return []
    ratio = median(row.end_sharpness / row.sharpness for row in rows)
    product = median(row.elr * row.end_sharpness for row in rows)
    return [
        f"Those that go up first and come through end in flatter places: sharpness there is {100 * ratio:.0f} % of "
        f"what it was where they began, ELR · sharpness {format_number(product)} (medians)."
    ]
