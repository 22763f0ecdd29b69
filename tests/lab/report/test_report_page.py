from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onsphere.lab.report as report
from onsphere.lab.report import Code, Facts, Page, Section, Table, Text
from onsphere.lab.report.page import Cell
from synthetic_map import Map, synthetic_map


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


def test_the_report_is_complete(page: Path, regimes: Map) -> None:
    assert page.name == "report.html"
    figures = {file.name for file in (page.parent / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in ("overview", "phase", "map") for kind in ("png", "svg")}
    text = page.read_text(encoding="utf-8")
    read = Reader(text)
    for part in (
        "Training converges up to an ELR of 3.51e-3 – 5.34e-3 and diverges from 0.1 – 0.152",
        "80 runs, 20 of them refinements",
        "5 seeds",
        "41.7 s",
        "onsphere regimes",
        'data = "digits"',
        regimes.result.spec.data,
        "re-estimated over the training data",
        "batch statistics of each minibatch (train mode)",
    ):
        assert part in read.words, part
    assert read.tags.count("tr") >= len(regimes.result.cells) + 1
    assert "plotly.js v" in text


def test_nothing_is_loaded_from_outside(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    links = Reader(html).links
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "default-src 'none'" in html
    styles = re.findall(r"<style>(.*?)</style>", html, flags=re.S)
    assert styles and not any("url(" in style or "@import" in style for style in styles)
    assert len(re.findall(r"\* plotly\.js v", html)) == 1


def test_plotly_is_told_not_to_upload(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "showSendToCloud: false" in html and 'plotlyServerURL: ""' in html


def test_the_data_of_the_page_can_be_read_back(page: Path, regimes: Map) -> None:
    data = Reader(page.read_text(encoding="utf-8")).json[-1]
    assert data["spec"] == regimes.result.spec.model_dump(mode="json")
    low = regimes.result.boundaries["divergence"].low
    assert data["boundaries"]["divergence"]["low"] == pytest.approx(low, rel=1e-5)


def test_values_that_are_not_finite_become_gaps(regimes: Map, write: Any, tmp_path: Path) -> None:
    nan = float("nan")
    first, *others = regimes.result.cells
    cells = [replace(first, loss=nan, test_error=nan, angular_update=np.inf, finite=False), *others]
    courses = [replace(regimes.courses[0], loss=np.full(60, np.nan)), *regimes.courses[1:]]
    broken = replace(regimes.but(cells=cells, seconds=nan), courses=courses)
    page = Reader(write(broken, tmp_path / "run").read_text(encoding="utf-8"))  # it fails on NaN in any JSON block
    assert len(page.json) == 4
    assert "1 run became non-finite" in page.words


@pytest.mark.usefixtures("undrawn")
def test_text_is_escaped_everywhere(regimes: Map, write: Any, tmp_path: Path) -> None:
    evil = '<img src=x onerror=alert(1)> & "quoted" </script>'
    spec = regimes.result.spec.model_copy(update={"data": evil, "model": evil})
    cells = [replace(cell, reason=evil) for cell in regimes.result.cells]
    html = write(regimes.but(cells=cells, spec=spec), tmp_path / "run").read_text(encoding="utf-8")
    page = Reader(html)
    assert "img" not in page.tags
    assert "<img src=x" not in html and page.words.count("<img src=x") > 5
    # plotly reads some HTML in hover texts: there the reason arrives escaped once more.
    texts = [said for trace in page.json[0]["data"] for said in trace.get("hovertext", [])]
    assert texts and all("&lt;img" in said for said in texts)


@pytest.mark.usefixtures("undrawn")
def test_one_seed_needs_no_selector(write: Any, tmp_path: Path) -> None:
    page = Reader(write(synthetic_map(seeds=1), tmp_path / "run").read_text(encoding="utf-8"))
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
