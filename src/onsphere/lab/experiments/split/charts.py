"""The charts of the memory split: values over members, ensembles of one width with their laws, the envelope."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Line, Look, Panel, Points, numbers
from onsphere.lab.experiments.split.result import SCALE, BudgetAnswer, SplitResult, SplitRow

__all__ = ["curves_chart", "envelope_chart", "splits_chart"]

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
    """The ensembles of one width, and their law; without one they are joined by a line."""
    own = sorted((p for p in result.curves if p.width == width), key=lambda p: p.size)
    law = next((law for law in result.laws if (law.width, law.metric) == (width, metric) and law.law), None)
    name = f"width {width}"
    points = (Line if law is None else Points)(
        [p.size for p in own],
        [p.mean[metric] for p in own],
        look.but(marker="circle"),
        f"{{x}} networks of {name}<br>{_AXES[metric]} {{y:.4g}}",
        error=[p.standard_error[metric] for p in own],
        entry=name,
    )
    if law is None:
        return [points]
    drawn = np.geomspace(own[0].size, max(own[-1].size, *(row.members for row in result.rows)), 60)
    return [points, Line(drawn, law(drawn), look.but(dash="dot"), entry=name, listed=False)]


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
