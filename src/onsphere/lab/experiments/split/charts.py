"""The interactive charts of the memory split: values over members and over sizes, the envelope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.theme import series_colours
from onsphere.lab.experiments.split.measure import METRICS, Law, Point
from onsphere.lab.experiments.split.result import BudgetAnswer, SplitResult, SplitRow
from onsphere.lab.report.charts import INK, layout_of, legend_of, linear_axis, log_axis
from onsphere.lab.report.page import Chart

__all__ = ["AXES", "curves_chart", "envelope", "envelope_chart", "splits_chart"]

AXES = {"nll": "NLL (nats)", "cnll": "CNLL (nats)", "accuracy": "accuracy (%)"}
_ORDER = ("nll", "cnll", "accuracy")


def splits_chart(result: SplitResult) -> Chart:
    """Every metric over the number of members, a line a budget, the best split marked."""
    traces: list[dict[str, Any]] = []
    colours = _colours(len(result.budgets))
    for answer, (light, dark) in zip(result.budgets, colours, strict=True):
        name = f"{answer.budget:,}"
        for i, metric in enumerate(_ORDER):
            rows = [row for row in answer.splits if math.isfinite(getattr(row, metric))]
            axis = "y" if i == 0 else f"y{i + 1}"
            traces.append(
                {
                    "type": "scatter",
                    "x": [row.members for row in rows],
                    "y": [value(row, metric) for row in rows],
                    "error_y": _bars([error(row, metric) for row in rows]),
                    "text": [f"{row.members} x width {row.width}, {row.parameters:,} parameters each" for row in rows],
                    "yaxis": axis,
                    "mode": "lines+markers",
                    "line": {"color": light, "width": 1.6},
                    "marker": {"color": light, "size": 6},
                    "name": name,
                    "legendgroup": name,
                    "hovertemplate": f"budget {name} · %{{text}}<br>{AXES[metric]} %{{y:.4g}}<extra></extra>",
                    "meta": {"dark": dark, "legend": i == 0},
                }
            )
            best = [row for row in rows if row.members == answer.best[metric]]
            traces.append(
                {
                    "type": "scatter",
                    "x": [row.members for row in best],
                    "y": [value(row, metric) for row in best],
                    "yaxis": axis,
                    "mode": "markers",
                    "marker": {"color": light, "size": 14, "symbol": "star"},
                    "name": name,
                    "legendgroup": name,
                    "hoverinfo": "skip",
                    "meta": {"dark": dark, "legend": False},
                }
            )
    members = sorted({row.members for answer in result.budgets for row in answer.splits})
    layout = layout_of(720, legend_of("budget")) | {
        "xaxis": log_axis("networks that share the budget") | _ticks(members) | {"anchor": "y3"}
    }
    for i, (metric, domain) in enumerate(zip(_ORDER, ([0.7, 1], [0.36, 0.66], [0, 0.3]), strict=True), 1):
        layout["yaxis" if i == 1 else f"yaxis{i}"] = linear_axis(AXES[metric]) | {"domain": domain}
    what = "predicted from four networks a width, bars: jackknife" if result.predicted else "means over seeds, bars:"
    return Chart(
        id="splits-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            f"Each budget split among 1, 2, ... networks; {what} standard errors. Stars: the best split of a budget. "
            "Low NLL and CNLL, and high accuracy, are good."
        ),
        label="NLL, CNLL and accuracy over the number of networks that share a budget",
    )


def curves_chart(result: SplitResult) -> Chart | None:
    """NLL and CNLL of ensembles of every size, a colour a width, with the laws; None where there is nothing to draw."""
    if not any(p.size > 1 for p in result.curves):
        return None
    widths = sorted({p.width for p in result.curves})
    largest = max(row.members for answer in result.budgets for row in answer.splits)
    traces: list[dict[str, Any]] = []
    for width, (light, dark) in zip(widths, _colours(len(widths)), strict=True):
        own = sorted((p for p in result.curves if p.width == width), key=lambda p: p.size)
        name = f"width {width}"
        for i, metric in enumerate(("nll", "cnll")):
            law = law_at(result.laws, width, metric)
            meta: dict[str, Any] = {"dark": dark, "legend": i == 0}
            shared = {"type": "scatter", "yaxis": "y" if i == 0 else "y2", "legendgroup": name, "name": name}
            traces.append(
                shared
                | {
                    "x": [p.size for p in own],
                    "y": [p.mean[metric] for p in own],
                    "error_y": _bars([p.standard_error[metric] for p in own]),
                    "mode": "markers" if law is not None else "lines+markers",
                    "line": {"color": light, "width": 1.2},
                    "marker": {"color": light, "size": 7},
                    "hovertemplate": f"%{{x}} networks of {name}<br>{AXES[metric]} %{{y:.4g}}<extra></extra>",
                    "meta": meta,
                }
            )
            if law is not None:
                sizes = law_sizes(own, largest)
                traces.append(
                    shared
                    | {
                        "x": sizes,
                        "y": law(sizes),
                        "mode": "lines",
                        "line": {"color": light, "width": 1.2, "dash": "dot"},
                        "hoverinfo": "skip",
                        "meta": meta | {"legend": False},
                    }
                )
    traces += _budget_lines(result.budgets)
    sizes_shown = sorted({p.size for p in result.curves} | {r.members for a in result.budgets for r in a.splits})
    layout = layout_of(720, legend_of("")) | {
        "xaxis": log_axis("networks in the ensemble") | _ticks(sizes_shown) | {"anchor": "y2"},
        "yaxis": linear_axis(AXES["nll"]) | {"domain": [0.54, 1]},
        "yaxis2": linear_axis(AXES["cnll"]) | {"domain": [0, 0.46]},
    }
    return Chart(
        id="curves-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "A colour for each width: ensembles of more and more networks of that width, with standard errors; dotted: "
            "the fitted power law limit + scale · size^exponent. Dark lines: equal budgets, from one wide network to "
            "many thin ones; the best split is where such a line is lowest."
        ),
        label="NLL and CNLL over ensemble size for every width, with fitted power laws",
    )


def envelope_chart(result: SplitResult) -> Chart | None:
    """The best split of every budget beside the single network; None for one budget."""
    lines = envelope(result)
    if lines is None:
        return None
    traces: list[dict[str, Any]] = []
    for (name, rows), (light, dark) in zip(lines.items(), _colours(2), strict=True):
        for i, metric in enumerate(("nll", "accuracy")):
            shown = rows[metric]
            traces.append(
                {
                    "type": "scatter",
                    "x": [row.budget for row in shown],
                    "y": [value(row, metric) for row in shown],
                    "error_y": _bars([error(row, metric) for row in shown]),
                    "text": [str(row.members) if name == "best split" else "" for row in shown],
                    "textposition": "top right" if metric == "nll" else "bottom right",
                    "yaxis": "y" if i == 0 else "y2",
                    "mode": "lines+markers+text",
                    "textfont": {"size": 13},
                    "line": {"color": light, "width": 3.5 if name == "single network" else 1.6},
                    "marker": {"color": light, "size": 10 if name == "single network" else 6},
                    "name": name,
                    "legendgroup": name,
                    "hovertemplate": f"{name} of %{{x:,}}<br>{AXES[metric]} %{{y:.4g}}<extra></extra>",
                    "meta": {"dark": dark, "legend": i == 0},
                }
            )
    layout = layout_of(600, legend_of("")) | {
        "xaxis": log_axis(f"budget ({result.spec['unit']})")
        | _ticks([a.budget for a in result.budgets], ",")
        | {"anchor": "y2"},
        "yaxis": linear_axis(AXES["nll"]) | {"domain": [0.56, 1]},
        "yaxis2": linear_axis(AXES["accuracy"]) | {"domain": [0, 0.44]},
    }
    return Chart(
        id="envelope-chart",
        figure={"data": traces, "layout": layout},
        caption="The best split of every budget, labelled with its number of networks, beside the single wide network.",
        label="NLL and accuracy of the best split and of the single network over the budget",
    )


def envelope(result: SplitResult) -> dict[str, dict[str, list[SplitRow]]] | None:
    """The rows of the best split and of the single network by metric; None for fewer than two budgets or no single."""
    answers = [a for a in result.budgets if any(row.members == 1 for row in a.splits)]
    if len(answers) < 2:
        return None
    return {
        "single network": {m: [a.row(1) for a in answers] for m in METRICS},
        "best split": {m: [a.row(a.best[m]) for a in answers] for m in METRICS},
    }


def value(row: SplitRow, metric: str) -> float:
    """A row's metric as it is drawn: percent for accuracy."""
    return float(getattr(row, metric)) * (100 if metric == "accuracy" else 1)


