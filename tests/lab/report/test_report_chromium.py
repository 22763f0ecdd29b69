"""The page in a real browser: charts drawn, selector and sorting at work, console clean, nothing requested."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from browser import attribute, needs_browser, open_page
from pictures import undrawn
from synthetic_map import Map

pytestmark = needs_browser

# Works the page as a reader would and leaves what it saw in an attribute, where --dump-dom shows it.
PROBE = """
<script>
const look = (id) => document.getElementById(id).data;
const shown = (id) => look(id).filter((trace) => trace.visible === true);
const pick = (id, value) => document.querySelector(`input[name="seed-${id}"][value="${value}"]`)?.click();
const wait = () => new Promise((resolve) => setTimeout(resolve, 400));
const column = (n) => [...document.querySelectorAll("table.sortable tbody tr")].map((row) => row.cells[n].textContent);
(async () => {
  while (document.documentElement.dataset.charts === undefined) await wait();
  const seen = {};
  seen.first = shown("overview-chart").length;
  seen.legend = document.querySelectorAll("#overview-chart .legend .traces").length;
  pick("overview-chart", "all"); await wait();
  seen.all = shown("overview-chart").length;
  const group = look("overview-chart")[0].legendgroup;
  const mine = look("overview-chart").flatMap((trace, i) => (trace.legendgroup === group ? [i] : []));
  await Plotly.restyle("overview-chart", { visible: "legendonly" }, mine);
  pick("overview-chart", "1"); await wait();
  seen.hidden = shown("overview-chart").filter((trace) => trace.legendgroup === group).length;
  seen.second = [...new Set(shown("overview-chart").map((trace) => trace.meta.seed))];
  seen.legendOnly = look("overview-chart").filter((trace) => trace.visible === "legendonly").length;
  seen.buttons = [...document.querySelectorAll(".modebar-btn")].map((button) => button.dataset.title);
  seen.wide = document.documentElement.scrollWidth <= innerWidth;
  const sort = (n) => document.querySelectorAll("table.sortable th button")[n].click();
  sort(3); seen.ascending = column(3);
  sort(3); seen.descending = column(3);
  sort(2); seen.regimes = column(2);
  seen.requests = performance.getEntriesByType("resource").map((e) => e.name).filter((n) => !n.startsWith("data:"));
  document.documentElement.dataset.seen = JSON.stringify(seen);
})();
</script>
</body>"""


def open_text(text: str, folder: Path) -> tuple[str, list[str]]:
    page = folder / "page.html"
    page.write_text(text, encoding="utf-8")
    return open_page(page)


@pytest.fixture(scope="module")
def seen(regimes: Map, write: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cells = list(regimes.result.cells)
    cells[3] = replace(cells[3], loss=float("nan"), finite=False)
    folder = tmp_path_factory.mktemp("chromium")
    with undrawn():
        text = write(regimes.but(cells=cells), folder / "run").read_text(encoding="utf-8")
    document, console = open_text(text.replace("</body>", PROBE), folder)
    assert console == []
    assert attribute(document, "data-errors") is None
    assert attribute(document, "data-charts") == "3"
    found = attribute(document, "data-seen")
    assert found is not None, "the probe did not finish"
    return {**json.loads(found), "document": document}


def test_the_charts_are_drawn(seen: dict[str, Any]) -> None:
    plots = re.findall(r'<div class="plot[^"]*js-plotly-plot"', seen["document"])
    assert len(plots) == 3
    assert seen["document"].count('class="main-svg"') >= 3
    assert len(re.findall(r'<g class="trace scatter', seen["document"])) > 50
    assert seen["wide"]


def test_the_seed_selector_works(seen: dict[str, Any], regimes: Map) -> None:
    of_seed = [sum(curve.seed == seed for curve in regimes.courses) for seed in (0, 1)]
    assert seen["first"] == 3 * of_seed[0]
    assert seen["legend"] == of_seed[0]
    assert seen["all"] == 3 * len(regimes.courses)
    assert seen["second"] == [1]


def test_a_hidden_elr_stays_hidden_when_the_seed_changes(seen: dict[str, Any]) -> None:
    assert seen["hidden"] == 0
    assert seen["legendOnly"] == 3


def test_the_table_sorts_by_size_with_gaps_last(seen: dict[str, Any]) -> None:
    ascending, descending = ([x for x in seen[way] if x != "–"] for way in ("ascending", "descending"))
    assert [float(x) for x in ascending] == sorted(map(float, ascending))
    assert [float(x) for x in descending] == sorted(map(float, descending), reverse=True)
    assert seen["ascending"][-1] == seen["descending"][-1] == "–"
    assert seen["regimes"] == sorted(seen["regimes"])


def test_no_request_and_no_way_to_upload(seen: dict[str, Any]) -> None:
    assert seen["requests"] == []
    assert seen["buttons"] and not any("hare" in title or "loud" in title for title in seen["buttons"])


def test_errors_would_be_noticed(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = text.replace("</body>", "<script>console.error('seen'); missing();</script></body>")
    text = text.replace("</body>", '<img src="https://example.org/x.png"></body>')
    document, console = open_text(text, tmp_path)
    errors = attribute(document, "data-errors") or ""
    assert "missing is not defined" in errors
    assert "img-src" in errors  # the page's policy stopped the request
    assert any("seen" in line for line in console)
