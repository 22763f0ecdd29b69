from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from onsphere.lab.chart.style import DPI, figure_title, new_figure, save_figure, style
from onsphere.lab.report.regimes_figures import gradient_norm_ceiling, overview, phase_diagram
from onsphere.lab.report.regimes_map_figure import regime_map
from onsphere.lab.report.regimes_view import RegimesView

DRAWINGS: list[Callable[[RegimesView], Figure]] = [overview, phase_diagram, regime_map]


def words(figure: Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())  # type: ignore[attr-defined]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_png_has_the_right_size_and_svg_repeats(
    draw: Callable[[RegimesView], Figure], view: RegimesView, tmp_path: Path
) -> None:
    pages = []
    for name in ("first", "second"):
        with style():
            figure = draw(view)
        png, svg = save_figure(figure, tmp_path / name / "figure")
        width, height = struct.unpack(">II", png.read_bytes()[16:24])
        # Agg cuts fractions of a pixel off.
        assert (width, height) == tuple(int(DPI * inches) for inches in figure.get_size_inches())
        assert imread(png)[..., :3].std() > 0.05
        ElementTree.fromstring(svg.read_bytes())
        pages.append(svg.read_bytes())
    assert pages[0] == pages[1]
    assert b"<dc:date>" not in pages[0]


def test_the_users_matplotlib_settings_neither_matter_nor_change(view: RegimesView, tmp_path: Path) -> None:
    with style():
        plain = save_figure(regime_map(view), tmp_path / "plain")[1].read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "none"}):
        before = dict(matplotlib.rcParams)
        with style():
            styled = save_figure(regime_map(view), tmp_path / "styled")[1].read_bytes()
        assert dict(matplotlib.rcParams) == before
    assert styled == plain


def test_every_axis_says_what_it_shows(view: RegimesView) -> None:
    with style():
        figures = [overview(view), phase_diagram(view), regime_map(view)]
    for label in ("test error (%)", "mean effective gradient norm", "step"):
        assert label in words(figures[0])
    assert "training loss (mean of minibatches)" in words(figures[1])
    for label in ("(rad per step)", "error (%)", "effective learning rate (ELR)", "1.2 rad: divergence above"):
        assert label in words(figures[2])


def test_the_map_names_regimes_and_numbers(view: RegimesView) -> None:
    with style():
        text = words(regime_map(view))
    for part in ("convergence", "chaotic equilibrium", "divergence", "3.51e-3 – 5.34e-3", "0.1 – 0.152"):
        assert part in text
    assert "not resolved" not in text


def test_the_map_says_what_is_not_resolved_and_why(view: RegimesView) -> None:
    unresolved: dict[str, Any] = {
        "low": None, "high": None, "resolved": False, "reason": "no run interpolates", "per_seed": [],
    }  # fmt: skip
    with style():
        text = words(regime_map(replace(view, boundaries={**view.boundaries, "convergence": unresolved})))
    assert "End of convergence not resolved: no run interpolates" in text
    assert " | not resolved | " in text
    assert "3.51e-3" not in text


def test_dots_are_the_cells(view: RegimesView) -> None:
    with style():
        error = regime_map(view).axes[2]
    drawn = np.concatenate([np.column_stack(line.get_data()) for line in error.lines if line.get_marker() != "None"])
    wanted = [(c["elr"], 100 * c[key]) for c in view.cells for key in ("train_error", "test_error")]
    assert drawn.shape == (2 * len(view.cells), 2)
    np.testing.assert_allclose(drawn[np.lexsort(drawn.T)], np.array(wanted)[np.lexsort(np.array(wanted).T)])


def test_divergent_gradients_do_not_press_the_others_together(view: RegimesView) -> None:
    calm = [curve for curve in view.curves if curve.regime != "divergence"]
    top = max(float(curve.gradient_norm.max()) for curve in calm)
    wild = [replace(c, gradient_norm=1e8 * c.gradient_norm) for c in view.curves if c.regime == "divergence"]
    assert gradient_norm_ceiling(replace(view, curves=[*calm, *wild])) <= 100 * top
    with style():
        figure = overview(replace(view, curves=[*calm, *wild]))
    assert "↑ divergent runs above" in words(figure)
    assert figure.axes[2].get_ylim()[1] < 1e4


@pytest.mark.parametrize("draw", DRAWINGS)
def test_strange_views_are_drawn(draw: Callable[[RegimesView], Figure], make_view: Any, tmp_path: Path) -> None:
    single = make_view(seeds=1, elrs=4, refine=0)
    nan = {"loss": np.nan, "train_error": None, "test_error": float("inf"), "angular_update": None, "loss_at_init": 0.0}
    broken = replace(
        single,
        cells=[{**cell, **nan, "finite": False} for cell in single.cells],
        curves=[replace(c, loss=np.full(60, np.nan), gradient_norm=np.full(60, np.inf)) for c in single.curves],
    )
    with style():
        for number, view in enumerate(
            (single, broken, replace(single, cells=single.cells[:1], curves=single.curves[:1]))
        ):
            png, _ = save_figure(draw(view), tmp_path / str(number))
            assert png.stat().st_size > 5000


def test_long_titles_break_and_dollars_stay(tmp_path: Path) -> None:
    with style():
        figure = new_figure(4, 2)
        figure_title(figure, "costs $5 or $6 " + "and so on " * 12, "")
        save_figure(figure, tmp_path / "title")
    text = figure.get_suptitle()
    assert "$5 or $6" in text and text.count("\n") >= 2
