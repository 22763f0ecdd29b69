from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects
import pytest

import onsphere.lab.report as report
from onsphere.lab.report import Chart, Code, Facts, Page, Section, Table, Text, write_regimes_report
from onsphere.lab.report.charts import INK
from onsphere.lab.report.page import Cell
from onsphere.lab.report.regimes import answer, regimes_page
from onsphere.lab.report.regimes_charts import overview_chart, phase_chart
from onsphere.lab.report.regimes_map_chart import map_chart
from onsphere.lab.report.regimes_view import RegimesView
from onsphere.lab.report.words import jsonable


class Reader(HTMLParser):
    """Collects what a browser would load, the JSON blocks and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.json: list[Any] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag in ("script", "style"):
            self._inside = "json" if ("type", "application/json") in attrs else tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "json":
            self.json.append(json.loads(data, parse_constant=lambda word: pytest.fail(f"JSON holds {word}")))
        elif not self._inside:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_the_report_is_complete(view: RegimesView, tmp_path: Path) -> None:
    path = write_regimes_report(view, tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    figures = {file.name for file in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in ("overview", "phase", "map") for kind in ("png", "svg")}
    page = Reader(path.read_text(encoding="utf-8"))
    for part in (
        "Training converges up to an ELR of 3.51e-3 – 5.34e-3 and diverges from 0.1 – 0.152",
        "80 runs, 20 of them refinements",
        "5 seeds",
        "41.7 s",
        view.command,
        'data = "digits"',
        "2.13.0",
        "re-estimated over the training data",
    ):
        assert part in page.words, part
    assert page.tags.count("tr") >= len(view.cells) + 1
    assert {"plotly.js v" in path.read_text(encoding="utf-8")} == {True}


def test_nothing_is_loaded_from_outside(view: RegimesView) -> None:
    html = regimes_page(view).render()
    links = Reader(html).links
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "default-src 'none'" in html
    styles = re.findall(r"<style>(.*?)</style>", html, flags=re.S)
    assert styles and not any("url(" in style or "@import" in style for style in styles)
    assert len(re.findall(r"\* plotly\.js v", html)) == 1


def test_plotly_is_told_not_to_upload(view: RegimesView) -> None:
    html = regimes_page(view).render()
    assert "showSendToCloud: false" in html and 'plotlyServerURL: ""' in html


def test_the_data_of_the_page_can_be_read_back(view: RegimesView) -> None:
    data = Reader(regimes_page(view).render()).json[-1]
    assert data["spec"] == view.spec
    assert data["boundaries"]["divergence"]["low"] == pytest.approx(view.boundaries["divergence"]["low"], rel=1e-5)


def test_values_that_are_not_finite_become_gaps(view: RegimesView) -> None:
    cells = [dict(cell) for cell in view.cells]
    cells[0] |= {"loss": float("nan"), "test_error": None, "angular_update": np.inf, "finite": False}
    curves = [replace(view.curves[0], loss=np.full(60, np.nan)), *view.curves[1:]]
    broken = replace(view, cells=cells, curves=curves, seconds=float("nan"))
    page = Reader(regimes_page(broken).render())  # the reader fails on NaN in any JSON block
    assert len(page.json) == 4
    assert "1 run became non-finite" in page.words


def test_text_is_escaped_everywhere(view: RegimesView) -> None:
    evil = '<img src=x onerror=alert(1)> & "quoted" </script>'
    cells = [{**cell, "reason": evil} for cell in view.cells]
    bad = replace(view, title=evil, subtitle=evil, cells=cells, command=evil, toml=evil, environment={evil: evil})
    html = regimes_page(bad).render()
    page = Reader(html)
    assert "img" not in page.tags
    assert "<img src=x" not in html and page.words.count("<img src=x") > 5
    # plotly reads some HTML in hover texts: there the reason arrives escaped once more.
    assert any("&lt;img" in text for trace in map_chart(bad).figure["data"] for text in trace.get("text", []))


@pytest.mark.parametrize("make_chart", [overview_chart, phase_chart, map_chart])
def test_plotly_accepts_the_charts(make_chart: Any, view: RegimesView) -> None:
    chart: Chart = make_chart(view)
    text = json.dumps(jsonable(chart.figure)).replace(f'"{INK}"', '"black"')
    figure = plotly.graph_objects.Figure(json.loads(text))
    assert len(figure.data) == len(chart.figure["data"]) > 0


def test_charts_hold_every_run(view: RegimesView) -> None:
    assert len(overview_chart(view).figure["data"]) == 3 * len(view.curves)
    assert len(phase_chart(view).figure["data"]) == len(view.curves)
    markers = [trace for trace in map_chart(view).figure["data"] if trace["mode"] == "markers"]
    assert sum(len(trace["x"]) for trace in markers) == 4 * len(view.cells)
    first = overview_chart(view)
    assert (first.seeds, first.seed) == ([0, 1, 2, 3, 4], 0)


def test_unresolved_boundaries_are_called_that(view: RegimesView) -> None:
    slow: dict[str, Any] = {
        "low": None, "high": None, "resolved": False, "reason": "no run interpolates; train longer", "per_seed": [],
    }  # fmt: skip
    open_end = {**slow, "low": 0.4, "reason": "raise the grid"}
    both = replace(view, boundaries={"convergence": slow, "divergence": open_end})
    assert answer(both)[0] == (
        "Where convergence ends is not resolved. Where divergence begins is not resolved (somewhere above 0.4)."
    )
    words = Reader(regimes_page(both).render()).words
    assert "The end of convergence is not resolved: no run interpolates; train longer" in words
    assert "The onset of divergence is not resolved: raise the grid" in words
    half = replace(view, boundaries={**view.boundaries, "convergence": {**slow, "low": 1e-3, "high": 2e-3}})
    assert answer(half)[0].startswith("Where convergence ends is not resolved (perhaps 1e-3 – 2e-3). Training diverges")


def test_no_middle_regime_is_said(view: RegimesView) -> None:
    bracket = {**view.boundaries["convergence"], "low": 0.1, "high": 0.2}
    assert "no ELR in between" in answer(replace(view, boundaries={"convergence": bracket, "divergence": bracket}))[0]


def test_the_spread_over_seeds_is_told(view: RegimesView) -> None:
    entries = view.boundaries["divergence"]["per_seed"]
    same = {**view.boundaries["divergence"], "per_seed": [{**entry, "low": 0.1, "high": 0.4} for entry in entries]}
    words = Reader(regimes_page(replace(view, boundaries={**view.boundaries, "divergence": same})).render()).words
    assert "3.9e-3 – 4.81e-3, a factor of 1.23 (5 seeds)" in words
    assert "none: 0.2 (5 seeds)" in words


def test_one_seed_needs_no_selector(make_view: Any) -> None:
    page = Reader(regimes_page(make_view(seeds=1)).render())
    assert "fieldset" not in page.tags
    assert "1 seed" in page.words


def test_pages_of_other_experiments() -> None:
    table = Table(
        [("n", "count"), ("name", "")], [[Cell("1", 1.0), "a"], [Cell("–", float("nan")), "b"]], sortable=True
    )
    blocks = [Text("Hello"), Facts([("cores", "2")]), table, Code("command", "ls -l")]
    page = Page("Periods", "", ["They come back."], [Section("all", "Everything", blocks, folded=True)])
    html = page.render()
    assert "plotly" not in html.split("<script>")[0] and len(html) < 60_000  # no chart, no five megabytes
    reader = Reader(html)
    assert "They come back." in reader.words and "details" in reader.tags
    assert 'data-value=""' in html and 'data-value="1.0"' in html


def test_mistakes_in_pages_are_named() -> None:
    with pytest.raises(ValueError, match="row 0 has 1 cells, the table 2 columns"):
        Table([("a", ""), ("b", "")], [["only one"]])
    section = Section("same", "Twice", [])
    with pytest.raises(ValueError, match="the ids same are used more than once"):
        Page("t", "", [], [section, section])


def test_public_names() -> None:
    assert all(hasattr(report, name) for name in report.__all__)
    assert sorted(report.__all__) == report.__all__
