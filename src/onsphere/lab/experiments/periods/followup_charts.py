"""The interactive charts of the follow-ups: whole space against sphere, minima of the periods, sharpness at jumps."""

from __future__ import annotations

from typing import Any

import numpy as np

from onsphere.lab.chart.theme import series_colours
from onsphere.lab.experiments.periods.charts import DARK, PALE, setting_name
from onsphere.lab.experiments.periods.result import PeriodsResult
from onsphere.lab.report.charts import layout_of, legend_of, linear_axis, log_axis
from onsphere.lab.report.page import Chart, Slider

__all__ = ["ensemble_chart", "minima_chart", "sharpness_chart", "sphere_chart"]


def sphere_chart(result: PeriodsResult) -> Chart | None:
    """Minibatch loss over the ELR: fixed on the sphere, measured in the whole space; None without a comparison."""
    rows = [row for row in result.comparison if row.elr is not None]
    if not rows:
        return None
    traces: list[dict[str, Any]] = []
    colours = zip(series_colours(len(rows)), series_colours(len(rows), dark=True), strict=True)
    for row, (light, dark) in zip(rows, colours, strict=True):
        name = setting_name(row.lr, row.weight_decay)
        own = [r for r in result.sphere if (r.lr, r.weight_decay) == (row.lr, row.weight_decay) and r.loss]
        elrs = sorted({r.elr for r in own})
        means = [float(np.exp(np.mean([np.log(r.loss) for r in own if r.elr == elr and r.loss]))) for elr in elrs]
        shared = {"type": "scatter", "legendgroup": name, "name": name}
        traces += [
            shared
            | {
                "x": [r.elr for r in own],
                "y": [r.loss for r in own],
                "text": [f"seed {r.seed}" for r in own],
                "mode": "markers",
                "marker": {"color": light, "size": 6, "symbol": "circle-open"},
                "hovertemplate": f"sphere · %{{text}} · ELR %{{x:.3g}} · loss %{{y:.3g}}<extra>{name}</extra>",
                "meta": {"dark": dark, "legend": False},
            },
            shared
            | {
                "x": elrs,
                "y": means,
                "mode": "lines",
                "line": {"color": light, "width": 1.4},
                "hoverinfo": "skip",
                "meta": {"dark": dark},
            },
        ]
    runs = [r for r in result.runs if r.mean_elr is not None and r.loss]
    traces.append(
        {
            "type": "scatter",
            "x": [r.mean_elr for r in runs],
            "y": [r.loss for r in runs],
            "text": [f"{setting_name(r.lr, r.weight_decay)} · seed {r.seed}" for r in runs],
            "mode": "markers",
            "marker": {"color": DARK, "size": 9, "symbol": "cross-thin-open", "line": {"width": 1.6}},
            "name": "whole space",
            "legendgroup": "space",
            "hovertemplate": "whole space · %{text}<br>ELR %{x:.3g} · loss %{y:.3g}<extra></extra>",
            "meta": {"dark": PALE},
        }
    )
    layout = layout_of(440, legend_of("sphere, beside")) | {
        "xaxis": log_axis("effective learning rate (ELR)"),
        "yaxis": log_axis("minibatch loss"),
    }
    return Chart(
        id="sphere-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Rings and lines: mean minibatch loss at fixed ELR on the sphere, seeds and their geometric mean. Crosses: "
            "training in the whole space, at its mean ELR. At equilibrium crosses lie on the lines; a periodic run "
            "wanders over ELRs, and its mean loss is that of its spikes."
        ),
        label="Loss over ELR on the sphere and in the whole space",
    )


def minima_chart(result: PeriodsResult) -> Chart | None:
    """Angles and disagreement between the minima of one run, as two maps; None without minima."""
    if not result.minima:
        return None
    traces: list[dict[str, Any]] = []
    for frame, one in enumerate(result.minima):
        steps = [str(step) for step in one.steps]
        for axis, values, what, bar in (
            ("", one.angles, "angle %{z:.2f} rad", 0.79),
            ("2", (100 * np.array(one.disagreement)).tolist(), "%{z:.1f} % of test images differ", 0.21),
        ):
            traces.append(
                {
                    "type": "heatmap",
                    "x": steps,
                    "y": steps,
                    "z": values,
                    "xaxis": f"x{axis}",
                    "yaxis": f"y{axis}",
                    "colorscale": "Viridis",
                    "colorbar": {"thickness": 12, "y": bar, "len": 0.42, "title": {"text": "rad" if not axis else "%"}},
                    "hovertemplate": f"minima at steps %{{x}} and %{{y}}<br>{what}<extra></extra>",
                    "meta": {"legend": False} | ({"frame": frame} if len(result.minima) > 1 else {}),
                    "legendgroup": "maps",
                }
            )
    steps_axis = {"type": "category", "nticks": 8}
    step = linear_axis("step of minimum") | steps_axis
    layout = layout_of(760, legend_of("")) | {
        "xaxis": linear_axis("angle") | steps_axis | {"anchor": "y"},
        "yaxis": step | {"domain": [0.58, 1], "anchor": "x"},
        "xaxis2": linear_axis("disagreement") | steps_axis | {"anchor": "y2"},
        "yaxis2": step | {"domain": [0, 0.42], "anchor": "x2"},
    }
    names = [f"{setting_name(m.lr, m.weight_decay)} · seed {m.seed}" for m in result.minima]
    return Chart(
        id="minima-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Weights at the loss minimum of each period, against each other: the angle between the scale-invariant "
            "weights (orthogonal: 1.57) and the fraction of test images that they label differently."
        ),
        label="Angles and disagreement between the minima of different periods",
        slider=Slider("run", names) if len(names) > 1 else None,
    )


