"""Write the golden rows of the experiments again: ``PYTHONPATH=src python tests/make_golden.py [COMMAND ...]``.

They are what an earlier version found, so they are made again only where an experiment is meant to find something else;
say in the commit what and why.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from command import here
from experiment_specs import COMMANDS, GOLDEN, charts_on, files_in, result_in, slug, words


def golden(command, place):
    """What is kept of a tiny run: its result, the files that a user reads, how many charts its page has."""
    done = here(*words(command), "--out", "run", "--json", folder=place)
    if done.returncode:
        raise SystemExit(done.stderr)
    run = place / "run"
    return {"result": result_in(run), "files": files_in(run), "charts": charts_on(run / "report.html")}


def lines(values):
    """JSON with one line for each part of the result: readable in a diff, and not longer than it must be."""
    parts = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in values["result"].items()]
    result = "{\n" + ",\n".join(parts) + "\n }"
    return f'{{"result": {result},\n "files": {json.dumps(values["files"])},\n "charts": {values["charts"]}}}\n'


def main(commands):
    """Make the rows of these experiments."""
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    for command in commands:
        with tempfile.TemporaryDirectory() as place:
            text = lines(golden(command, Path(place)))
        (GOLDEN / f"{slug(command)}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or COMMANDS)
