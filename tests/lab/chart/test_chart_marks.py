"""Every kind of mark, drawn for the page and for paper: its numbers arrive in both."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import plotly.graph_objects
import pytest
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from onsphere.lab.chart import page, paper, spec
from onsphere.lab.chart.style import style
from onsphere.lab.report.words import jsonable

LOOK = spec.Look("#0072B2", "#56B4E9", marker="circle")
SHAPES = spec.Look(
    ("#111111", "#222222", "#333333"), marker=("star", "cross", "x"), size=(3.0, 6.0, 9.0), hollow=(True, False, False)
)
X, Y = [1.0, 2.0, 4.0], [3.0, None, 5.0]
ERROR, DOWN = [0.25, 0.5, 1.0], [0.5, 0.125, 2.0]


def chart_of(*marks: spec.Mark, y: spec.Axis | None = None, **more: Any) -> spec.Chart:
    panel = spec.Panel(y or spec.Axis("height"), marks)
    given: dict[str, Any] = {"id": "a-chart", "title": "A title", "x": spec.Axis("width"), "panels": [panel]}
    return spec.Chart(**(given | {"caption": "look here", "label": "a chart"} | more))


def drawn(chart: spec.Chart, frame: int = 0) -> Figure:
    with style():
        made = paper.figure(chart, "a subtitle", frame)
        made.draw_without_rendering()
    return made


def on_page(chart: spec.Chart) -> list[dict[str, Any]]:
    """The traces as the page holds them: plain JSON that plotly accepts."""
    figure = json.loads(json.dumps(jsonable(page.figure(chart))).replace('"ink"', '"black"'))
    data: list[dict[str, Any]] = figure["data"]
    plotly.graph_objects.Figure(figure)  # raises ValueError for a property that plotly does not know
    return data


def points(figure: Figure) -> list[Any]:
    return [offset for one in figure.axes[0].collections for offset in np.asarray(one.get_offsets())]


def lines(figure: Figure) -> list[Any]:
    return [pair for line in figure.axes[0].lines for pair in np.column_stack(line.get_data())]


def ends(figure: Figure) -> list[Any]:
    return [end for one in figure.axes[0].collections for path in one.get_paths() for end in path.vertices]


def bars(figure: Figure) -> list[Any]:
    held = [one for one in figure.axes[0].containers if isinstance(one, BarContainer)]
    return [(*bar.get_xy(), bar.get_width(), bar.get_height()) for one in held for bar in one]


def fields(figure: Figure) -> list[Any]:
    return [[0 if value is np.ma.masked else value for value in row] for row in figure.axes[0].images[0].get_array()]


def texts(figure: Figure) -> list[Any]:
    return [(*one.xy, len(one.get_text())) for one in figure.axes[0].texts if isinstance(one, Annotation)]


#: A mark, what its trace on the page holds, how its numbers are read from paper, and some that must be among them.
CASES: dict[str, tuple[spec.Mark, dict[str, Any], Any, list[tuple[float, ...]]]] = {
    "line": (
        spec.Line(X, Y, LOOK, hover="{x} · {y:.2f}"),
        {"x": X, "y": Y, "mode": "lines+markers", "hovertemplate": "%{x} · %{y:.2f}<extra></extra>"},
        lines,
        [(1, 3), (4, 5)],
    ),
    "points": (
        spec.Points(X, Y, LOOK.but(hollow=True), hover=["a", "b", "c"]),
        {"x": X, "y": Y, "mode": "markers", "hovertext": ["a", "b", "c"]},
        points,
        [(1, 3), (4, 5)],
    ),
    "looks of every point": (
        spec.Points(X, Y, SHAPES),
        {
            "marker": {
                "symbol": ["star-open", "x-thin-open", "x"],
                "size": [3, 6, 9],
                "color": ["#111111", "#222222", "#333333"],
                "line": {"width": [1.5, 2, 0], "color": "rgba(0,0,0,0)"},
            }
        },
        points,
        [(1, 3), (4, 5)],
    ),
    "error bars": (
        spec.Points(X, [3.0, 4.0, 5.0], LOOK, error=ERROR, error_down=DOWN),
        {"error_y": {"array": ERROR, "arrayminus": DOWN}},
        ends,
        [(1, 3.25), (1, 2.5), (4, 6), (4, 3)],
    ),
    "error bars along x": (
        spec.Points(X, [3.0, 4.0, 5.0], LOOK, error_x=ERROR),
        {"error_x": {"array": ERROR}},
        ends,
        [(0.75, 3), (1.25, 3), (3, 5), (5, 5)],
    ),
    "labels": (
        spec.Line(X, [3.0, 4.0, 5.0], labels=["", "", "last"], side="above"),
        {"text": ["", "", "last"], "textposition": "top center", "mode": "lines+text"},
        texts,
        [(4, 5, 4)],
    ),
    "colours by value": (
        spec.Points(X, [3.0, 4.0, 5.0], LOOK, values=[7, 8, 9], scale=spec.Scale("steps after the jump")),
        {"marker": {"color": [7, 8, 9], "cmin": 7, "cmax": 9}},
        lambda figure: [
            (*one, c) for one, c in zip(points(figure), figure.axes[0].collections[0].get_array(), strict=True)
        ],
        [(1, 3, 7), (2, 4, 8), (4, 5, 9)],
    ),
    "band": (
        spec.Band(X, [1, 2, 3], [2, 4, 6], LOOK),
        {"x": X, "y": [2, 4, 6], "fill": "tonexty"},
        ends,
        [(1, 1), (4, 3), (1, 2), (4, 6)],
    ),
    "heat": (
        spec.Heat(
            ["a", "b"], ["c", "d"], [[1, 2], [3, None]], spec.Scale("%"), [["1", "2"], ["3<br>±1", ""]], "{x} {z:.1f}"
        ),
        {
            "z": [[1, 2], [3, None]],
            "zmin": 1,
            "zmax": 3,
            "text": [["1", "2"], ["3<br>±1", ""]],
            "hovertemplate": "%{customdata[0]} %{z:.1f}<extra></extra>",
        },
        fields,
        [(1, 2), (3, 0)],
    ),
    "bars": (
        spec.Bars([0, 1], [3, 5], LOOK.but(hatch="/"), labels=["x", ""]),
        {"x": [0, 1], "y": [3, 5], "orientation": "v", "width": 0.8},
        bars,
        [(-0.4, 0, 0.8, 3), (0.6, 0, 0.8, 5)],
    ),
    "rectangles": (
        spec.Bars([1, 4], [3, 5], LOOK, "x", base=[0, 2], thick=[2, 4], labels=["x", "y"], inside=True),
        {"y": [1, 4], "x": [3, 5], "base": [0, 2], "width": [2, 4], "orientation": "h"},
        bars,
        [(0, 0, 3, 2), (2, 2, 5, 4)],
    ),
    "texts": (
        spec.Text([1, 2], [3, 4], ["here", "there"], "below"),
        {"x": [1, 2], "y": [3, 4], "text": ["here", "there"], "textposition": "bottom center", "mode": "text"},
        texts,
        [(1, 3, 4), (2, 4, 5)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_of_a_mark_arrive_in_both(name: str) -> None:
    mark, wanted, read, there = CASES[name]
    trace = on_page(chart_of(mark))[-1]
    for key, value in wanted.items():
        if isinstance(value, dict):
            assert {inner: trace[key][inner] for inner in value} == value, key
        else:
            assert trace[key] == value, key
    found = np.array([row for row in read(drawn(chart_of(mark))) if np.isfinite(np.asarray(row, dtype=float)).all()])
    for row in there:
        assert (np.abs(found - np.array(row)).sum(axis=1) < 1e-6).any(), (row, found)


def test_every_kind_of_mark_is_tried() -> None:
    kinds = {type(mark) for mark, _, _, _ in CASES.values()}
    assert kinds == {spec.Line, spec.Points, spec.Band, spec.Heat, spec.Bars, spec.Text}


def test_a_kind_that_is_unknown_is_refused_by_both() -> None:
    class Cloud(spec.Mark):
        def reach(self) -> tuple[list[Any], list[Any]]:
            return [], []

    for draw in (page.figure, drawn):
        with pytest.raises(TypeError, match="cannot draw Cloud; allowed are Line"):
            draw(chart_of(Cloud()))


def test_free_text_is_escaped_and_tags_of_ours_stay() -> None:
    evil = "<img src=x onerror=alert(1)> & <b>bold</b>"
    escaped = "&lt;img src=x onerror=alert(1)&gt; &amp; <b>bold</b>"
    (ready,) = on_page(chart_of(spec.Points([1], [2], LOOK, [evil], labels=[evil], entry=evil)))
    assert ready["hovertext"] == ready["text"] == [escaped] and ready["name"] == escaped
    template = f"{spec.literal('{a} %{b} ' + evil)} {{who}} {{y:.1f}}"
    (trace,) = on_page(chart_of(spec.Line([1, 2], [2, 3], hover=template, columns={"who": [evil, "me"]})))
    assert trace["hovertemplate"] == f"{{a}} %&#123;b}} {escaped} %{{customdata}} %{{y:.1f}}<extra></extra>"
    assert trace["customdata"] == [escaped, "me"]
    layout = page.figure(chart_of(spec.Line([1], [1]), x=spec.Axis(evil), legend=evil))["layout"]
    assert layout["xaxis"]["title"]["text"] == layout["legend"]["title"]["text"] == escaped


def test_seeds_and_frames_are_told_to_the_script_and_paper_shows_its_own() -> None:
    marks = [spec.Line([1, 2], [f, f + s + 1], LOOK, seed=s, frame=f, entry="run") for f in (0, 1) for s in (0, 1)]
    chart = chart_of(*marks, seeds=[0, 1], seed=1, frames=["first", "second"], frame_name="ELR", frame=1)
    metas = [trace["meta"] for trace in on_page(chart)]
    assert [(meta["seed"], meta["frame"]) for meta in metas] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert all(meta["dark"] == "#56B4E9" and meta["width"] == 1.6 and meta["legend"] for meta in metas)
    block = page.block(chart)
    assert block.slider is not None and (block.slider.frames, block.slider.start) == (["first", "second"], 1)
    assert (list(block.seeds), block.seed) == ([0, 1], 1)
    second = drawn(chart, frame=1)
    assert [line.get_ydata().tolist() for line in second.axes[0].lines] == [[1, 2], [1, 3]]
    assert second.axes[0].lines[0].get_alpha() < second.axes[0].lines[1].get_alpha() == 1
    assert "ELR second · seed 1, thin: 1 more" in second.get_suptitle().replace("\n", " · ")


def test_a_figure_holds_its_frame_alone_and_no_other_seed_unless_wanted() -> None:
    marks = [spec.Line([1, 2], [1, 10 ** (f + 1) + s], seed=s, frame=f) for f in (0, 1) for s in (0, 1)]
    for others in (True, False):
        chart = chart_of(*marks, seeds=[0, 1], seed=0, frames=["a", "b"], others=others)
        axes = drawn(chart).axes[0]
        assert len(axes.lines) == 1 + others and axes.get_ylim()[1] < 20
        assert page.figure(chart)["layout"]["yaxis"]["range"][1] > 100


def test_maps_of_other_names_in_every_frame_have_axes_of_their_own() -> None:
    maps = [
        spec.Heat(names, names, np.ones((len(names),) * 2), spec.Scale("z"), frame=f)
        for f, names in enumerate((["1", "2"], ["3"]))
    ]
    figure = page.figure(chart_of(*maps, frames=["a", "b"]))
    assert [trace["x"] for trace in figure["data"]] == [["1", "2"], ["3"]]
    assert figure["layout"]["xaxis"]["type"] == "category" and "range" not in figure["layout"]["xaxis"]
    assert [label.get_text() for label in drawn(chart_of(*maps, frames=["a", "b"]), 1).axes[0].get_xticklabels()] == [
        "3"
    ]


def test_a_click_moves_the_slider_to_the_frame_of_the_point() -> None:
    (trace,) = on_page(chart_of(spec.Points([1, 2], [3, 4], pick=True, hover="loss {y}"), frames=["a", "b"]))
    assert trace["meta"]["pick"] is True and trace["customdata"] == [0, 1]


def words(figure: Figure) -> str:
    found = [one.get_text() for one in figure.findobj(Text) if one.get_visible()]  # type: ignore[attr-defined]
    return " | ".join(found)


def test_rules_and_spans_are_drawn_and_named_in_both() -> None:
    panel = spec.Panel(
        spec.Axis("height"),
        [spec.Line([1, 10], [1, 3])],
        rules=[spec.Rule(2, "a level"), spec.Rule(5, "a limit", along="x"), spec.Rule(2.5, "on top", at="corner")],
        spans=[spec.Span(1, 2, "#0072B2", along="y")],
    )
    spans = [
        spec.Span(0.1, 3, "#0072B2", "convergence"),
        spec.Span(3, 4, numbers="3 – 4", kind="bracket"),
        spec.Span(4, 5, kind="open"),
        spec.Span(5, 99, name="not resolved", kind="gap"),
    ]
    chart = chart_of(x=spec.Axis("width", log=True), panels=[panel], spans=spans, rules=[spec.Rule(7, along="x")])
    layout = page.figure(chart)["layout"]
    lines_of = [shape for shape in layout["shapes"] if shape["type"] == "line"]
    assert {(s["x0"], s["x1"]) for s in lines_of if s["y0"] == 0} == {(5, 5), (7, 7)}
    assert {(s["y0"], s["y1"]) for s in lines_of if s["x0"] == 0} == {(2, 2), (2.5, 2.5)}
    fills = [shape for shape in layout["shapes"] if shape["type"] == "rect"]
    assert len(fills) == 4 and all(
        shape["x0"] >= 0.5 for shape in fills if shape["xref"] == "x"
    )  # cut off at the range
    said = [note["text"] for note in layout["annotations"]]
    figure = words(drawn(chart))
    for name in ("a level", "a limit", "on top", "convergence", "3 – 4", "not resolved"):
        assert any(name.replace(" ", "<br>") in text or name in text for text in said), name
        assert name in figure.replace("\n", " "), name


def test_names_above_a_panel_do_not_run_into_one_another() -> None:
    rules = [spec.Rule(x, "a rather long name", along="x") for x in (4.0, 4.1, 4.2)]
    layout = page.figure(chart_of(spec.Line([1, 10], [1, 2]), rules=rules))["layout"]
    heights = [note["yshift"] for note in layout["annotations"]]
    assert len(set(heights)) == 3 and layout["margin"]["t"] > max(heights)
    figure = drawn(chart_of(spec.Line([1, 10], [1, 2]), rules=rules))
    boxes = [one.get_window_extent() for one in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_texts_without_a_height_and_bold_names_stand_above_the_panel() -> None:
    classes = spec.Text([2, 5], None, ["<b>2A</b>", "2B"])
    chart = chart_of(spec.Line([1, 10], [1, 2]), classes, rules=[spec.Rule(8, "<b>2C</b>", along="x")])
    notes = page.figure(chart)["layout"]["annotations"]
    assert {(note["x"], note["text"], note["yshift"]) for note in notes} == {
        (2, "<b>2A</b>", 2),
        (5, "2B", 2),
        (8, "<b>2C</b>", 2),
    }
    made = drawn(chart).axes[0].texts
    assert {(text.xy, text.get_text(), text.get_weight()) for text in made} == {
        ((2, 1), "2A", "bold"),
        ((5, 1), "2B", "normal"),
        ((8, 1), "2C", "bold"),
    }


def test_a_second_scale_stands_above_on_paper_and_names_within_the_panel() -> None:
    x = spec.Axis("ELR", log=True, also=("ELR A", 7))
    figure = drawn(chart_of(spec.Line([1, 100], [1, 2]), x=x, rules=[spec.Rule(8, "threshold", along="x")]))
    (second,) = figure.axes[0].child_axes
    assert second.get_xlabel() == "ELR A" and second.get_xlim() == pytest.approx(
        [7 * end for end in figure.axes[0].get_xlim()]
    )
    (name,) = figure.axes[0].texts
    assert figure.axes[0].get_window_extent().y1 >= name.get_window_extent().y1


def test_names_beside_an_axis_are_as_many_as_fit_on_paper() -> None:
    names = {float(i): f"tensor {i}" for i in range(300)}
    chart = chart_of(spec.Points([1] * 300, list(names)), y=spec.Axis("", ticks=names), size=(6.0, 6.0))
    labels = [label.get_text() for label in drawn(chart).axes[0].get_yticklabels()]
    assert labels[:2] == ["tensor 0", "tensor 6"] and len(labels) == 50
    assert len(page.figure(chart)["layout"]["yaxis"]["ticktext"]) == 300


def test_labels_within_bars_are_dark_on_bright_ground_and_white_on_dark() -> None:
    bright, dark = (
        spec.Bars([i], [9], spec.Look(colour), along="x", labels=["bar"], inside=True)
        for i, colour in enumerate(("#E69F00", "#0072B2"))
    )
    assert [text.get_color() for text in drawn(chart_of(bright, dark)).axes[0].texts] == ["#222222", "white"]


def test_panels_below_one_another_share_the_axis_and_own_ones_stay() -> None:
    shared, own = spec.Axis("step"), spec.Axis("ELR", log=True)
    panels = [
        spec.Panel(spec.Axis("a"), [spec.Line([1, 2], [1, 2])], x=own),
        spec.Panel(spec.Axis("b"), [spec.Line([0, 9], [1, 2])]),
        spec.Panel(spec.Axis("c"), [spec.Line([0, 30], [1, 2])]),
    ]
    chart = chart_of(x=shared, panels=panels)
    layout, traces = page.figure(chart)["layout"], on_page(chart)
    assert [trace["xaxis"] for trace in traces] == ["x", "x2", "x2"] and layout["xaxis2"]["anchor"] == "y3"
    assert layout["xaxis"]["type"] == "log" and layout["xaxis2"]["range"][1] > 30
    domains = [layout[name]["domain"] for name in ("yaxis", "yaxis2", "yaxis3")]
    assert domains[0][0] > domains[1][1] > domains[1][0] > domains[2][1]
    axes = drawn(chart).axes
    assert axes[1].get_xlim() == axes[2].get_xlim() and axes[0].get_xlim() != axes[1].get_xlim()
    assert [one.get_xlabel() for one in axes] == ["ELR", "", "step"]


def test_columns_stand_side_by_side_and_may_share_the_y_axis() -> None:
    panels = [spec.Panel(spec.Axis("y"), [spec.Line([1, 2], [1, top])], title=f"up to {top}") for top in (2, 50)]
    chart = chart_of(panels=panels, columns=2, share_y=True, widths=(2, 1))
    layout = page.figure(chart)["layout"]
    assert layout["yaxis"]["range"] == layout["yaxis2"]["range"] and layout["yaxis2"]["matches"] == "y"
    first, second = layout["xaxis"]["domain"], layout["xaxis2"]["domain"]
    assert first[1] < second[0] and first[1] - first[0] == pytest.approx(2 * (second[1] - second[0]), abs=1e-3)
    assert layout["legend"]["orientation"] == "h"
    axes = drawn(chart).axes
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert [one.get_title(loc="left") for one in axes] == ["(a) up to 2", "(b) up to 50"]


def test_every_row_of_panels_has_a_y_axis_of_its_own_to_share() -> None:
    tops = (2, 50, 1e3, 1e6)
    axis = spec.Axis("y", log=True, range=(1.0, 10.0))
    chart = chart_of(panels=[spec.Panel(axis, [spec.Line([1, 2], [1, top])]) for top in tops], columns=2, share_y=True)
    layout = page.figure(chart)["layout"]
    assert [layout[name].get("matches") for name in ("yaxis", "yaxis2", "yaxis3", "yaxis4")] == [None, "y", None, "y3"]
    assert layout["yaxis3"]["range"] == layout["yaxis4"]["range"] != layout["yaxis"]["range"]
    axes = drawn(chart).axes
    assert axes[0].get_ylim()[1] < 100 and axes[2].get_ylim() == axes[3].get_ylim() and axes[2].get_ylim()[1] > 1e6


def test_of_what_both_axes_leave_out_a_panel_speaks_once() -> None:
    axis = spec.Axis("both", range=(0.0, 1.0), over="the rest is outside")
    chart = chart_of(spec.Line([0, 5], [0, 5]), y=axis, x=axis)
    (note,) = page.figure(chart)["layout"]["annotations"]
    assert (note["text"], note["name"]) == ("the rest is outside", "corner")  # the script knows it by its name


def test_legends_on_paper_have_as_many_columns_as_fit() -> None:
    names = [
        ["a", "b", "c"],
        ["short", "a name of some thirty letters..", "and another one just as long .."],
        ["x" * 150],
    ]
    legends = [drawn(chart_of(*(spec.Line(X, X, entry=name) for name in own))).legends[0] for own in names]
    assert [legend._ncols for legend in legends] == [3, 3, 1]


def test_the_unit_of_a_long_title_stands_on_a_line_of_its_own() -> None:
    title = "a quantity with a name that is as long as the panel is high (in its unit)"
    assert drawn(chart_of(spec.Line(X, X), y=spec.Axis(title))).axes[0].get_ylabel().endswith("\n(in its unit)")


def test_names_that_do_not_fit_into_their_bars_are_left_out_and_axes_without_ticks_have_no_line() -> None:
    bare = spec.Axis("", ticks={})
    chart = chart_of(spec.Bars([1, 2], [1, 1], labels=["a", "b"], inside=True, along="x"), x=bare, y=bare)
    layout = page.figure(chart)["layout"]
    assert layout["uniformtext"]["mode"] == "hide" and on_page(chart)[0]["constraintext"] == "inside"
    assert not layout["xaxis"]["showline"] and not layout["yaxis"]["showline"]
    spines = drawn(chart).axes[0].spines
    assert not spines["bottom"].get_visible() and not spines["left"].get_visible()


def test_headings_of_a_row_stand_at_one_height() -> None:
    rule = spec.Rule(1.5, "a name", along="x")
    panels = [spec.Panel(spec.Axis("y"), [spec.Line(X, X)], title="one", rules=own) for own in ([rule], [])]
    chart = chart_of(panels=panels, columns=2)
    notes = [note for note in page.figure(chart)["layout"]["annotations"] if note["text"] == "one"]
    assert len({note["yshift"] for note in notes}) == 1 and len(notes) == 2
    assert len({one._left_title.get_window_extent().y0 for one in drawn(chart).axes}) == 1  # type: ignore[attr-defined]