def ensemble_chart(result: PeriodsResult) -> Chart | None:
    """Test error of ensembles of the last m minima, one line a run; None without minima."""
    if not result.minima:
        return None
    settings = list(dict.fromkeys((m.lr, m.weight_decay) for m in result.minima))
    pairs = zip(series_colours(len(settings)), series_colours(len(settings), dark=True), strict=True)
    colours = dict(zip(settings, pairs, strict=True))
    traces = []
    for one in result.minima:
        setting = (one.lr, one.weight_decay)
        light, dark = colours[setting]
        traces.append(
            {
                "type": "scatter",
                "x": list(range(1, len(one.ensemble_error) + 1)),
                "y": [100 * error for error in one.ensemble_error],
                "mode": "lines+markers",
                "line": {"color": light, "width": 1.4},
                "marker": {"color": light, "size": 5},
                "name": setting_name(*setting),
                "legendgroup": setting_name(*setting),
                "hovertemplate": f"seed {one.seed} · last %{{x}} minima · test error %{{y:.2f}} %<extra></extra>",
                "meta": {"dark": dark},
            }
        )
    layout = layout_of(380, legend_of("")) | {
        "xaxis": linear_axis("members: minima of the last m periods") | {"dtick": 1},
        "yaxis": linear_axis("test error of the ensemble (%)") | {"rangemode": "tozero"},
    }
    return Chart(
        id="ensemble-chart",
        figure={"data": traces, "layout": layout},
        caption="Averaged predictions of the minima of a run's last m periods; one line a run.",
        label="Test error of ensembles of minima",
    )


def sharpness_chart(result: PeriodsResult) -> Chart | None:
    """ELR times sharpness against steps to the jump, one line a jump, with the threshold; None without any."""
    rows = result.sharpness
    if not rows:
        return None
    settings = list(dict.fromkeys((row.lr, row.weight_decay) for row in rows))
    pairs = zip(series_colours(len(settings)), series_colours(len(settings), dark=True), strict=True)
    colours = dict(zip(settings, pairs, strict=True))
    traces: list[dict[str, Any]] = []
    for row in rows:
        setting = (row.lr, row.weight_decay)
        light, dark = colours[setting]
        for steps, values, symbol, what in (
            (row.steps, row.elr_times_sharpness, "circle", "before the jump"),
            (row.control_steps, row.control, "circle-open", "midway since the jump before"),
        ):
            traces.append(
                {
                    "type": "scatter",
                    "x": [step - row.jump for step in steps],
                    "y": values,
                    "mode": "lines+markers",
                    "line": {"color": light, "width": 1.4},
                    "marker": {"color": light, "size": 5, "symbol": symbol},
                    "name": setting_name(*setting),
                    "legendgroup": setting_name(*setting),
                    "hovertemplate": f"jump at step {row.jump}, %{{x}} steps · {what} · %{{y:.3g}}<extra></extra>",
                    "meta": {"dark": dark},
                }
            )
    threshold = rows[0].threshold
    first = min(row.control_steps[0] - row.jump for row in rows if row.control_steps)
    traces.append(
        {
            "type": "scatter",
            "x": [first, 0],
            "y": [threshold, threshold],
            "mode": "lines",
            "line": {"color": DARK, "width": 1.4, "dash": "dash"},
            "name": f"threshold {threshold:g}",
            "legendgroup": "threshold",
            "hoverinfo": "skip",
            "meta": {"dark": PALE},
        }
    )
    layout = layout_of(400, legend_of("")) | {
        "xaxis": linear_axis("steps to the jump"),
        "yaxis": log_axis("ELR · sharpness"),
    }
    return Chart(
        id="sharpness-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Sharpness: top Hessian eigenvalue of the training-mode loss on the unit sphere, so that ELR · sharpness = "
            "lr · λmax without momentum. Dots: before the first jumps of each setting's first seed; rings: midway "
            "since the jump before. Gradient descent is unstable above the dashed line."
        ),
        label="ELR times sharpness before jumps and between them",
    )
