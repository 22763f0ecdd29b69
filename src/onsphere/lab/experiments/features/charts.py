"""The charts: how many features from which start, which ones; accuracy by band of frequency."""

from __future__ import annotations

from collections.abc import Callable

from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Heat, Line, Look, Panel, Points, Rule, Scale, Span
from onsphere.lab.chart.theme import GREY
from onsphere.lab.experiments.features.result import FeaturesResult, StartSummary
from onsphere.lab.intervals import Interval
from onsphere.lab.report.words import format_number

__all__ = ["alone_chart", "band_chart", "band_map", "error_chart", "sparsity_chart"]

_X = Axis("ELR before the drop", log=True)
ASIDE = 1.07  # of their start: dots of runs stand beside the bars of their mean
_DOTTED = INKED.but(width=1.2, dash="dot")


def sparsity_chart(result: FeaturesResult) -> Chart:
    """Effective number of features, their count, and the test error, against the start."""
    looks = series_looks(("effective", "count", "error"), width=1.8, marker="circle")
    runs = [run for run in result.runs if run.effective is not None]
    dots = Points(
        [ASIDE * run.start for run in runs],
        [run.effective for run in runs],
        looks["effective"].but(size=5, opacity=0.35),
        [f"from {format_number(run.start)}, seed {run.seed}<br>{run.count} features carry the label" for run in runs],
        entry="effective number of each run",
        listed=True,
    )
    marks = [
        _means(result, lambda one: one.effective, "effective number", looks["effective"]),
        _means(result, lambda one: one.count, "features that carry the label", looks["count"].but(marker="square")),
    ]
    control = _throughout(result, lambda one: one.effective)
    return Chart(
        "sparsity-chart",
        "How many redundant features a network uses",
        _X,
        [
            Panel(Axis("features", holds=(0.0,)), [dots, *marks, control], height=1.6),
            Panel(Axis("test error (%)", holds=(0.0,)), [_errors(result, looks["error"].but(marker="diamond"))]),
        ],
        (
            f"After all runs have gone on at ELR {format_number(result.spec.end)}: means with 95 % intervals over "
            "seeds; pale, each run. The effective number is the participation ratio of what features alone add to "
            "chance. Grey band: where convergence ends."
        ),
        "Number of features used and test error against the effective learning rate before the drop",
        rules=_rules(result),
        spans=_spans(result),
        height=620,
    )


def alone_chart(result: FeaturesResult) -> Chart:
    """Accuracies with a single feature alone: sorted within each run, and by feature, as two maps."""
    names = [format_number(one.start) for one in result.starts]
    ranked = [[100 * a for a in one.ranked] for one in result.starts]
    scale = Scale("accuracy (%)", low=50.0, high=max(map(max, ranked)))
    ranks = [str(rank + 1) for rank in range(len(result.parts))]
    by_noise = [str(part.part) for part in result.parts]
    hover = "from {y} · feature {x}<br>alone {z:.1f} %"
    panels = [
        Panel(
            Axis("ELR before the drop"),
            [Heat(ranks, names, ranked, scale, hover=hover)],
            x=Axis("rank within each run, best first"),
            title="sorted in each run",
        ),
        Panel(
            Axis(""),
            [Heat(by_noise, names, [[100 * a.mean for a in one.alone] for one in result.starts], scale, hover=hover)],
            x=Axis("feature, the least noisy first"),
            title="by feature",
        ),
    ]
    return Chart(
        "alone-chart",
        "Accuracy with a single feature alone",
        Axis("feature"),
        panels,
        (
            "Test accuracy in percent, mean over seeds; all other features say nothing of the label. Left: sorted in "
            "each run before the mean is taken, so that a row that ends early is a network of few features. Right: "
            "which ones."
        ),
        "Test accuracy with a single feature alone for every start, sorted and by feature",
        columns=2,
        height=190 + 32 * len(names),
        size=(9.0, 1.8 + 0.28 * len(names)),
    )


