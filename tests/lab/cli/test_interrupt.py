"""Killed or interrupted anywhere, continued to the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from command import COMMAND, last_json, onsphere

ARGUMENTS = (
    *(
        "--train",
        "200",
        "--widths",
        "32,32",
        "--elr-min",
        "1e-3",
        "--elr-max",
        "1",
        "--elrs",
        "4",
        "--seeds",
        "2",
    ),
    *("--steps", "2000", "--batch-size", "32", "--refine", "1", "--evaluations", "8", "--workers", "2"),
    *("--checkpoint-seconds", "0.2"),  # so that each sitting gets somewhere
)


ENDLESS = [{"2000": "1000000"}.get(word, word) for word in ARGUMENTS]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    started = time.monotonic()
    process = onsphere("regimes", *ARGUMENTS, "--out", "run", "--json", folder=folder)
    assert process.returncode == 0, process.stderr
    return folder / "run", time.monotonic() - started


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


def start(arguments, folder):
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def workers_of(process):
    """Process numbers of the two workers (and of multiprocessing's own helper, which comes first)."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    pids = sorted(int(pid) for pid in listed.stdout.split())
    assert len(pids) >= 2
    return pids


def wait_until_training(process, run, seconds):
    """Wait until the grid is being trained, then a while longer."""
    while not list(run.glob("shards/*/shard.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(seconds)


@pytest.mark.slow
def test_killed_three_times_and_resumed_gives_the_same_bits(uninterrupted, tmp_path):
    expected, whole = uninterrupted
    dice, kills = random.Random(0), 0
    run = tmp_path / "run"
    command = ["regimes", *ARGUMENTS, "--out", "run"]
    for _ in range(3):
        process = start(command, tmp_path)
        wait_until_training(process, run, 0.3 + dice.random() * whole / 8)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        command = ["resume", "run"]
    assert kills == 3 and not (run / "result.json").exists()
    listed = onsphere("runs", ".", folder=tmp_path).stdout
    assert "interrupted" in listed
    process = onsphere("resume", "run", "--json", folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert last_json(process)["cells"]
    assert_same(run, expected)


@pytest.mark.slow
def test_ctrl_c_stops_at_a_checkpoint_and_says_how_to_go_on(uninterrupted, tmp_path):
    expected, _ = uninterrupted
    process = start(["regimes", *ARGUMENTS, "--out", "run"], tmp_path)
    wait_until_training(process, tmp_path / "run", 1.0)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "onsphere resume run" in error and "Traceback" not in error
    assert list(tmp_path.glob("run/shards/*/checkpoint.safetensors"))
    assert onsphere("resume", "run", folder=tmp_path).returncode == 0
    assert_same(tmp_path / "run", expected)


def test_workers_end_with_a_killed_parent(tmp_path):
    process = start(["regimes", *ENDLESS, "--out", "run"], tmp_path)
    wait_until_training(process, tmp_path / "run", 0.2)
    pids = workers_of(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if os.path.exists(f"/proc/{pid}")]:  # noqa: PTH110
        assert time.monotonic() < deadline, f"still alive: {alive}"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_worker_fails_the_run_which_can_be_resumed(uninterrupted, tmp_path):
    expected, _ = uninterrupted
    process = start(["regimes", *ARGUMENTS, "--out", "run"], tmp_path)
    wait_until_training(process, tmp_path / "run", 0.5)
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a worker process died" in error and "onsphere resume run" in error
    assert onsphere("resume", "run", folder=tmp_path).returncode == 0
    assert_same(tmp_path / "run", expected)


def test_a_run_that_is_being_worked_on_is_left_alone(tmp_path):
    process = start(["regimes", *ENDLESS, "--out", "run"], tmp_path)
    try:
        wait_until_training(process, tmp_path / "run", 0.2)
        second = onsphere("resume", "run", folder=tmp_path)
        assert second.returncode == 2 and "another process" in second.stderr
        assert "running" in onsphere("runs", ".", folder=tmp_path).stdout
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def ended_by_interrupts(folder, arguments, delays, ready=""):
    """Send Ctrl-C to the whole group, as a terminal does, after each delay in seconds; status and what was said."""
    code = f"from onsphere.lab.cli import main; print('ready', flush=True); main({list(arguments)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    if ready:
        wait_until_training(process, folder / ready, 0.2)
    for delay in delays:
        time.sleep(delay)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    return process.returncode, error


@pytest.mark.parametrize("delay", [0.0, 0.5, 2.0])
def test_ctrl_c_in_the_first_moments_leaves_no_traceback(tmp_path, delay):
    status, error = ended_by_interrupts(tmp_path, ["regimes", *ENDLESS, "--out", "run"], [delay])
    assert status == 130, error
    assert "interrupted" in error and "Traceback" not in error and "Error" not in error


def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing(tmp_path):
    status, error = ended_by_interrupts(tmp_path, ["regimes", *ENDLESS, "--out", "run"], [0.0, 0.05], ready="run")
    assert status == 130, error
    assert "leaked" not in error and "Traceback" not in error and "Warning" not in error
    assert not list((tmp_path / "run").glob(".problem*"))
