"""The slider through the ELRs, worked in a real browser as a reader would."""

import json

import pytest

from browser import attribute, needs_browser, open_page
from onsphere.lab import toy_regimes
from onsphere.lab.experiments.toy_regimes.page import courses, movie_chart
from onsphere.lab.report.page import Slider
from onsphere.lab.store import Run

PROBE = """
<script>
const wait = (time = 400) => new Promise((resolve) => setTimeout(resolve, time));
const plot = () => document.getElementById("movie-chart");
const box = () => document.querySelector(".slider");
const state = () => ({
  frames: [...new Set(plot().data.map((trace) => trace.meta?.frame).filter((frame) => frame !== undefined))],
  said: box().querySelector("output").value,
  at: Number(box().querySelector("input").value),
  hidden: plot().data.filter((trace) => trace.visible === "legendonly").map((trace) => trace.name),
  button: box().querySelector("button").textContent,
});
const slide = (frame) => {
  const input = box().querySelector("input");
  input.value = frame;
  input.dispatchEvent(new Event("input", { bubbles: true }));
};
(async () => {
  while (document.documentElement.dataset.charts === undefined) await wait();
  const seen = { start: state() };
  slide(0); await wait();
  seen.first = state();
  const pair = plot().data.flatMap((trace, i) => (trace.legendgroup === "α = 1" ? [i] : []));
  await Plotly.restyle(plot(), { visible: "legendonly" }, pair);
  slide(2); await wait();
  seen.third = state();
  plot().emit("plotly_click", { points: [{ data: { meta: { pick: true } }, customdata: 1 }] }); await wait();
  seen.picked = state();
  box().querySelector("button").click();
  seen.playing = state();
  await wait(4000);
  seen.played = state();
  box().querySelector("button").click(); await wait(100);
  seen.again = state();
  document.documentElement.dataset.seen = JSON.stringify(seen);
})();
</script>
</body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slider")
    result = toy_regimes(elrs=[0.1, 0.15, 0.2, 1.0], steps=300, seeds=2, out=folder / "run")
    return result


def test_every_elr_is_a_frame_with_its_own_traces(page):
    chart = movie_chart(page, courses(Run(page.run), page))
    assert len(chart.frames) == 4 and chart.frames[chart.frame].startswith("ELR 0.2 ")  # nearest to 1.25 / A
    frames = [mark.frame for panel in chart.panels for mark in panel.marks if mark.frame is not None]
    assert sorted(set(frames)) == [0, 1, 2, 3]
    # loss, marker, and two lines a pair; the law's level only above the threshold, where it is not 0
    assert [frames.count(frame) for frame in range(4)] == [8, 9, 9, 9]


def test_a_slider_needs_frames():
    with pytest.raises(ValueError, match="0 frames"):
        Slider("ELR", [])
    with pytest.raises(ValueError, match="start is 2"):
        Slider("ELR", ["a", "b"], start=2)


@needs_browser
def test_the_slider_shows_one_frame_at_a_time(page, tmp_path):
    text = page.report.read_text(encoding="utf-8").replace("</body>", PROBE)
    probed = tmp_path / "page.html"
    probed.write_text(text, encoding="utf-8")
    document, console = open_page(probed)
    assert console == [] and attribute(document, "data-errors") is None
    found = attribute(document, "data-seen")
    assert found is not None, "the probe did not finish"
    seen = json.loads(found)
    assert seen["start"]["frames"] == [2] and seen["start"]["said"].startswith("ELR 0.2 ")
    assert seen["first"]["frames"] == [0] and seen["first"]["said"].startswith("ELR 0.1 ")
    assert seen["third"]["frames"] == [2] and len(seen["third"]["hidden"]) == 2  # a hidden pair stays hidden
    assert seen["picked"]["frames"] == [1] and seen["picked"]["at"] == 1
    assert seen["playing"]["button"] == "❚❚"
    assert seen["played"]["frames"] == [3] and seen["played"]["button"] == "▶"  # stops at the end
    assert seen["again"]["frames"] == [0]  # and starts over
