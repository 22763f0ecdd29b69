"""Two drivers on one folder, also from two machines: one works, the other is told who does."""

import json
import os
import subprocess
import sys
import time

import pytest

from onsphere.lab.options import InputError
from onsphere.lab.store import holder
from onsphere.lab.store.place import held, is_held

OTHER = {"process": 7, "host": "node-2", "machine": "another", "since": "2026-01-01T00:00:00+00:00"}


def said(folder, found=OTHER, *, age=0.0):
    path = folder / holder.HOLDER
    path.write_text(json.dumps(found))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_it_says_who_holds_and_leaves_nothing(tmp_path):
    with held(tmp_path):
        found = holder.read(tmp_path)
        assert found["process"] == os.getpid() and found["host"] and found["since"]
    assert holder.read(tmp_path) is None


def test_a_second_driver_on_this_machine_is_told_which_process_it_is(tmp_path):
    attempt = "from pathlib import Path; from onsphere.lab.store.place import held; held(Path('.')).__enter__()"
    with held(tmp_path):
        second = subprocess.run([sys.executable, "-c", attempt], cwd=tmp_path, capture_output=True, text=True)
    assert f"is being worked on by another process ({os.getpid()} on " in second.stderr


def test_a_living_driver_on_another_machine_is_respected(tmp_path):
    path = said(tmp_path, age=20)
    with (
        pytest.raises(
            InputError, match=r"by another process \(7 on node-2 since .*\), which gave a sign of life 20 s ago"
        ),
        held(tmp_path),
    ):
        pass
    assert json.loads(path.read_text()) == OTHER and {p.name for p in tmp_path.iterdir()} == {holder.HOLDER, ".lock"}
    assert is_held(tmp_path)


@pytest.mark.parametrize(
    ("found", "age"),
    [
        (OTHER, 2 * holder.DEAD),  # it has died
        ({**OTHER, "machine": holder._machine()}, 0.0),  # of this machine, whose lock is free
        ({}, 2 * holder.DEAD),  # it died before it could say more
    ],
)
def test_what_a_dead_one_left_is_taken_over(tmp_path, found, age):
    said(tmp_path, found, age=age)
    assert not is_held(tmp_path)
    with held(tmp_path):
        assert holder.read(tmp_path)["process"] == os.getpid()


def test_one_that_has_not_said_who_it_is_yet_is_not_taken_for_dead(tmp_path):
    (tmp_path / holder.HOLDER).touch()
    with pytest.raises(InputError, match="by another process"), held(tmp_path):
        pass


def test_machines_without_such_a_name_are_told_apart_by_their_hosts(tmp_path, monkeypatch):
    monkeypatch.setattr(holder, "_machine", lambda: "")
    said(tmp_path)
    with pytest.raises(InputError, match="node-2"), held(tmp_path):
        pass
    monkeypatch.setattr(holder.socket, "gethostname", lambda: "node-2")
    with held(tmp_path):
        pass


def test_it_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(holder, "BEAT", 0.01)
    with held(tmp_path):
        path = tmp_path / holder.HOLDER
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:
            time.sleep(0.005)
