"""Charts as dataclasses: what is refused, looks and colours, the files of figures."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from onsphere.lab.chart import looks, spec
from onsphere.lab.chart.paper import figure, save_figures
from onsphere.lab.chart.style import DPI, figure_title, new_figure, save_figure, style
from onsphere.lab.chart.theme import elr_colours, rgba, series_colours, viridis


def chart(**fields: Any) -> spec.Chart:
    panel = spec.Panel(spec.Axis("y"), [spec.Line([1, 2, 3], [1, 4, 9], entry="squares")])
    given: dict[str, Any] = {"id": "squares-chart", "title": "Squares", "x": spec.Axis("x"), "panels": [panel]}
    return spec.Chart(**(given | {"caption": "They grow.", "label": "squares"} | fields))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spec.Line([1, 2], [1]), "Line: y has 1 values, x 2; give as many"),
        (lambda: spec.Points([1, 2], [1, 2], error=[1]), "Points: error has 1 values"),
        (lambda: spec.Points([1, 2], [1, 2], labels=["a"]), "Points: labels has 1 values"),
        (lambda: spec.Points([1, 2], [1, 2], hover=["a"]), "Points: hover has 1 texts, x 2"),
        (lambda: spec.Points([1], [1], hover="{z}"), "hover names 'z'; known are x, y: add it to columns"),
        (lambda: spec.Points([1], [1], columns={"step": []}), "Points: step has 0 values"),
        (lambda: spec.Points([1], [1], spec.Look(size=(1.0, 2.0))), "look.size has 2 entries for 1 points"),
        (lambda: spec.Band([1], [1], [1, 2]), "Band: high has 2 values"),
        (lambda: spec.Bars([1], [1, 2]), "Bars: length has 2 values, at 1"),
        (lambda: spec.Text([1], [1], ["a", "b"]), "Text: text has 2 values"),
        (
            lambda: spec.Heat(["a"], ["b"], [[1, 2]], spec.Scale("")),
            r"z has shape \(1, 2\), the names ask for \(1, 1\)",
        ),
        (lambda: spec.Heat(["a"], ["b"], [[1]], spec.Scale(""), [["a", "b"]]), "labels do not have the shape"),
        (lambda: chart(panels=[]), "the chart squares-chart has no panel"),
        (lambda: chart(frames=["a"], frame=1), r"the chart squares-chart shows frames 1 of 1"),
        (lambda: chart(prints=[("a", 0), ("b", 1)], frames=["a"]), r"shows frames \[1\] of 1; name more frames"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_drawn_is_refused_at_once(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_ends_of_a_line_bear_markers_of_their_own() -> None:
    assert spec.Look("#000000").ends(4, "star", "square").marker == ("star", "", "", "square")
    assert spec.Look("#000000").ends(1, "star", "square").marker == ("star",)
    assert spec.Look("#000000").ends(0, "star", "square").marker == ()


def test_looks_follow_the_colours() -> None:
    by_elr = looks.elr_looks([1.0, 1e-4, 1e-2, 1e-2], width=3)
    assert list(by_elr) == [1e-4, 1e-2, 1.0] and len({look.colour for look in by_elr.values()}) == 3
    assert all(look.width == 3 and look.dark not in ("", look.colour) for look in by_elr.values())
    assert looks.elr_scale([1e-4, 1.0, 1e-2]).marks == [1e-4, 1e-2, 1.0]
    assert looks.regime_look("divergence", size=9) == spec.Look("#CC79A7", "#CC79A7", marker="square", size=9)
    assert [look.colour for look in looks.series_looks("abc").values()] == series_colours(3)


def test_colours_follow_the_logarithm_of_the_elr() -> None:
    colours = elr_colours([1.0, 1e-4, 1e-2, 1e-2])
    assert list(colours) == [1e-4, 1e-2, 1.0]
    assert len(set(colours.values())) == 3
    # 1e-2 is the middle of the range, and so is 1e-3 of 1e-4 .. 1e-2.
    assert elr_colours([1e-4, 1e-3, 1e-2])[1e-3] == colours[1e-2]
    assert elr_colours([1e-4, 1.0], dark=True)[1e-4] != colours[1e-4]
    assert len(elr_colours([0.1])) == 1
    assert rgba("#0072B2", 0.5) == "rgba(0,114,178,0.5)"


def test_our_viridis_is_viridis() -> None:
    wanted = matplotlib.colormaps["viridis"](np.linspace(0, 1, 256))[:, :3]
    ours = [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in viridis(256)]
    assert np.abs(np.array(ours) - wanted).max() < 0.025


def test_charts_are_said_without_what_draws_them() -> None:
    text = "import sys; sys.modules['plotly'] = sys.modules['matplotlib'] = None; import onsphere.lab.chart.page, "
    text += "onsphere.lab.chart.looks, onsphere.lab.experiments.regimes.charts"
    subprocess.run([sys.executable, "-c", text], check=True)


def test_figures_have_the_right_names_and_size_and_repeat(tmp_path: Path) -> None:
    frames = [spec.Line([1, 2], [1, f + 2], frame=f) for f in (0, 1)]
    many = chart(id="many-chart", panels=[spec.Panel(spec.Axis("y"), frames)], frames=["a", "b"])
    charts = [
        chart(size=(4.0, 3.0)),
        chart(file="other", legend="kinds"),
        spec.Chart(**(vars(many) | {"prints": [("many-a", 0), ("many-b", 1)]})),
        many,
    ]
    for folder in ("first", "second"):
        save_figures(charts, "numbers and their squares", tmp_path / folder)
    names = {path.name for path in (tmp_path / "first" / "figures").iterdir()}
    assert names == {f"{n}.{kind}" for n in ("squares", "other", "many", "many-a", "many-b") for kind in ("png", "svg")}
    for name in sorted(names):
        first, second = ((tmp_path / folder / "figures" / name).read_bytes() for folder in ("first", "second"))
        if name.endswith("svg"):
            ElementTree.fromstring(first)
            assert first == second and b"<dc:date>" not in first
        else:
            assert imread(tmp_path / "first" / "figures" / name)[..., :3].std() > 0.02
    width, height = struct.unpack(">II", (tmp_path / "first" / "figures" / "squares.png").read_bytes()[16:24])
    with style():
        inches = figure(charts[0]).get_size_inches()
    # Agg cuts fractions of a pixel off; the legend stands below the size that was asked for.
    assert (width, height) == tuple(int(DPI * inch) for inch in inches) and inches[0] == 4 and inches[1] > 3


def test_the_users_matplotlib_settings_neither_matter_nor_change(tmp_path: Path) -> None:
    save_figures([chart()], "", tmp_path / "plain")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "none"}):
        before = dict(matplotlib.rcParams)
        save_figures([chart()], "", tmp_path / "styled")
        assert dict(matplotlib.rcParams) == before
    plain, styled = (tmp_path / name / "figures" / "squares.svg" for name in ("plain", "styled"))
    assert styled.read_bytes() == plain.read_bytes()


def test_long_titles_break_and_dollars_stay(tmp_path: Path) -> None:
    with style():
        made = new_figure(4, 2)
        figure_title(made, "costs $5 or $6 " + "and so on " * 12, "")
        save_figure(made, tmp_path / "title")
    text = made.get_suptitle()
    assert "$5 or $6" in text and text.count("\n") >= 2