def band_chart(result: FeaturesResult) -> Chart:
    """Test accuracy with each band alone and without it against the start, one curve a band."""
    looks = series_looks([part.part for part in result.parts], width=1.6, marker="circle", size=6)

    def curves(of: Callable[[StartSummary], list[Interval]]) -> list[Line]:
        found = []
        for part in result.parts:

            def value(one: StartSummary, part: int = part.part) -> Interval:
                return of(one)[part]

            found.append(_means(result, value, part.name, looks[part.part], scale=100, unit=" %"))
        return found

    return Chart(
        "band-chart",
        "Test accuracy by band of frequency",
        _X,
        [
            Panel(Axis("band alone (%)"), curves(lambda one: one.alone)),
            Panel(Axis("without the band (%)"), curves(lambda one: one.without)),
        ],
        (
            "Means over seeds with 95 % intervals. Above: of the image only the band of frequencies |f_x| + |f_y| is "
            "left. Below: everything but the band. Grey band: where convergence ends."
        ),
        "Test accuracy with each band of frequency alone and without it against the start",
        legend="periods over the image",
        rules=_rules(result),
        spans=_spans(result),
        height=640,
    )


def band_map(result: FeaturesResult) -> Chart:
    """Accuracy with each band alone minus that of the control, as a map of starts and bands."""
    names = [format_number(one.start) for one in result.starts]
    control = next(one for one in result.starts if one.start == result.spec.end)
    values = [[100 * (a.mean - b.mean) for a, b in zip(one.alone, control.alone, strict=True)] for one in result.starts]
    clear = {(d.start, d.part) for d in result.differences if d.alone.clear}
    labels = [
        [f"{value:+.1f}{' *' if (one.start, i) in clear else ''}" for i, value in enumerate(row)]
        for one, row in zip(result.starts, values, strict=True)
    ]
    return Chart(
        "band-map",
        "Which bands a start adds",
        Axis("band, periods over the image"),
        [
            Panel(
                Axis("ELR before the drop"),
                [
                    Heat(
                        [part.name for part in result.parts],
                        names,
                        values,
                        Scale("points"),
                        labels=labels,
                        hover="from {y} · band {x}<br>{z:+.2f} points",
                    )
                ],
            )
        ],
        (
            f"Accuracy with the band alone minus that of ELR {format_number(result.spec.end)} throughout, points, mean "
            "over seeds. *: the 95 % interval, which holds for all fields at once, leaves out zero."
        ),
        "Accuracy with each band alone beside training without a drop, for every start",
        height=170 + 34 * len(names),
        size=(2.6 + 0.8 * len(result.parts), 1.8 + 0.32 * len(names)),
    )


def error_chart(result: FeaturesResult) -> Chart:
    """Test error after the drop against the start."""
    look = series_looks(("error",), width=1.8, marker="diamond")["error"]
    return Chart(
        "error-chart",
        "Test error after the drop",
        _X,
        [Panel(Axis("test error (%)"), [_errors(result, look)])],
        "Of whole images, mean over seeds with 95 % intervals. Grey band: where convergence ends.",
        "Test error after the drop against the effective learning rate before it",
        rules=_rules(result),
        spans=_spans(result),
        height=360,
    )


def _errors(result: FeaturesResult, look: Look) -> Line:
    return _means(result, lambda one: one.test_error, "test error", look, scale=100, unit=" %")


def _means(
    result: FeaturesResult,
    value: Callable[[StartSummary], Interval],
    name: str,
    look: Look,
    scale: float = 1.0,
    unit: str = "",
) -> Line:
    """The means of every start with their 95 % intervals."""
    found = [value(one) for one in result.starts]
    return Line(
        [one.start for one in result.starts],
        [scale * one.mean for one in found],
        look,
        f"from {{x:.3g}} · {name}<br>{{y:.4g}}{unit} ± {{reach:.2g}}",
        columns={"reach": [scale * (one.high - one.mean) for one in found]},
        error=[scale * (one.high - one.mean) for one in found],
        entry=name,
    )


def _throughout(result: FeaturesResult, value: Callable[[StartSummary], Interval]) -> Line:
    """The level of the control, across all starts."""
    ends = [result.starts[0].start, result.starts[-1].start]
    control = next(one for one in result.starts if one.start == result.spec.end)
    name = f"ELR {format_number(result.spec.end)} throughout"
    level = value(control).mean
    return Line(
        ends,
        [level, level],
        INKED.but(colour=GREY, dark=GREY, width=1.2, dash="dash"),
        f"{name}: {{y:.3g}}",
        entry=name,
    )


def _spans(result: FeaturesResult) -> list[Span]:
    """The stretch in which convergence ends."""
    low, high = result.threshold.low, result.threshold.high
    return [] if low is None or high is None else [Span(low, high, name="convergence ends", kind="bracket")]


def _rules(result: FeaturesResult) -> list[Rule]:
    """The line where divergence begins."""
    start = result.threshold.divergence
    return [] if start is None else [Rule(start, "divergence", along="x", look=_DOTTED)]
