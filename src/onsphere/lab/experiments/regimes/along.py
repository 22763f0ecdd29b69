"""Charts along training that a map has where there is something to see: label noise, single layers, both statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onsphere.lab.chart.looks import elr_looks, series_looks
from onsphere.lab.chart.spec import Axis, Chart, Line, Mark, Panel, Rule
from onsphere.lab.chart.theme import REGIME_NAMES
from onsphere.lab.experiments.regimes.charts import Course, by_elr, run_words
from onsphere.lab.experiments.regimes.classify import REGIMES
from onsphere.lab.report.words import format_number

_STEP = Axis("step", holds=(0,))


def noise_chart(courses: Sequence[Course]) -> Chart | None:
    """Training error on right and on wrong labels along training; None where they were not measured apart."""
    shown = [one for one in courses if "clean_error" in one.also]
    if not shown:
        return None
    titles = {"clean_error": "error on right labels (%)", "corrupted_error": "error on wrong labels (%)"}
    return Chart(
        id="noise-chart",
        title="Right and wrong labels",
        x=_STEP,
        panels=[Panel(Axis(title, range=(-3, 103)), _errors(shown, name)) for name, title in titles.items()],
        caption=(
            "Training error on the examples whose labels are right and on those whose labels are wrong, each by the "
            "labels that are trained on: 0 % below is a network that has memorised every wrong label. Batch statistics "
            "re-estimated over the training data."
        ),
        label="Training error on examples with right and with wrong labels against steps for every ELR",
        **by_elr(shown),
    )


def _errors(courses: Sequence[Course], name: str) -> list[Mark]:
    looks, said = elr_looks({one.elr for one in courses}, width=1.8), "step {x:.0f} · error {y:.3g} %"
    return [
        Line(
            one.evaluation_steps,
            100 * np.asarray(one.also[name]),
            looks[one.elr],
            f"{run_words(one)}<br>{said}",
            entry=format_number(one.elr),
            seed=one.seed,
        )
        for one in courses
    ]


def statistics_chart(courses: Sequence[Course]) -> Chart | None:
    """Test error by re-estimated and by running batch statistics; None where the latter were not kept."""
    shown = [one for one in courses if "running_test_error" in one.also]
    if not shown:
        return None
    titles = {"test_error": "re-estimated statistics", "running_test_error": "running statistics"}
    return Chart(
        id="statistics-chart",
        title="Test error by re-estimated and by running batch statistics",
        x=_STEP,
        panels=[
            Panel(Axis("test error (%)", range=(-3, 103)), _errors(shown, name), title=f"by {title}")
            for name, title in titles.items()
        ],
        caption=(
            "Above: batch statistics re-estimated over the training data at the weights of the moment, as everywhere "
            "else on this page. Below: the running averages of training, as in the published figures; they lag behind "
            "weights that turn far in a step."
        ),
        label="Test error by re-estimated and by running batch statistics against steps for every ELR",
        **by_elr(shown),
    )


def layers_chart(courses: Sequence[Course]) -> Chart | None:
    """The individual ELRs of the tensors along training, a panel a regime; None with fewer than two tensors."""
    shown = [one for regime in REGIMES if (one := _middle(courses, regime)) is not None]
    names = list(dict.fromkeys(name for one in shown for name in one.norm2))
    if not shown or len(names) < 2:
        return None
    looks = series_looks(names, width=1.8)
    panels = []
    for one in shown:
        total = np.sum(list(one.norm2.values()), axis=0)
        marks: list[Mark] = [
            Line(
                one.steps,
                one.elr * total / values,
                looks[name],
                f"<b>{name}</b><br>{run_words(one)}<br>step {{x:.0f}} · ELR {{y:.3g}}",
                entry=name,
                listed=one is shown[0],
            )
            for name, values in one.norm2.items()
        ]
        title = f"{REGIME_NAMES[one.regime]}, ELR {format_number(one.elr)}"
        panels.append(
            Panel(Axis("ELR of the tensor", log=True), marks, title=title, rules=[Rule(one.elr, "all together")])
        )
    return Chart(
        id="layers-chart",
        title="Effective learning rates of single layers",
        x=_STEP,
        panels=panels,
        columns=len(panels),
        caption=(
            "lr / norm² of every tensor by itself in one run of each regime (the middle one of its first seed). Only "
            "that of all together is fixed (dashed): 1 / ELR is the sum of 1 / ELR over the tensors. A tensor that "
            "turns further in a step gains norm and loses ELR. " + _moved(shown)
        ),
        label="Individual effective learning rates of the tensors against steps in one run of each regime",
        legend="tensor",
    )


def _middle(courses: Sequence[Course], regime: str) -> Course | None:
    """The course of a regime with the middle ELR, of the first seed that has one and stays finite."""
    there = [one for one in courses if one.regime == regime and np.isfinite(one.loss).all() and one.norm2]
    own = sorted((one for one in there if one.seed == min(c.seed for c in there)), key=lambda one: one.elr)
    return own[len(own) // 2] if own else None


def _moved(shown: Sequence[Course]) -> str:
    """How far apart the individual ELRs are at the start and at the end of the runs, in words."""

    def apart(one: Course, at: int) -> str:
        ends = [float(values[at]) for values in one.norm2.values()]
        return format_number(max(ends) / min(ends))

    parts = [
        f"{apart(one, 0)} at the start and {apart(one, -1)} at the end ({REGIME_NAMES[one.regime]})" for one in shown
    ]
    return f"The largest of them over the smallest: {', '.join(parts)}."
