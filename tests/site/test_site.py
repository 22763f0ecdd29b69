"""The documentation site as it was built: every page, every public name, its search, and what is accessible.

`make docs` builds it and runs these; without a built site there is nothing to look at.
"""

import html
import importlib
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote_plus, unquote

import pytest

from browser import CHROMIUM, FLAGS, needs_browser

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "gallery/" not in path.as_posix())
PACKAGES = [
    *("onsphere", "onsphere.symmetry", "onsphere.roles", "onsphere.surgery", "onsphere.optim", "onsphere.monitor"),
    *("onsphere.dynamics", "onsphere.dynamics.toys", "onsphere.curvature", "onsphere.landscape"),
    *("onsphere.ensembles", "onsphere.lab"),
]
QUESTIONS = {
    "language model angle": "language-models.html",
    "FSDP2 checkpoint": "sharded-training.html",
    "SymmetryError": "using-symmetries.html",
    "resume run": "how-to.html",
    "period jump": "periods.html",
    "barrier between networks": "landscape.html",
    "memory budget": "split.html",
    "schedule from a map": "schedule.html",
    "install": "install.html",
    "effective learning rate": "explanation.html",
}


def text_of(name):
    return (SITE / name).read_text(encoding="utf-8")


def test_the_site_was_built():
    assert len(PAGES) > 40, "no site here: make docs builds it and runs these tests"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_the_page_of_its_package(package):
    page = text_of(f"api/{package.replace('.', '-')}.html")
    places = {place.rsplit(".", 1)[-1] for place in re.findall(r'(?:id="|href="[\w./-]+#)([\w.]+)"', page)}
    names = set(importlib.import_module(package).__all__) - {"__version__", "toys"}
    assert names - places == set()


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_pages_and_places_that_exist(name):
    page = text_of(name)
    for target in re.findall(r'(?:href|src)="([^"#?]*)[^"]*"', page):
        if target and not re.match(r"[a-z]+:", target) and not target.startswith("/"):
            assert (SITE / name).parent.joinpath(unquote(target)).exists(), f"{name} -> {target}"
    for target, place in re.findall(r'href="([^":?]*)#([^"]+)"', page):
        other = (
            page if not target else text_of((SITE / name).parent.joinpath(target).resolve().relative_to(SITE.resolve()))
        )
        assert f'id="{html.unescape(unquote(place))}"' in other or place == "__skip", f"{name} -> {target}#{place}"


@pytest.mark.parametrize("name", PAGES)
def test_nothing_of_a_page_comes_from_elsewhere(name):
    page = text_of(name)
    loaded = re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?:[^"]*)"', page)
    assert loaded == []


def opened(url, profile):
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url], capture_output=True, text=True, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def each(urls, tmp_path):
    """Each address opened in a browser, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(opened, urls, [tmp_path / f"profile{i}" for i in range(len(urls))]))


@needs_browser
def test_every_page_opens_with_a_clean_console(tmp_path):
    together = tmp_path / "together.html"  # one browser for all of them: a frame each
    frames = "".join(f'<iframe src="{(SITE / name).resolve().as_uri()}"></iframe>' for name in PAGES)
    together.write_text(f"<!doctype html><title>all</title>{frames}", encoding="utf-8")
    document, console = opened(together.as_uri(), tmp_path / "profile")
    assert console == [] and document.count("<iframe") == len(PAGES)


@needs_browser
def test_the_search_finds_questions_in_its_first_three_hits(tmp_path):
    start = (SITE / "index.html").resolve().as_uri()
    missed = {}
    for (question, page), (document, _) in zip(
        QUESTIONS.items(), each([f"{start}?q={quote_plus(question)}" for question in QUESTIONS], tmp_path), strict=True
    ):
        links = re.findall(r'<a href="([^"]*)" class="md-search-result__link"', document)
        hits = list(dict.fromkeys(re.sub(r"[?#].*", "", link).rsplit("/", 1)[-1] for link in links))
        if page not in hits[:3]:
            missed[question] = hits[:5]
    assert missed == {}


def serious(page, tmp_path, name):
    """What axe finds serious on a page: rule by rule, and how often."""
    folder = Path(find_spec("axe_core_python").origin).parent
    check = (
        "<script>" + (folder / "axe.min.js").read_text(encoding="utf-8") + "</script><script>"
        'addEventListener("load", () => axe.run(document, {resultTypes: ["violations"]}).then((found) => {'
        'const bad = found.violations.filter((one) => ["serious", "critical"].includes(one.impact));'
        'document.documentElement.setAttribute("data-axe", JSON.stringify(bad.map((one) => '
        "[one.id, one.nodes.length, one.nodes[0].html.slice(0, 120)])));}));</script></body>"
    )
    text = page.read_text(encoding="utf-8")
    end = text.rindex("</body>")
    copy = page.with_name(f"axe-{name}.html")
    copy.write_text(text[:end] + check + text[end + len("</body>") :], encoding="utf-8")
    try:
        document, _ = opened(copy.resolve().as_uri(), tmp_path / "profile")
    finally:
        copy.unlink()
    return json.loads(html.unescape(re.search(r'data-axe="([^"]*)"', document)[1]))


@needs_browser
@pytest.mark.skipif(find_spec("axe_core_python") is None, reason="NO AXE: axe-core-python is not installed")
@pytest.mark.parametrize("name", ["index.html", "monitor.html", "api/onsphere.html", "results.html", "claims.html"])
def test_axe_finds_nothing_serious(name, tmp_path):
    assert serious(SITE / name, tmp_path, Path(name).stem) == []
