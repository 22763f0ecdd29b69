"""The chart of the paths between continuations and average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Line, Panel, Rule
from onsphere.lab.experiments.drop.analyse import path_of
from onsphere.lab.experiments.drop.charts.parts import DASHED, rules_of, spans_of, x_axis
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.intervals import standard_error

PAIR_NAMES: Mapping[str, str] = {
    "low-high": "smallest – largest final {rate}",
    "average-low": "average – smallest final {rate}",
    "average-high": "average – largest final {rate}",
}
WAYS = {"geodesic": "a great circle", "chord": "a straight line of all weights"}


def barrier_chart(result: DropResult) -> Chart:
    """Error and loss barriers against the start, one curve a pair of ends and kind of path; there has to be a path."""
    looks = series_looks(PAIR_NAMES, marker="circle", size=6)
    kinds = sorted({path.path for path in result.paths}, key=lambda kind: kind != path_of(result.paths))

    def curves(
        name: str, scale: float, floor: float, unit: str, told: str = "barrier", of: Sequence[str] = kinds
    ) -> list[Line]:
        """Means by start, none below a floor, so that a logarithmic axis shows all of them."""
        found = []
        for pair, kind in ((pair, kind) for kind in of for pair in PAIR_NAMES):
            entry = PAIR_NAMES[pair].format(rate=result.spec.rate) + (", chord" if kind != kinds[0] else "")
            look = looks[pair] if kind == kinds[0] else looks[pair].but(dash="dash", marker="diamond", hollow=True)
            rows = _by_start(result, name, scale, kind, pair)
            means = [float(np.mean(values)) for values in rows.values()]
            spread = [float(np.nan_to_num(standard_error(values))) for values in rows.values()]
            shown = [max(mean, floor) for mean in means]
            line = Line(
                list(rows),
                shown,
                look,
                f"from {{x:.3g}} · {entry}<br>{told} {{mean:.3g}}{unit}",
                columns={"mean": means},
                error=spread,
                error_down=[min(se, value - floor) for se, value in zip(spread, shown, strict=True)],
                entry=entry,
            )
            found += [line] if rows else []
        return found

    allowed = _by_start(result, "allowed", 100, kinds[0])
    limits = [float(np.mean(values)) for values in allowed.values()]
    limit = Line(list(allowed), limits, DASHED, "connected up to {y:.2f} %", entry="connected below")
    classes = [Rule(c.start, f"<b>{c.label}</b>", along="x", look=INKED.but(width=0)) for c in result.classes]
    spans, rules = spans_of(result, named=False), rules_of(result, named=False)
    note = ["grey: where convergence ends"] * len(spans) + ["dotted: where divergence begins"] * len(rules)
    panels = [
        Panel(
            Axis("error barrier (% of train images)", log=True),
            [*curves("error_barrier", 100.0, 0.01, " %"), limit],
            rules=classes,
        ),
        Panel(Axis("train loss barrier", log=True), curves("loss_barrier", 1.0, 1e-4, "")),
    ]
    if result.tested:
        tested = curves("test_error_barrier", 100.0, 0.01, " %")
        panels.append(Panel(Axis("error barrier (% of test images)", log=True), tested))
    if result.angled:
        panels.append(Panel(Axis("angle (rad)", holds=(0.0,)), curves("angle", 1.0, 0.0, " rad", "angle", kinds[:1])))
    dashed = " Dashed with diamonds: the same on straight lines (chords)." if len(kinds) > 1 else ""
    return Chart(
        "barrier-chart",
        "Barriers between continuations and average",
        x_axis(result),
        panels,
        (
            f"Largest rise of training error, training loss{' and test error' if result.tested else ''} over the line "
            f"between the ends of {WAYS[kinds[0]]}, batch statistics re-estimated at every point; mean over seeds ± "
            "one standard error. Smaller barriers, and none, are drawn at 0.01 % and 0.0001. On top the class of each "
            "start."
            f"{dashed}{' Last: the angle between the ends.' if result.angled else ''}"
        ),
        "Error and loss barriers between continuations and average against the start",
        rules=rules,
        spans=spans,
        note="; ".join(note),
        file="barriers",
        height=max(640, 260 * len(panels)),
    )


def _by_start(result: DropResult, name: str, scale: float, kind: str, pair: str = "") -> dict[float, list[float]]:
    """An attribute of the paths of a kind, or of those of one pair of ends, by start, where there are some."""
    own = [path for path in result.paths if pair in ("", path.pair) and path.path == kind]
    rows = {s: [scale * getattr(path, name) for path in own if path.start == s] for s in result.starts}
    return {start: values for start, values in rows.items() if values}
