"""The code in README and docs runs as it stands; what they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_options_named_in_the_docs_exist(page):
    from onsphere.lab.registry import ENTRIES

    text = page.read_text(encoding="utf-8")
    for entry in ENTRIES:
        known = {name.replace("_", "-") for name in entry.options.model_fields} | {"out", "json", "config", "help"}
        for line in re.findall(rf"onsphere {entry.command}(?![\w-])[^`\n]*", text):
            for option in re.findall(r"--(?:no-)?([a-z][a-z-]*)", line):
                assert option in known, f"{page.name}: {entry.command} --{option}"
