"""The page of a folder of runs: names are text, links lead to pages, a browser sorts and finds."""

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from browser import attribute, needs_browser, open_page
from command import here
from onsphere.lab.report import runs_page
from onsphere.lab.report.runs_page import Listed, write_runs_page

NAMES = ("map", "<b>bold", "50%20 & a#b?c", "Läufe-Ω")


@pytest.fixture
def runs(tmp_path):
    """Four runs with strange names; all but the last have a page, the first two a figure."""
    found = []
    for number, name in enumerate(NAMES):
        folder = tmp_path / name
        (folder / "figures").mkdir(parents=True)
        if number < 3:
            (folder / "report.html").write_text("page")
        if number < 2:
            pixels = np.random.default_rng(number).integers(0, 256, (300, 400, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "figures" / "overview.png")
        state = ("done", "interrupted", "running", "damaged")[number]
        seconds = (12.5, None, 300.0, None)[number]
        found.append(
            Listed(folder, "regimes", state, f"2026-01-0{number + 1}T10:00:00+00:00", f"summary {number}", seconds)
        )
    return found


class Seen(HTMLParser):
    """Links, pictures and headings of columns."""

    def __init__(self, text):
        super().__init__()
        self.links, self.pictures, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.tags.append((tag, own))
        if tag == "a":
            self.links.append(own["href"])
        if tag == "img":
            self.pictures.append(own["src"])


def test_names_are_text_and_links_lead_to_pages(runs, tmp_path):
    text = write_runs_page(tmp_path, runs).read_text("utf-8")
    seen = Seen(text)
    assert {(tmp_path / unquote(link)).resolve() for link in seen.links} == {
        (run.folder / "report.html").resolve() for run in runs[:3]
    }
    assert "<b>bold" not in text and "&lt;b&gt;bold" in text
    assert sum(own.get("scope") == "col" for tag, own in seen.tags if tag == "th") == 7
    assert sum(own.get("scope") == "row" for tag, own in seen.tags if tag == "th") == 4
    assert "http:" not in text and "https:" not in text


def test_pictures_are_small_and_inside(runs, tmp_path):
    pictures = Seen(write_runs_page(tmp_path, runs).read_text("utf-8")).pictures
    assert len(pictures) == 2
    for source in pictures:
        with Image.open(BytesIO(b64decode(source.removeprefix("data:image/png;base64,")))) as image:
            assert image.size == (133, 100), "a third of 400 x 300"


def test_a_picture_is_made_once(runs, tmp_path, monkeypatch):
    made, real = [], runs_page.thumbnail
    monkeypatch.setattr(runs_page, "thumbnail", lambda path: made.append(path.parents[1].name) or real(path))
    first = write_runs_page(tmp_path, runs).read_text("utf-8")
    assert sorted(made) == sorted(NAMES[:2])
    made.clear()
    assert write_runs_page(tmp_path, runs).read_text("utf-8") == first and made == []
    Image.new("RGB", (50, 50)).save(runs[0].folder / "figures" / "overview.png")
    write_runs_page(tmp_path, runs)
    assert made == [NAMES[0]]


def test_what_is_no_picture_is_left_out(runs, tmp_path):
    (runs[0].folder / "figures" / "overview.png").write_bytes(b"no picture")
    assert len(Seen(write_runs_page(tmp_path, runs).read_text("utf-8")).pictures) == 1


def test_the_command_writes_it(tmp_path):
    assert here("toy", "regimes", "--steps", "200", "--out", "runs/a", folder=tmp_path).returncode == 0
    told = here("runs", "--page", folder=tmp_path)
    assert (told.returncode, told.stdout) == (0, "page: runs/index.html\n"), told.stderr
    text = (tmp_path / "runs" / "index.html").read_text("utf-8")
    assert Seen(text).links[0] == "./a/report.html" and "toy regimes" in text and len(Seen(text).pictures) == 1
    (row,) = json.loads(here("runs", "--page", "--json", folder=tmp_path).stdout)["runs"]
    assert row["seconds"] > 0 and (row["run"], row["status"]) == ("runs/a", "done")
    refused = here("runs", "nowhere", "--page", folder=tmp_path)
    assert refused.returncode == 2 and "nowhere is not a folder" in refused.stderr


def test_an_empty_folder_has_a_page_that_says_so(tmp_path):
    assert "There is no run here yet" in write_runs_page(tmp_path, []).read_text("utf-8")


PROBE = """
<script>
const rows = () => [...document.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
const column = (n) => rows().map((row) => row.cells[n].textContent);
const button = (n) => document.querySelectorAll("thead th")[n].querySelector("button");
const seen = {};
button(5).click(); seen.shortest = column(1);
seen.sorted = document.querySelectorAll("thead th")[5].getAttribute("aria-sort");
button(5).click(); seen.longest = column(1);
const query = document.querySelector("#query");
query.value = "RUNNING summary"; query.dispatchEvent(new Event("input"));
seen.found = column(1); seen.said = document.querySelector("#shown").textContent;
seen.fits = document.documentElement.scrollWidth <= innerWidth;
document.documentElement.dataset.seen = JSON.stringify(seen);
</script>
</body>"""


@needs_browser
def test_a_browser_sorts_and_finds(runs, tmp_path):
    page = write_runs_page(tmp_path, runs)
    page.write_text(page.read_text("utf-8").replace("</body>", PROBE), "utf-8")
    document, console = open_page(page)
    assert attribute(document, "data-errors") is None and console == []
    seen = json.loads(attribute(document, "data-seen"))
    assert seen["shortest"][:2] == ["map", "50%20 & a#b?c"] and seen["sorted"] == "ascending"
    assert seen["longest"][:2] == ["50%20 & a#b?c", "map"], "what has no time comes last whichever way"
    assert (seen["found"], seen["said"], seen["fits"]) == (["50%20 & a#b?c"], "1 of 4", True)
    assert re.search(r'aria-live="polite"', document)
