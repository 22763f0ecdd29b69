"""The experiment that CONTRIBUTING shows is whole: built from the page and run by somebody who has only read it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from command import last_json

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
BLOCKS = dict(re.findall(r"```python title=\"(.*?)\"\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
FILES = {name: text for name, text in BLOCKS.items() if name != "registry"}
COMMAND = f"""
import onsphere.lab.registry as registry
from onsphere.lab.registry import Entry
registry.ENTRIES += ({BLOCKS["registry"].strip()},)
from onsphere.lab.cli import main
main()
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


def onsphere(folder, *arguments):
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_it_is_short():
    assert len(FILES) <= 5
    assert sum(len(text.splitlines()) for text in FILES.values()) <= 250


def test_it_runs_resumes_and_is_listed(folder):
    done = onsphere(folder, "angles", *TINY, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    found = last_json(done)
    assert [row["elr"] for row in found["rows"]] == [1e-3, 1e-2]
    assert 0 < found["rows"][0]["angle"] < found["rows"][1]["angle"] < 0.1
    assert last_json(onsphere(folder, "resume", "run", "--json")) == found
    listed = json.loads(onsphere(folder, "runs", ".", "--json").stdout)["runs"]
    assert "to the power" in listed[0]["summary"]
    page = folder / "run" / "report.html"
    assert "angles-chart" in page.read_text(encoding="utf-8")
    assert (folder / "run/figures/angles.png").exists() and (folder / "run/figures/angles.svg").exists()


def test_a_wrong_field_is_one_line(folder):
    refused = onsphere(folder, "angles", "--elrs", "0.1", "--out", "none")
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1 and "--elrs" in refused.stderr
    assert not (folder / "none").exists()
