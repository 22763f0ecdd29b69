"""Killed or interrupted anywhere, continued to the same bits.

Runs are met at moments that they reach by themselves (tests/held.py), never after a time.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import command
from command import here, last_json

# The plan is fixed: one chosen by a timing could differ from run to run on a busy machine.
ARGUMENTS = (
    *("--train", "60", "--label-noise", "0", "--widths", "8", "--elr-min", "1e-3", "--elr-max", "1", "--elrs", "3"),
    *("--seeds", "2", "--steps", "160", "--batch-size", "16", "--refine", "1", "--evaluations", "8"),
    *("--mode", "vmap", "--compiled", "no", "--chunk", "3", "--checkpoint-seconds", "1e-6", "--workers", "2"),
)


ENDLESS = [{"160": "1000000"}.get(word, word) for word in ARGUMENTS[:-2]]
HELD = Path(command.__file__).with_name("held.py")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, undrawn_module):
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = here("regimes", *ARGUMENTS, "--out", "run", folder=folder)
    assert process.returncode == 0, process.stderr
    return folder / "run"


def contents(run):
    """Everything that must not depend on interruptions."""
    result = json.loads((run / "result.json").read_text())
    for timing in ("seconds", "cpu_seconds", "run", "report"):
        del result[timing]
    weights = {
        f"{path.parent.name}/{name}": value
        for path in sorted(run.glob("shards/*/weights.safetensors"))
        for name, value in load_file(path).items()
    }
    return result, weights


def assert_same(run, other):
    (result, weights), (expected, expected_weights) = contents(run), contents(other)
    assert result == expected
    assert weights.keys() == expected_weights.keys()
    for name, value in weights.items():
        assert value.equal(expected_weights[name]), name


@pytest.fixture
def start(tmp_path):
    """start(words, moment) starts the command in the temporary folder; what is left of it is ended after the test."""
    begun = []

    def start(words, moment, *, deaf=False):
        kind, number = moment
        for mark in tmp_path.glob("held-*"):
            mark.unlink()
        process = subprocess.Popen(
            [sys.executable, HELD, kind, str(number), str(int(deaf)), *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(reached, process):
    """Wait for a moment that a living process comes to by itself."""
    while not reached():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def held_workers(process, folder):
    """Process numbers of both workers, once both are held."""
    wait_until(lambda: len(list(folder.glob("held-*"))) == 2, process)
    return [int(mark.name.removeprefix("held-")) for mark in folder.glob("held-*")]


def is_alive(pid):
    """Whether a process runs; one that has ended and whom nobody has asked yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_the_end(pids):
    """Wait until processes that are not this one's children have ended."""
    while any(map(is_alive, pids)):
        time.sleep(0.01)


def interrupt(process):
    """Ctrl-C to the whole group, as a terminal does."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.slow
def test_ended_in_every_way_and_resumed_gives_the_same_bits(uninterrupted, start, tmp_path):
    run = tmp_path / "run"

    # Ctrl-C stops at a checkpoint and says how to go on. Before it, the run is left alone by everyone else.
    process = start(["regimes", *ARGUMENTS, "--out", "run"], ("step", 30))
    held_workers(process, tmp_path)
    second = here("resume", "run", folder=tmp_path)
    assert second.returncode == 2 and "another process" in second.stderr
    assert "running" in here("runs", ".", folder=tmp_path).stdout
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "onsphere resume run" in error and "Traceback" not in error
    assert list(run.glob("shards/*/checkpoint.safetensors"))

    # Killed among steps: the workers end with their parent.
    process = start(["resume", "run"], ("step", 50), deaf=True)
    workers = held_workers(process, tmp_path)
    process.kill()
    process.wait()
    wait_for_the_end(workers)
    assert not (run / "result.json").exists()
    assert "interrupted" in here("runs", ".", folder=tmp_path).stdout

    # A worker killed between a part of the readings and its checkpoint is replaced, and Ctrl-C stops that one too.
    process = start(["resume", "run"], ("part", 1))
    os.kill(held_workers(process, tmp_path)[-1], signal.SIGKILL)
    wait_until(lambda: len(list(tmp_path.glob("held-*"))) == 3, process)
    interrupt(process)
    _, error = process.communicate()
    assert process.returncode == 130, error
    assert "onsphere resume run" in error and "Traceback" not in error

    # After a checkpoint: a second Ctrl-C ends at once, although the workers would not stop, and leaves nothing.
    process = start(["resume", "run"], ("checkpoint", 1), deaf=True)
    workers = held_workers(process, tmp_path)
    interrupt(process)
    said = ""
    while "Ctrl-C again" not in said:
        said += process.stderr.readline()
        assert process.poll() is None, said
    interrupt(process)
    _, error = process.communicate()
    assert process.returncode == 130, error
    assert "leaked" not in error and "Traceback" not in error and "Warning" not in error
    assert not list(run.glob(".problem*"))
    wait_for_the_end(workers)  # what is killed takes a while to go

    process = here("resume", "run", "--json", folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert last_json(process)["cells"]
    assert_same(run, uninterrupted)


def torch_is_loading(process, folder):
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


MOMENTS = {
    "at once": (1, lambda process, folder: True),
    "while torch loads": (1, torch_is_loading),
    "when there is a folder": (1, lambda process, folder: (folder / "run").exists()),
    "when workers start": (2, lambda process, folder: list((folder / "run").glob(".problem*"))),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_in_the_first_moments_leaves_no_traceback(start, tmp_path, moment):
    workers, reached = MOMENTS[moment]
    words = ["regimes", *ENDLESS, "--workers", str(workers), "--out", "run"]
    process = start(words, ("step", 10**9))
    wait_until(lambda: reached(process, tmp_path), process)
    interrupt(process)
    _, error = process.communicate()
    assert process.returncode == 130, error
    assert "interrupted" in error and "Traceback" not in error and "Error" not in error
