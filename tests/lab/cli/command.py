"""Runs the real command in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "onsphere.lab.cli"]
SMALL = (
    *(
        "--train",
        "60",
        "--label-noise",
        "0",
        "--widths",
        "8",
        "--elr-min",
        "1e-3",
        "--elr-max",
        "1",
        "--elrs",
        "3",
    ),
    *("--seeds", "2", "--steps", "40", "--batch-size", "16", "--refine", "1", "--evaluations", "2"),
)


def onsphere(*arguments, folder: Path, timeout=300, **environment):
    """Run to the end; returns the completed process with text output."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
        check=False,
    )


def last_json(process):
    """The JSON object on the last line of standard output."""
    return json.loads(process.stdout.splitlines()[-1])
