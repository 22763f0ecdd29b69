"""Ranges hold everything that is plotted, unless the axis says what it leaves out; the same for page and paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onsphere.lab.chart import page, paper, spec
from onsphere.lab.chart.arrange import arranged, levels, limits
from onsphere.lab.chart.style import style

number = st.one_of(st.floats(-1e6, 1e6, allow_subnormal=False), st.just(math.nan))
positive = st.floats(1e-9, 1e9)


@st.composite
def marks(draw: st.DrawFn) -> spec.Mark:
    """Any mark over a few numbers."""
    n = draw(st.integers(1, 5))
    rows = [draw(st.lists(number, min_size=n, max_size=n)) for _ in range(3)]
    more = [draw(st.lists(st.floats(0, 1e5), min_size=n, max_size=n)) for _ in range(3)]
    kind = draw(st.sampled_from(["line", "points", "band", "bars", "text"]))
    if kind in ("line", "points"):
        make = spec.Line if kind == "line" else spec.Points
        return make(rows[0], rows[1], error=more[0], error_down=more[1], error_x=more[2])
    if kind == "band":
        return spec.Band(rows[0], rows[1], rows[2])
    if kind == "bars":
        return spec.Bars(rows[0], more[0], along=draw(st.sampled_from(["x", "y"])), base=rows[1], thick=more[1])
    return spec.Text(rows[0], rows[1], ["here"] * n)


def chart_of(shown: list[spec.Mark], x: spec.Axis, y: spec.Axis, rules: list[spec.Rule]) -> spec.Chart:
    return spec.Chart("a-chart", "title", x, [spec.Panel(y, shown, rules=rules)], "caption", "label")


def held(value: Any, low: float, high: float, *, log: bool) -> bool:
    flat = np.asarray(value, dtype=float).ravel()
    flat = flat[np.isfinite(flat) & ((flat > 0) | (not log))]
    slack = 1e-9 * max(abs(low), abs(high))
    return bool(((flat >= low - slack) & (flat <= high + slack)).all())


@given(
    shown=st.lists(marks(), min_size=1, max_size=4),
    rule=positive,
    log=st.tuples(st.booleans(), st.booleans()),
    given_range=st.one_of(st.none(), st.tuples(positive, positive).filter(lambda ends: ends[0] < ends[1])),
)
def test_ranges_hold_all_marks_their_errors_and_rules(
    shown: list[spec.Mark], rule: float, log: tuple[bool, bool], given_range: tuple[float, float] | None
) -> None:
    x, y = spec.Axis("x", log=log[0], range=given_range), spec.Axis("y", log=log[1], range=given_range)
    chart = chart_of(shown, x, y, [spec.Rule(rule), spec.Rule(rule, along="x")])
    place = arranged(chart)[0]
    for side, axis, ends in ((0, x, place.x_limits), (1, y, place.y_limits)):
        assert math.isfinite(ends.low) and ends.low < ends.high and not ends.cut
        assert held(rule, ends.low, ends.high, log=axis.log)
        for mark in shown:
            for values in mark.reach()[side]:
                assert held(values, ends.low, ends.high, log=axis.log)
        if given_range is not None:
            assert ends.low <= given_range[0] and ends.high >= given_range[1]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_page_and_paper_have_the_same_ranges(log: bool, reverse: bool) -> None:
    y = spec.Axis("y", log=log, reverse=reverse)
    chart = chart_of([spec.Line([1, 2, 3], [0.01, 5, 300], error=[0.001, 1, 100])], spec.Axis("x"), y, [spec.Rule(600)])
    layout = page.figure(chart)["layout"]
    with style():
        axes = paper.figure(chart).axes[0]
    for name, drawn, scale in (("xaxis", axes.get_xlim(), False), ("yaxis", axes.get_ylim(), log)):
        ends = [10**end for end in layout[name]["range"]] if scale else layout[name]["range"]
        assert ends == pytest.approx(drawn, rel=1e-9)
    assert max(axes.get_ylim()) > 600


def test_an_axis_that_cuts_says_so_and_only_then() -> None:
    axis = spec.Axis("y", range=(0, 10), over="worse runs above")
    for top, cut in ((9.0, False), (11.0, True)):
        chart = chart_of([spec.Line([1, 2], [1, top])], spec.Axis("x"), axis, [])
        assert arranged(chart)[0].y_limits == limits(axis, [[1, top]]) and arranged(chart)[0].y_limits.high == 10
        said = [note["text"] for note in page.figure(chart)["layout"]["annotations"]]
        with style():
            texts = [text.get_text() for text in paper.figure(chart).axes[0].texts]
        assert ("worse runs above" in said) == ("worse runs above" in texts) == cut


def test_of_panels_that_share_an_axis_only_those_that_are_cut_say_so() -> None:
    axis = spec.Axis("y", range=(0, 10), over="worse above")
    panels = [spec.Panel(axis, [spec.Line([1, 2], [1, top])]) for top in (5, 50)]
    chart = spec.Chart("a-chart", "title", spec.Axis("x"), panels, "caption", "label", columns=2, share_y=True)
    assert [place.over for place in arranged(chart)] == [(), ("worse above",)]


def test_an_end_that_is_named_has_no_margin() -> None:
    held_at_zero = limits(spec.Axis("y", holds=(0,)), [[0.0, 10.0]])
    assert held_at_zero.low == 0 and held_at_zero.high > 10
    assert limits(spec.Axis("y", holds=(0,)), [[3.0, 4.0]]).low == 0


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[], [math.nan], [math.inf]], ids=["none", "nan", "infinite"])
def test_a_panel_without_numbers_says_so(log: bool, values: list[float]) -> None:
    axis = spec.Axis("y", log=log)
    chart = chart_of([spec.Line(values, values)], axis, axis, [])
    assert any("no finite values" in note["text"] for note in page.figure(chart)["layout"]["annotations"])
    with style():
        figure = paper.figure(chart)
        figure.draw_without_rendering()
    assert "no finite values" in [text.get_text() for text in figure.axes[0].texts]


def test_error_bars_on_logarithmic_axes_end_within_the_panel() -> None:
    chart = chart_of([spec.Points([1, 2], [1, 10], error=[2, 2])], spec.Axis("x"), spec.Axis("y", log=True), [])
    low = arranged(chart)[0].y_limits.low
    bars = page.figure(chart)["data"][0]["error_y"]
    assert bars["arrayminus"] == pytest.approx([1 - low, 2]) and list(bars["array"]) == [2, 2]


def test_a_map_fills_its_panel() -> None:
    heat = spec.Heat(["a", "b", "c"], ["d", "e"], np.ones((2, 3)), spec.Scale("z"))
    place = arranged(chart_of([heat], spec.Axis("x"), spec.Axis("y"), []))[0]
    assert (place.x_limits.low, place.x_limits.high, place.y_limits.low, place.y_limits.high) == (-0.5, 2.5, -0.5, 1.5)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.5)), min_size=1, max_size=8))
def test_texts_of_one_level_do_not_overlap(texts: list[tuple[float, float]]) -> None:
    rows = levels([at for at, _ in texts], [width for _, width in texts])
    for i, (at, width) in enumerate(texts):
        for j, (other, wide) in enumerate(texts[:i]):
            if rows[i] == rows[j]:
                assert abs(at - other) > (width + wide) / 2 - 1e-12


def test_a_figure_holds_its_own_frame_and_may_leave_other_seeds_out() -> None:
    drawn = ((0, 0, 1.0), (1, 0, 9.0), (0, 1, 50.0))
    lines = [spec.Line([0.0, 1.0], [0.0, high], seed=seed, frame=frame) for seed, frame, high in drawn]
    panels = [spec.Panel(spec.Axis("y", holds=(0.0,)), lines)]
    shared: dict[str, Any] = {"seeds": [0, 1], "seed": 0, "frames": ["a", "b"]}
    for others, frame, highest in ((True, 0, 9), (False, 0, 1), (False, 1, 50)):
        chart = spec.Chart("a", "t", spec.Axis("x"), panels, "c", "l", others=others, **shared)
        with style():
            made = paper.figure(chart, "", frame)
        (axes,) = made.axes
        assert highest < axes.get_ylim()[1] < 1.1 * highest
        assert len(axes.lines) == 1 + (others and frame == 0)
        assert any("thin: 1 more" in text.get_text() for text in made.texts) == others


def test_maps_of_different_names_have_axes_of_their_own() -> None:
    names = (["3", "7"], ["a", "b", "c"])
    maps = [spec.Heat(own, own, np.eye(len(own)), spec.Scale("s"), frame=frame) for frame, own in enumerate(names)]
    chart = spec.Chart("a", "t", spec.Axis("x"), [spec.Panel(spec.Axis("y"), maps)], "c", "l", frames=["one", "two"])
    drawn = page.figure(chart)
    assert [(trace["x"], trace["y"]) for trace in drawn["data"]] == [(list(one.x), list(one.y)) for one in maps]
    for axis in (drawn["layout"]["xaxis"], drawn["layout"]["yaxis"]):
        assert axis["type"] == "category" and axis["autorange"] and "tickvals" not in axis
    with style():
        axes = paper.figure(chart, "", 1).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert axes.get_xlim() == (-0.5, 2.5)


def test_a_bar_that_reaches_zero_leaves_its_point_in_sight_on_a_logarithmic_axis():
    """The mean of one run that is not zero and one that is has itself for its standard error."""
    shown = spec.Line([1, 2], [1.0, 10.0], error=[1.0, 1.0])
    (place,) = arranged(chart_of([shown], spec.Axis("x"), spec.Axis("y", log=True), []))
    assert place.y_limits.low < 1.0
