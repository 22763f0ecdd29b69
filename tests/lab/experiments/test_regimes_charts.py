"""What the page of a regime map says and what its charts hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onsphere.lab.chart.arrange import arranged
from onsphere.lab.chart.page import figure as on_page
from onsphere.lab.chart.paper import figure as on_paper
from onsphere.lab.chart.spec import Line, Mark, Points
from onsphere.lab.chart.style import style
from onsphere.lab.experiments.regimes.charts import (
    gradient_norm_ceiling,
    map_chart,
    medians,
    overview_chart,
    phase_chart,
)
from onsphere.lab.experiments.regimes.classify import Boundary, Bracket
from onsphere.lab.experiments.regimes.page import report_of
from onsphere.lab.experiments.regimes.words import answer
from onsphere.lab.report.page import Table, Text
from synthetic_map import Map, synthetic_map

UNKNOWN = Boundary(None, None, False, "no run interpolates; train longer")


@pytest.fixture(scope="module")
def regimes() -> Map:
    return synthetic_map()


def charts_of(one: Map) -> list[Any]:
    return [map_chart(one.result), overview_chart(one.result, one.courses), phase_chart(one.courses)]


def dots(marks: Any) -> list[Points]:
    return [mark for mark in marks if isinstance(mark, Points) and not isinstance(mark, Line)]


def test_the_charts_hold_every_run(regimes: Map) -> None:
    runs = len(regimes.result.cells)
    of_map, overview, phase = charts_of(regimes)
    assert [len(panel.marks) for panel in overview.panels] == [runs] * 3
    assert len(phase.panels[0].marks) == runs
    assert sum(len(mark.x) for panel in of_map.panels for mark in dots(panel.marks)) == 4 * runs
    assert (list(overview.seeds), overview.seed) == ([0, 1, 2, 3, 4], 0) and (of_map.seed, phase.seed) == (None, 0)


def test_dots_are_the_cells(regimes: Map) -> None:
    marks = dots(map_chart(regimes.result).panels[1].marks)
    drawn = sorted(pair for mark in marks for pair in zip(mark.x, mark.y, strict=True))
    wanted = [(c.elr, 100 * error) for c in regimes.result.cells for error in (c.train_error, c.test_error)]
    assert drawn == sorted(wanted)
    assert {mark.look.hollow for mark in marks} == {True, False}


def test_the_map_names_regimes_and_numbers(regimes: Map) -> None:
    spans = map_chart(regimes.result).spans
    names = ["convergence", "chaotic equilibrium", "divergence"]
    assert [span.name for span in spans if span.kind == "region"] == names
    assert [span.numbers for span in spans if span.kind == "bracket"] == ["3.51e-3 – 5.34e-3", "0.1 – 0.152"]
    assert not any(span.kind in ("gap", "open") for span in spans) and not map_chart(regimes.result).note


def test_the_map_says_what_is_not_resolved_and_why(regimes: Map) -> None:
    chart = map_chart(regimes.bounded("convergence", **vars(UNKNOWN)).result)
    assert "The end of convergence is not resolved: no run interpolates; train longer" in chart.note
    assert [span.name for span in chart.spans if span.kind == "gap"] == ["not resolved"]
    assert "3.51e-3" not in repr(chart.spans)
    tentative = map_chart(regimes.bounded("convergence", low=3e-4, high=3e-3, resolved=False).result)
    assert [span.numbers for span in tentative.spans if span.kind == "open"] == ["3e-4 – 3e-3 ?"]


def test_the_map_says_which_runs_still_fall_above_all_that_fit(regimes: Map) -> None:
    cells = [
        replace(cell, regime="convergence", train_error=0.65) if cell.seed == 1 and cell.elr > 0.5 else cell
        for cell in regimes.result.cells
    ]
    note = map_chart(regimes.but(cells=cells).result).note
    assert f"Still falling at the end: 1 of {len(cells)} runs, at ELRs of 1, above" in note
    slow = [replace(cell, train_error=0.3) if cell.elr == 1e-4 else cell for cell in regimes.result.cells]
    assert not map_chart(regimes.but(cells=slow).result).note


def test_with_momentum_no_angle_is_the_limit(regimes: Map) -> None:
    spec = regimes.result.spec.model_copy(update={"momentum": 0.9})
    assert not map_chart(regimes.but(spec=spec).result).panels[2].rules


def test_every_axis_says_what_it_shows(regimes: Map) -> None:
    of_map, overview, phase = charts_of(regimes)
    assert [panel.y.title for panel in overview.panels] == ["training loss", "test error (%)", "gradient norm"]
    assert (overview.x.title, phase.x.title) == ("step", "training loss (mean of minibatches)")
    assert phase.panels[0].y.title == "mean effective gradient norm"
    assert "error (%)" in of_map.panels[1].y.title and of_map.x.title == "effective learning rate (ELR)"
    assert [rule.name for panel in of_map.panels for rule in panel.rules] == [
        "as at initialisation",
        "1.2 rad: divergence above",
    ]


def test_divergent_gradients_do_not_press_the_others_together(regimes: Map) -> None:
    calm = [course for course in regimes.courses if course.regime != "divergence"]
    top = max(float(course.gradient_norm.max()) for course in calm)
    wild = [replace(c, gradient_norm=1e8 * c.gradient_norm) for c in regimes.courses if c.regime == "divergence"]
    assert gradient_norm_ceiling([*calm, *wild]) <= 100 * top
    for chart in (overview_chart(regimes.result, [*calm, *wild]), phase_chart([*calm, *wild])):
        ends = arranged(chart)[-1].y_limits
        assert ends.cut and ends.high < 1e4 and chart.panels[-1].y.over == "↑ divergent runs above"
    assert not arranged(overview_chart(regimes.result, calm))[-1].y_limits.cut


def test_medians_leave_out_elrs_few_seeds_tried_and_values_that_are_not_finite(regimes: Map) -> None:
    cells = regimes.result.cells
    lone = replace(cells[0], elr=0.5, loss=9.0)
    broken = [replace(cell, loss=np.nan) if cell.elr == 1.0 else cell for cell in cells]
    elrs, losses = medians([*broken, lone], lambda cell: cell.loss)
    assert 0.5 not in elrs and 1.0 not in elrs and len(elrs) == len(losses)
    assert losses[0] == pytest.approx(np.median([cell.loss for cell in cells if cell.elr == elrs[0]]))


def test_strange_maps_are_drawn() -> None:
    single = synthetic_map(seeds=1, elrs=4, refine=0)
    nan = dict.fromkeys(("loss", "train_error", "angular_update"), np.nan) | {"loss_at_init": 0.0, "finite": False}
    cells = [replace(cell, **nan, test_error=np.inf) for cell in single.result.cells]
    courses = [replace(c, loss=np.full(60, np.nan), gradient_norm=np.full(60, np.inf)) for c in single.courses]
    one = replace(single.but(cells=single.result.cells[:1]), courses=single.courses[:1])
    for strange in (single, replace(single.but(cells=cells), courses=courses), one):
        for chart in charts_of(strange):
            assert on_page(chart)["data"]
            with style():
                on_paper(chart).draw_without_rendering()


def crosses(marks: Any) -> list[Mark]:
    return [mark for mark in marks if mark.entry == "became non-finite"]


def test_runs_that_became_non_finite_are_marked_along_the_top(regimes: Map) -> None:
    cells = [replace(cell, loss=np.nan, finite=False) if cell.elr == 1.0 else cell for cell in regimes.result.cells]
    marks = map_chart(regimes.but(cells=cells).result).panels[0].marks
    (found,) = crosses(marks)
    assert isinstance(found, Points) and list(found.x) == [1.0] * 5
    assert min(found.y) > max(cell.relative_loss for cell in cells if cell.finite)
    assert not crosses(map_chart(regimes.result).panels[0].marks)


def boundaries(run):
    (found,) = (one for one in report_of(run.result, run.courses).sections if one.id == "boundaries")
    return found


def test_unresolved_boundaries_are_called_that(regimes: Map) -> None:
    both = regimes.but(boundaries={"convergence": UNKNOWN, "divergence": replace(UNKNOWN, low=0.4, reason="raise it")})
    assert answer(both.result)[0] == (
        "Where convergence ends is not resolved. Where divergence begins is not resolved (somewhere above 0.4)."
    )
    texts = [block.text for block in boundaries(both).blocks if isinstance(block, Text)]
    assert texts == [
        "The end of convergence is not resolved: no run interpolates; train longer",
        "The onset of divergence is not resolved: raise it",
    ]
    half = regimes.bounded("convergence", low=1e-3, high=2e-3, resolved=False)
    said = answer(half.result)[0]
    assert said.startswith("Where convergence ends is not resolved (perhaps 1e-3 – 2e-3). Training diverges")


def test_no_middle_regime_is_said(regimes: Map) -> None:
    jump = regimes.bounded("convergence", low=0.1, high=0.2).bounded("divergence", low=0.1, high=0.2)
    assert "no ELR in between" in answer(jump.result)[0]


def test_the_spread_over_seeds_is_told(regimes: Map) -> None:
    same = regimes.bounded("divergence", per_seed=[Bracket(seed, 0.1, 0.4) for seed in range(5)])
    tables = [one for one in boundaries(same).blocks if isinstance(one, Table)]
    said = [cell.text for row in tables[0].cells for cell in row]
    assert "3.9e-3 – 4.81e-3, a factor of 1.23 (5 seeds)" in said and "none: 0.2 (5 seeds)" in said
