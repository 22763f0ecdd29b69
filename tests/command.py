"""Runs the real command, in a process of its own or, which is quicker, in this one."""

import io
import json
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from onsphere.lab.cli import run_command

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


def onsphere(*arguments, folder: Path, **environment):
    """Run to the end; returns the completed process with text output."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def here(*arguments, folder: Path):
    """The same in this process: no start and no imports to wait for."""
    arguments = list(map(str, arguments))
    with chdir(folder), redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as error:
        status = run_command(arguments)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), error.getvalue())


def flags(**fields):
    """The words on the command line for the fields of a specification."""
    return [f"--{name.replace('_', '-')}={_text(value)}" for name, value in fields.items()]


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def last_json(process):
    """The JSON object on the last line of standard output."""
    return json.loads(process.stdout.splitlines()[-1])