def error(row: SplitRow, metric: str) -> float | None:
    """Its standard error, likewise."""
    found = row.standard_error[metric]
    return None if found is None else found * (100 if metric == "accuracy" else 1)


def law_at(laws: Sequence[Law], width: int, metric: str) -> Law | None:
    """The law of a width and metric, if one fits."""
    return next((law for law in laws if (law.width, law.metric) == (width, metric) and law.law is not None), None)


def law_sizes(points: Sequence[Point], largest: int) -> Any:
    """Ensemble sizes at which a law is drawn, to the largest split or point."""
    return np.geomspace(min(p.size for p in points), max(largest, *(p.size for p in points)), 60)


def _budget_lines(answers: Sequence[BudgetAnswer]) -> list[dict[str, Any]]:
    traces = []
    for answer in answers:
        for i, metric in enumerate(("nll", "cnll")):
            rows = [row for row in answer.splits if math.isfinite(getattr(row, metric))]
            traces.append(
                {
                    "type": "scatter",
                    "x": [row.members for row in rows],
                    "y": [value(row, metric) for row in rows],
                    "yaxis": "y" if i == 0 else "y2",
                    "mode": "lines",
                    "line": {"color": INK, "width": 1},
                    "name": "equal budget",
                    "legendgroup": "budget",
                    "hovertemplate": f"budget {answer.budget:,}<extra></extra>",
                    "meta": {"legend": i == 0},
                }
            )
    return traces


def _bars(errors: Sequence[float | None]) -> dict[str, Any]:
    known = [0.0 if e is None or not math.isfinite(e) else e for e in errors]
    return {"type": "data", "array": known, "thickness": 1.2, "width": 3, "visible": any(known)}


def _ticks(values: Sequence[int], form: str = "") -> dict[str, Any]:
    return {"tickvals": list(values), "ticktext": [f"{v:{form}}" for v in values], "nticks": None}


def _colours(n: int) -> list[tuple[str, str]]:
    return list(zip(series_colours(n), series_colours(n, dark=True), strict=True))
