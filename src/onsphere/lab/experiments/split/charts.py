"""The charts of the memory split: values over members, size, budget and temperature, with laws and the best split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Line, Look, Panel, Points, Scale, numbers
from onsphere.lab.experiments.split.pools.points import KINDS, Law, Point
from onsphere.lab.experiments.split.result import SCALE, BudgetAnswer, SplitResult, SplitRow
from onsphere.lab.report.sections import counted

__all__ = ["curves_chart", "envelope_chart", "fixed_chart", "laws_chart", "plane_chart", "splits_chart"]
__all__ += ["temperature_chart"]

_AXES = {"nll": "NLL (nats)", "cnll": "CNLL (nats)", "accuracy": "accuracy (%)"}


def splits_chart(result: SplitResult) -> Chart:
    """Every metric over the number of members, a line a budget, the best split marked."""
    looks = series_looks(answer.budget for answer in result.budgets)
    what = "predicted from four networks a width, bars: jackknife" if result.predicted else "means over seeds, bars:"
    return Chart(
        id="splits-chart",
        title="One budget, split among more and more networks",
        x=_counts("networks that share the budget", (row.members for row in result.rows)),
        panels=[
            Panel(Axis(axis), [mark for own in result.budgets for mark in _budget(own, metric, looks[own.budget])])
            for metric, axis in _AXES.items()
        ],
        legend="budget",
        caption=(
            f"Each budget split among 1, 2, ... networks; {what} standard errors. Stars: the best split of a budget. "
            "Low NLL and CNLL, and high accuracy, are good."
        ),
        label="NLL, CNLL and accuracy over the number of networks that share a budget",
    )


def _budget(answer: BudgetAnswer, metric: str, look: Look) -> list[Points]:
    """The splits of one budget, and a star at the best."""
    name, rows = f"{answer.budget:,}", _known(answer, metric)
    best = [row for row in rows if row.members == answer.best[metric]]
    hover = (
        f"budget {name} · {{members}} x width {{width}}, {{parameters:,}} parameters each<br>{_AXES[metric]} {{y:.4g}}"
    )
    columns = {key: [getattr(row, key) for row in rows] for key in ("members", "width", "parameters")}
    star = look.but(marker="star", size=17)
    return [
        _line(rows, metric, "members", look, entry=name, hover=hover, columns=columns),
        Points([row.members for row in best], _values(best, metric), star, entry=name, listed=False),
    ]


def curves_chart(result: SplitResult) -> Chart | None:
    """NLL and CNLL of ensembles of every size, a colour a width, with the laws; None where there is nothing to draw."""
    if not any(p.size > 1 for p in result.curves):
        return None
    looks = series_looks(sorted({p.width for p in result.curves}), width=1.2)

    def marks(metric: str) -> list[Points]:
        found = [mark for width, look in looks.items() for mark in _width(result, width, metric, look)]
        for answer in result.budgets:
            rows, hover = _known(answer, metric), f"budget {answer.budget:,}"
            x, y = [row.members for row in rows], _values(rows, metric)
            found.append(Line(x, y, INKED.but(width=1), hover, entry="equal budget"))
        return found

    return Chart(
        id="curves-chart",
        title="Ensembles of one width, with their power laws; dark: equal budgets",
        x=_counts("networks in the ensemble", [*(p.size for p in result.curves), *(r.members for r in result.rows)]),
        panels=[Panel(Axis(_AXES[metric]), marks(metric)) for metric in ("nll", "cnll")],
        caption=(
            "A colour for each width: ensembles of more and more networks of that width, with standard errors; dotted: "
            "the fitted power law limit + scale · size^exponent. Dark lines: equal budgets, from one wide network to "
            "many thin ones; the best split is where such a line is lowest."
        ),
        label="NLL and CNLL over ensemble size for every width, with fitted power laws",
    )


def _width(result: SplitResult, width: int, metric: str, look: Look) -> list[Points]:
    """The ensembles of one width, and their law."""
    own = sorted((p for p in result.curves if p.width == width), key=lambda p: p.size)
    law = next((law for law in result.laws if (law.width, law.metric) == (width, metric)), None)
    at, most = [p.size for p in own], max(own[-1].size, *(row.members for row in result.rows))
    return _with_law(metric, at, own, law, look, f"width {width}", f"{{x}} networks of width {width}", most)


def _with_law(
    metric: str,
    at: Sequence[int],
    points: Sequence[Point],
    law: Law | None,
    look: Look,
    name: str,
    said: str,
    most: int,
) -> list[Points]:
    """Points with error bars, and their law as far as ``most``; without a law they are joined by a line."""
    fitted = law is not None and law.law is not None
    values, errors = [p.mean[metric] for p in points], [p.standard_error[metric] for p in points]
    marked, hover = look.but(marker="circle"), f"{said}<br>{_AXES[metric]} {{y:.4g}}"
    found = [(Points if fitted else Line)(at, values, marked, hover, error=errors, entry=name)]
    if law is not None and fitted:
        drawn = np.geomspace(min(at), most, 60)
        found.append(Line(drawn, law(drawn), look.but(dash="dot"), entry=name, listed=False))
    return found


def envelope_chart(result: SplitResult) -> Chart | None:
    """The best split of every budget beside the single network; None for one budget."""
    answers = [answer for answer in result.budgets if answer.has_single]
    if len(answers) < 2:
        return None
    looks = series_looks(("single network", "best split"))
    looks["single network"] = looks["single network"].but(width=3.5, size=10)

    def marks(metric: str) -> list[Line]:
        best = [answer.row(answer.best[metric]) for answer in answers]
        lines = {"single network": [answer.row(1) for answer in answers], "best split": best}
        return [
            _line(
                rows,
                metric,
                "budget",
                looks[name],
                entry=name,
                hover=f"{name} of {{x:,}}<br>{_AXES[metric]} {{y:.4g}}",
                labels=[str(row.members) for row in rows] if rows is best else (),
                side="upper right" if metric == "nll" else "lower right",
            )
            for name, rows in lines.items()
        ]

    return Chart(
        id="envelope-chart",
        title="Best split and single network over the budget",
        x=_counts(f"budget ({result.spec.unit})", (answer.budget for answer in result.budgets)),
        panels=[Panel(Axis(_AXES[metric]), marks(metric)) for metric in ("nll", "accuracy")],
        caption="The best split of every budget, labelled with its number of networks, beside the single wide network.",
        label="NLL and accuracy of the best split and of the single network over the budget",
    )


def plane_chart(result: SplitResult) -> Chart | None:
    """NLL and CNLL of every ensemble over its members and the size of one; None where there is nothing to compare."""
    sizes = result.parameters
    every = [p.mean[m] for p in result.curves for m in ("nll", "cnll") if math.isfinite(p.mean[m])]
    if len(result.curves) < 3 or not every:
        return None
    scale = Scale("NLL, CNLL (nats)", min(every), max(every), reverse=True)  # one for both panels

    def marks(metric: str) -> list[Points]:
        known = [p for p in result.curves if math.isfinite(p.mean[metric])]
        values = [p.mean[metric] for p in known]
        found: list[Points] = []
        for answer in result.budgets:
            rows, best = answer.splits, answer.row(answer.best[metric])
            x, y, name = [r.members for r in rows], [r.parameters for r in rows], f"budget {answer.budget:,}"
            dashed = INKED.but(width=1, dash="dash", opacity=0.6)
            found.append(Line(x, y, dashed, name, entry="equal budget"))
            star = INKED.but(marker="star", size=22, hollow=True)
            found.append(Points([best.members], [best.parameters], star, f"best split of {name}", entry="best split"))
        found.append(
            Points(
                [p.size for p in known],
                [sizes[p.width] for p in known],
                Look(marker="circle", size=13, edge=True),
                f"{{x}} networks of width {{width}}, {{y:,.0f}} parameters each<br>{_AXES[metric]} {{value:.4g}}",
                columns={"width": [p.width for p in known], "value": values},
                values=values,
                scale=scale,
            )
        )
        return found

    return Chart(
        id="plane-chart",
        title="Number and size of networks",
        x=_counts("networks in the ensemble", [*(p.size for p in result.curves), *(r.members for r in result.rows)]),
        panels=[
            Panel(Axis("parameters of one network", log=True), marks(metric), title=metric.upper())
            for metric in ("nll", "cnll")
        ],
        columns=2,
        caption=(
            "Every ensemble that was measured, coloured by its value: light is good. Dashed lines join what costs the "
            "same budget; stars stand around the best split of each."
        ),
        label="NLL and CNLL over the number of networks and the size of one, with lines of equal budget",
    )


def laws_chart(result: SplitResult) -> Chart | None:
    """NLL and CNLL over the size of a network, and of the best split over the budget; None for results without laws."""
    if not result.wider_laws or not result.curves:
        return None
    sizes, several = result.parameters, len(result.budgets) > 1
    counts = sorted({p.size for p in result.curves})
    looks = series_looks(counted(n, "network") for n in counts)

    laws = {(law.along, law.members, law.metric): law for law in result.wider_laws}

    def over_size(metric: str) -> list[Points]:
        found: list[Points] = []
        for n in counts:
            own = sorted((p for p in result.curves if p.size == n), key=lambda p: sizes[p.width])
            name, at, law = counted(n, "network"), [sizes[p.width] for p in own], laws.get(("size", n, metric))
            said = f"{name} of {{x:,.0f}} parameters"
            found += _with_law(metric, at, own, law, looks[name], name, said, max(at))
        return found

    def over_budget(metric: str) -> list[Points]:
        best = [answer.row(answer.best[metric]) for answer in result.budgets]
        own = [Point(r.width, r.members, 0, {metric: r.score(metric)}, r.standard_error) for r in best]
        at, said = [row.budget for row in best], f"best split of {{x:,.0f}} {result.spec.unit}"
        return _with_law(metric, at, own, laws.get(("budget", 0, metric)), INKED, "best split", said, max(at))

    size_axis = Axis("parameters of one network", log=True)
    budget_axis = _counts(f"budget ({result.spec.unit})", (answer.budget for answer in result.budgets))
    panels = []
    for metric in ("nll", "cnll"):
        panels.append(Panel(Axis(_AXES[metric]), over_size(metric), x=size_axis))
        panels += [Panel(Axis(_AXES[metric]), over_budget(metric), x=budget_axis)] if several else []
    budgets = " Right: the best split of every budget over the budget." if several else ""
    return Chart(
        id="laws-chart",
        title="Laws in the size of a network and in the budget" if several else "Laws in the size of a network",
        x=size_axis,
        panels=panels,
        columns=2,
        caption=(
            f"{'Left: ensembles' if several else 'Ensembles'} of equally many networks over the size of one.{budgets} "
            "Dotted: the law limit + scale · size^exponent where the points determine one; the table says why not."
        ),
        label="NLL and CNLL over the size of a network and over the budget, with fitted power laws",
    )


def fixed_chart(result: SplitResult) -> Chart | None:
    """NLL at fixed temperatures over ensemble size, by width; None for results without them, or without ensembles."""
    rows = [row for row in result.fixed_temperatures if row.size > 1]
    if not rows:
        return None
    widths, looks = sorted({row.width for row in rows}), series_looks(f"T = {t:.3g}" for t in rows[0].temperatures)
    named = {"averaged": "of the averaged log-probabilities", "members": "of every member's logits"}

    def marks(kind: str) -> list[Points]:
        found: list[Points] = []
        for frame, width in enumerate(widths):
            own = [r for r in result.fixed_temperatures if (r.width, r.kind) == (width, kind)]
            x = [row.size for row in own]
            for i, (name, look) in enumerate(looks.items()):
                y = [row.nll[i] for row in own]
                hover = f"{{x}} networks of width {width}, {name}<br>NLL {{y:.4g}}"
                found.append(Line(x, y, look.but(marker="circle", size=5), hover, entry=name, frame=frame))
            lowest = [min(row.nll) for row in own]
            bold = INKED.but(width=3, dash="dash")
            found.append(Line(x, lowest, bold, "lowest NLL {y:.4g}", entry="lower envelope", frame=frame))
        return found

    return Chart(
        id="fixed-chart",
        title="NLL at fixed temperatures",
        x=_counts("networks in the ensemble", (row.size for row in result.fixed_temperatures)),
        panels=[Panel(Axis("NLL (nats)"), marks(kind), title=f"temperature {named[kind]}") for kind in KINDS],
        columns=2,
        share_y=True,
        frames=[f"width {width}" for width in widths],
        frame_name="width",
        caption=(
            "A colour for each fixed temperature, of ensembles of one width (the slider chooses it); dashed: the "
            "lowest of these, which CNLL follows. Left the temperature divides the averaged log-probabilities, right "
            "the logits of every member before they are averaged."
        ),
        label="NLL at fixed temperatures over ensemble size, with the lower envelope",
    )


def temperature_chart(result: SplitResult) -> Chart | None:
    """The best temperature over ensemble size and over the size of a network; None for results without it."""
    known = [p for p in result.curves if math.isfinite(p.temperature)]
    if len(known) < 2:
        return None
    sizes = result.parameters
    widths = series_looks(sorted({p.width for p in known}))
    counts = series_looks(sorted({p.size for p in known}))

    def lines(looks: dict[int, Look], key: str, x: Callable[[Point], int], name: str) -> list[Points]:
        found: list[Points] = []
        for value, look in looks.items():
            own = sorted((p for p in known if getattr(p, key) == value), key=x)
            entry = name.format(value) + ("s" if key == "size" and value > 1 else "")
            line, hover = (
                look.but(marker="circle" if key == "width" else "diamond"),
                f"{entry}<br>temperature {{y:.3g}}",
            )
            found.append(Line([x(p) for p in own], [p.temperature for p in own], line, hover, entry=entry))
        return found

    temperature = Axis("best temperature", log=True)
    return Chart(
        id="temperature-chart",
        title="The best temperature",
        x=_counts("networks in the ensemble", (p.size for p in known)),
        panels=[
            Panel(
                temperature, lines(widths, "width", lambda p: p.size, "width {}"), title="over the number of networks"
            ),
            Panel(
                temperature,
                lines(counts, "size", lambda p: sizes[p.width], "{} network"),
                x=Axis("parameters of one network", log=True),
                title="over the size of one",
            ),
        ],
        columns=2,
        share_y=True,
        caption=(
            "The temperature that divides the averaged log-probabilities where CNLL is measured: above 1 the ensemble "
            "is too sure of itself, below 1 not sure enough. Left over the number of networks, right over the size of "
            "one."
        ),
        label="Best temperature over ensemble size and over the size of a network",
    )


def _line(rows: Sequence[SplitRow], metric: str, along: str, look: Look, **more: Any) -> Line:
    errors = SCALE[metric] * numbers([row.standard_error[metric] for row in rows])
    x = [getattr(row, along) for row in rows]
    return Line(x, _values(rows, metric), look.but(marker="circle"), error=errors, **more)


def _known(answer: BudgetAnswer, metric: str) -> list[SplitRow]:
    return [row for row in answer.splits if math.isfinite(row.score(metric))]


def _values(rows: Iterable[SplitRow], metric: str) -> list[float]:
    return [SCALE[metric] * row.score(metric) for row in rows]


def _counts(title: str, counts: Iterable[int]) -> Axis:
    """A logarithmic axis with a tick at every count that there is."""
    return Axis(title, log=True, ticks={count: f"{count:,}" for count in sorted(set(counts))})
