"""What somebody meets who has just installed the package: the bare command, its version, --help, the doctor."""

import json
import runpy
import shlex
import sys

import pytest

from forks import forking
from onsphere.lab import doctor
from onsphere.lab.cli import app, run_command
from onsphere.lab.registry import ENTRIES, GROUPS

OTHERS = ("demo", "doctor", "resume", "report", "runs", "claims", "claims run")
COMMANDS = [entry.command for entry in ENTRIES] + [*GROUPS, *OTHERS]


def shown(capsys, *words):
    assert run_command(list(words)) == 0
    return capsys.readouterr().out


def test_the_bare_command_says_what_to_try_first(capsys):
    told = shown(capsys)
    for command in ("onsphere demo", "onsphere symmetries convnet", "onsphere doctor", "onsphere --help"):
        assert command in told
    assert len(told.splitlines()) < 20


def test_a_misspelled_command_is_told_from_no_command(capsys):
    assert run_command(["regimse"]) == 2
    error = capsys.readouterr().err
    assert 'Unknown command "regimse"' in error and '"regimes"' in error


def test_the_version_names_torch_and_the_devices(capsys):
    import torch

    import onsphere

    told = shown(capsys, "--version")
    assert f"onsphere {onsphere.__version__}" in told and f"torch {torch.__version__}" in told and "cpu (" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_two_examples(capsys, command):
    told = shown(capsys, *command.split(), "--help").rstrip().splitlines()
    assert told[-3].strip() == "Examples:", told[-4:]
    for line in told[-2:]:
        words = shlex.split(line)
        assert words[: 1 + len(command.split())] == ["onsphere", *command.split()]
        parsed, _, unused, *_ = app.parse_known_args(words[1:])
        assert callable(parsed) and not unused


def test_demo_is_the_map_without_options(monkeypatch, tmp_path):
    called = {}
    regimes = next(entry for entry in ENTRIES if entry.command == "regimes").experiment
    monkeypatch.setattr(type(regimes), "start", lambda own, **given: called.update(own=own, **given) or 1 / 0)
    assert run_command(["demo", "--out", str(tmp_path / "first")]) == 1
    assert called["own"] is regimes and called["out"] == tmp_path / "first"
    assert called.keys() == {"own", "out", "progress", "stop"}


def test_the_doctor_looks_at_everything(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "get_context", lambda method: forking())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = json.loads(shown(capsys, "doctor", "--json").splitlines()[-1])
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert found["command"] == "doctor" and len(found["checks"]) == 14
    for name in ("python", "torch", "packages", "folder", "workers", "digits"):
        assert states[name] == "ok", found
    absent = [check for check in found["checks"] if check["name"] == "cifar100"]
    assert (
        absent[0]["state"] == "note"
        and "first asked for" in absent[0]["advice"]
        and "ONSPHERE_DATA" in absent[0]["advice"]
    )


def test_what_is_missing_is_said_with_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "pyarrow")
    monkeypatch.setattr(doctor, "checks", lambda: iter([doctor._packages(), doctor._python()]))
    assert run_command(["doctor"]) == 1
    out, error = capsys.readouterr()
    assert "without pyarrow" in out and "pip install 'onsphere[lab]'" in out and "lacks packages" in error
    assert "Everything" not in out


def test_a_look_that_fails_is_one_that_is_missing(monkeypatch):
    def broken():
        raise OSError("no such disk")

    monkeypatch.setattr(doctor, "_folder", broken)
    for name in ("_workers", "_DATA"):
        monkeypatch.setattr(doctor, name, () if name == "_DATA" else doctor._python)
    found = [check for check in doctor.checks() if check.state == "missing"]
    assert [check.found for check in found] == ["OSError: no such disk"]


def test_the_package_is_a_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["onsphere", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("onsphere", run_name="__main__")
    assert not ended.value.code and capsys.readouterr().out.startswith("onsphere ")


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.onward], ids=lambda entry: entry.command)
def test_what_a_page_says_to_do_next_is_a_command(entry):
    said, command = entry.onward
    words = shlex.split(command.format(run="RUN", again=f"onsphere {entry.command}"))
    parsed, _, unused, *_ = app.parse_known_args(words[1:])
    assert words[0] == "onsphere" and callable(parsed) and not unused and said
