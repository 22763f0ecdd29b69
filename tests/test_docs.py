"""The code in README and docs runs as it stands; what they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", *SITE]
#: What a command prints, and what the sources of the project are shown by.
TABLES = {"claims", "changelog"}
BLOCKS = {page: re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in PAGES}


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCKS[page]], ids=lambda page: page.stem)
def test_code_blocks_run_one_after_another(page, capsys):
    names = {"__name__": "__main__"}
    for number, code in enumerate(BLOCKS[page]):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


def test_the_readme_has_a_library_example_of_ten_lines():
    lines = [x for x in BLOCKS[PAGES[0]][0].splitlines() if x.strip() and not x.startswith(("import", "from"))]
    assert len(lines) <= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert re.match(r"https?:", target) or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", SITE, ids=lambda page: page.stem)
def test_a_page_opens_with_what_its_reader_can_do_and_is_short(page):
    text = page.read_text(encoding="utf-8")
    assert re.match(r"# [^\n]+\n\nAfter this page ", text)
    prose = [
        line for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines() if line[:1] not in (" ", "|")
    ]
    assert len(" ".join(prose).split()) <= 1500 or page.stem in TABLES


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r"- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {page.relative_to(ROOT / "docs").as_posix() for page in SITE}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_options_named_in_the_docs_exist(page):
    from onsphere.lab.registry import ENTRIES

    text = page.read_text(encoding="utf-8")
    for entry in ENTRIES:
        known = {name.replace("_", "-") for name in entry.options.model_fields} | {
            "out",
            "json",
            "config",
            "help",
            "plan",
        }
        for line in re.findall(rf"onsphere {entry.command}(?![\w-])[^`\n]*", text):
            for option in re.findall(r"--(?:no-)?([a-z][a-z-]*)", line):
                assert option in known, f"{page.name}: {entry.command} --{option}"
