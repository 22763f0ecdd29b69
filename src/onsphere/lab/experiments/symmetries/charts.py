"""The interactive charts: all numbers of the model as areas, and all tensors in the model's order as bars."""

from __future__ import annotations

import math
from typing import Any

from onsphere.lab.experiments.symmetries.findings import Findings
from onsphere.lab.experiments.symmetries.look import Class, classes, exponent_text, tensor_text
from onsphere.lab.experiments.symmetries.names import shortened
from onsphere.lab.report.charts import layout_of, legend_of, linear_axis, log_axis
from onsphere.lab.report.page import Chart
from onsphere.lab.report.words import format_number

__all__ = ["areas_chart", "bars_chart"]

_BAR = 17  # pixels a tensor
_MOST_NAMED = 400  # tensors that each get a label and such a bar; more are drawn thinner, without names
_LETTERS = 36
_EDGE = "rgba(255,255,255,0.6)"


def areas_chart(found: Findings) -> Chart:
    """A treemap: a rectangle a tensor, its area how many numbers are in it, gathered by group."""
    ids, labels, parents, values, colours, texts = [], [], [], [], [], []
    for one in classes(found):
        size = sum(found.sizes[name] for name in one.names)
        ids.append(f"class {one.key}")
        labels.append(f"<b>{one.title}</b> · {format_number(100 * size / max(found.total, 1))} %")
        parents.append("")
        values.append(size)
        colours.append(one.colour)
        texts.append(f"<b>{one.title}</b><br>{len(one.names)} tensors, {size:,} of {found.total:,} numbers")
        for name in one.names:
            ids.append(f"tensor {name}")
            labels.append(shortened(name, 2 * _LETTERS))
            parents.append(f"class {one.key}")
            values.append(found.sizes[name])
            colours.append(one.colour)
            texts.append(tensor_text(found, name))
    trace = {
        "type": "treemap",
        "ids": ids,
        "labels": labels,
        "parents": parents,
        "values": values,
        "customdata": texts,
        "hovertemplate": "%{customdata}<extra></extra>",
        "branchvalues": "total",
        "textinfo": "label",
        "marker": {"colors": colours, "line": {"width": 1, "color": _EDGE}, "pad": {"t": 22, "l": 3, "r": 3, "b": 3}},
        "tiling": {"packing": "squarify", "pad": 1},
        "pathbar": {"visible": False},
        "meta": {"legend": False},
    }
    layout = layout_of(430, legend_of("")) | {
        "margin": {"l": 14, "r": 4, "t": 8, "b": 4},
        "uniformtext": {"mode": "hide", "minsize": 8},
    }
    return Chart(
        id="areas-chart",
        figure={"data": [trace], "layout": layout},
        caption=(
            "A rectangle is a tensor, its area how many numbers it holds. Rest the pointer on one for its shape, group "
            "and exponents; click a group to enlarge it, its heading to go back."
        ),
        label="The model's tensors as areas, by group",
    )


def bars_chart(found: Findings) -> Chart:
    """A bar a tensor in the model's order, its length the logarithm of how many numbers are in it."""
    named = len(found.names) <= _MOST_NAMED
    largest = max(found.sizes.values(), default=1)
    traces = [_bars(found, one) for one in classes(found)]
    letters = max((len(shortened(name, _LETTERS)) for name in found.names), default=1) if named else 0
    places = list(range(len(found.names)))
    layout = layout_of(int(120 + _BAR * min(len(found.names), _MOST_NAMED)), legend_of("")) | {
        "xaxis": log_axis("numbers in the tensor") | {"range": [-0.1, math.log10(largest) + 0.5], "side": "top"},
        "yaxis": linear_axis("" if named else "tensors in the model's order")
        | {"range": [len(found.names) - 0.4, -0.6], "showgrid": False}
        | (
            {
                "tickvals": places,
                "ticktext": [shortened(name, _LETTERS) for name in found.names],
                "tickfont": {"size": 11},
            }
            if named
            else {}
        ),
        "barmode": "overlay",
    }
    layout["margin"] = {"l": max(24 + 6.2 * letters, 60), "r": 20, "t": 60, "b": 20}
    layout["legend"] |= {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yanchor": "top"}
    layout["margin"]["b"] = 32 + 20 * math.ceil(len(traces) / 4)
    return Chart(
        id="bars-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "The same in the model's order and on a logarithmic scale, so that gains and biases show. Behind a bar: "
            "its group, or its exponents in rescalings. A click on a legend entry hides its tensors."
        ),
        label="The model's tensors in order, coloured by group",
    )


def _bars(found: Findings, one: Class) -> dict[str, Any]:
    place = {name: i for i, name in enumerate(found.names)}
    marker: dict[str, Any] = {"color": one.colour, "line": {"width": 0}}
    if one.hatch:
        marker["pattern"] = {"shape": one.hatch, "size": 6, "solidity": 0.3, "fgcolor": _EDGE, "fillmode": "overlay"}
    return {
        "type": "bar",
        "orientation": "h",
        "y": [place[name] for name in one.names],
        "x": [max(found.sizes[name], 1) for name in one.names],
        "width": 0.78,
        "marker": marker,
        "name": one.title,
        "legendgroup": one.key,
        "text": [_behind(found, name) for name in one.names],
        "textposition": "outside",
        "textfont": {"size": 10.5},
        "cliponaxis": False,
        "customdata": [tensor_text(found, name) for name in one.names],
        "hovertemplate": "%{customdata}<extra></extra>",
        "meta": {"dark": one.dark},
    }


def _behind(found: Findings, name: str) -> str:
    """What stands behind a tensor's bar: the number of its joint group, else its exponents in rescalings."""
    if found.roles[name] == "joint":
        return f"group {found.group_of[name] + 1}"
    exponents = sorted({one[name] for one in found.rescalings if name in one}, key=lambda c: (abs(c), -c))
    return "^ " + ", ".join(map(exponent_text, exponents)) if exponents else ""
