"""The experiment that CONTRIBUTING shows is whole: built from the page and run by somebody who has only read it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
BLOCKS = dict(re.findall(r"```python title=\"(.*?)\"\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
FILES = {name: text for name, text in BLOCKS.items() if name != "registry"}
COMMANDS = f"""
import json, sys
import onsphere.lab.registry as registry
from onsphere.lab.registry import Entry
registry.ENTRIES += ({BLOCKS["registry"].strip()},)
from onsphere.lab.cli import run_command
for line in sys.argv[1:]:
    print("status", run_command(json.loads(line)), flush=True)
"""
TINY = [*("--train", "64", "--steps", "32", "--widths", "8", "--workers", "1"), "--mode", "loop", "--elrs", "1e-3,1e-2"]
TINY += ["--seeds", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("example")
    for name, text in FILES.items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(text, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def said(folder):
    """What is printed when it is run, resumed, listed and asked wrongly, in one process that begins with nothing."""
    lines = [
        ["angles", *TINY, "--out", "run", "--json"],
        ["resume", "run", "--json"],
        ["runs", ".", "--json"],
        ["angles", "--elrs", "0.1", "--out", "none"],
    ]
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *map(json.dumps, lines)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_it_is_short():
    assert len(FILES) <= 5
    assert sum(len(text.splitlines()) for text in FILES.values()) <= 250


def test_it_runs_resumes_and_is_listed(folder, said):
    found, again, listed = (json.loads(line) for line in said.stdout.splitlines() if line.startswith("{"))
    assert re.findall(r"^status (\d+)$", said.stdout, re.MULTILINE) == ["0", "0", "0", "2"]
    assert [row["elr"] for row in found["rows"]] == [1e-3, 1e-2]
    assert 0 < found["rows"][0]["angle"] < found["rows"][1]["angle"] < 0.1
    assert again == found
    assert "to the power" in listed["runs"][0]["summary"]
    page = folder / "run" / "report.html"
    assert "angles-chart" in page.read_text(encoding="utf-8")
    assert (folder / "run/figures/angles.png").exists() and (folder / "run/figures/angles.svg").exists()


def test_a_wrong_field_is_one_line(folder, said):
    refusals = [line for line in said.stderr.splitlines() if line.startswith("onsphere: ")]
    assert len(refusals) == 1 and "--elrs" in refusals[0]
    assert not (folder / "none").exists()
