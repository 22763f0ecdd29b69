"""The printed figure: every tensor of the model as a bar, coloured by group."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from onsphere.lab.chart.style import figure_title, log_axis, new_figure
from onsphere.lab.experiments.symmetries.findings import Findings
from onsphere.lab.experiments.symmetries.look import classes
from onsphere.lab.experiments.symmetries.names import shortened

__all__ = ["tensors_figure"]

_MOST_NAMED = 120  # tensors beside which a name still fits


def tensors_figure(found: Findings, title: str, subtitle: str) -> Figure:
    """Bars in the model's order, their length how many numbers are in the tensor. Call inside ``figures.style()``.

    Args:
        found: What was found.
        title: Above the figure.
        subtitle: Below the title.
    """
    shown = classes(found)
    n = len(found.names)
    named = n <= _MOST_NAMED
    figure = new_figure(6.6, 1.5 + 0.15 * min(max(n, 4), _MOST_NAMED) + 0.17 * len(shown))
    figure_title(figure, title, subtitle)
    axes: Any = figure.subplots()
    place = {name: i for i, name in enumerate(found.names)}
    handles = []
    for one in shown:
        look: dict[str, Any] = {"facecolor": one.colour, "edgecolor": "white", "linewidth": 0, "hatch": 2 * one.hatch}
        axes.barh(
            [place[name] for name in one.names],
            [max(found.sizes[name], 1) for name in one.names],
            height=0.78 if named else 1,
            **look,
        )
        handles.append(Patch(label=one.title, **look))
    log_axis(axes, "x")
    axes.set_xlim(0.8, 2.5 * max(found.sizes.values(), default=1))
    axes.set_ylim(n - 0.4, -0.6)
    axes.set_xlabel("numbers in the tensor")
    axes.grid(visible=False, axis="y")
    if named:
        axes.set_yticks(np.arange(n), [shortened(name, 44) for name in found.names], fontsize=6.5)
        axes.tick_params(axis="y", length=0)
    else:
        axes.set_ylabel("tensors in the model's order")
    figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=7.5)
    return figure
