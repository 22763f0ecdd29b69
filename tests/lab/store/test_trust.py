"""Runs from strangers: nothing is imported, called or written through a link unless the user says so."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from command import here
from onsphere.lab import InputError
from onsphere.lab.models import ModelError, build
from onsphere.lab.store import Run, trust

NET = """
from pathlib import Path
from torch import nn
Path("imported").touch()
def make(input_shape=(8,), classes=3):
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 3))
    @classmethod
    def small(cls):
        return cls()
number = 3
class Plain:
    pass
def ends():
    raise SystemExit(0)
"""
ARGUMENTS = ("symmetries", "{module}:make", "--input", "16x8")


@pytest.fixture
def started(tmp_path, request):
    """A run of own code that this user started here and that has no result yet; the module was not imported since."""
    module = f"nets_{request.node.name.translate({ord(c): '_' for c in '[]-/. :'})}"
    (tmp_path / f"{module}.py").write_text(NET)
    process = here(*(word.format(module=module) for word in ARGUMENTS), "--out", "run", folder=tmp_path)
    assert process.returncode == 0, process.stderr
    for name in ("result.json", "digests.json"):
        (tmp_path / "run" / name).unlink()
    import sys

    del sys.modules[module]
    (tmp_path / "imported").unlink()
    return tmp_path / "run"


def asks(folder, name="run"):
    """Resume is refused, and nothing was imported."""
    process = here("resume", name, folder=folder)
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.strip().splitlines()
    assert "--trust" in line and ":make from" in line and ".py" in line, line
    assert not (folder / "imported").exists()


def test_my_own_run_is_resumed(started):
    assert here("resume", "run", folder=started.parent).returncode == 0
    assert (started.parent / "imported").exists()


def test_a_copied_run_asks(started):
    shutil.copytree(started, started.parent / "copy")
    asks(started.parent, "copy")


def test_a_moved_run_asks(started):
    started.rename(started.parent / "moved")
    asks(started.parent, "moved")


def test_a_run_of_another_user_asks(started, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    asks(started.parent)
    assert not (tmp_path / "other").exists()  # asking makes no key


@pytest.mark.parametrize("signed", [None, 3, "", "f" * 64, "\u00e9" * 3])
def test_a_forged_signature_asks(started, signed):
    values = json.loads((started / "run.json").read_text())
    values.pop("digest")
    (started / "run.json").write_text(json.dumps(values | {"signature": signed}))
    asks(started.parent)


def test_an_edited_question_asks(started):
    values = json.loads((started / "run.json").read_text())
    values.pop("digest")
    values["spec"]["seed"] = 5
    (started / "run.json").write_text(json.dumps(values))
    asks(started.parent)


def test_trust_imports_and_says_what(started):
    shutil.copytree(started, started.parent / "copy")
    process = here("resume", "copy", "--trust", folder=started.parent)
    assert process.returncode == 0, process.stderr
    assert "importing nets_" in process.stderr and ".py" in process.stderr


def test_trust_in_python(started):
    from onsphere.lab.experiments.symmetries.run import EXPERIMENT

    shutil.copytree(started, started.parent / "copy")
    with pytest.raises(InputError, match="trust=True"):
        EXPERIMENT.resume(Run.open(Path("copy")))
    assert EXPERIMENT.resume(Run.open(Path("copy"), trust=True)).found.names


def test_listing_and_reporting_never_import(started, tmp_path):
    process = here("resume", "run", folder=tmp_path)
    assert process.returncode == 0
    (tmp_path / "imported").unlink()
    shutil.copytree(started, tmp_path / "copy")
    for name in list(tmp_path.glob("nets_*.py")):
        name.write_text("raise SystemExit(7)")
    import sys

    for name in [name for name in sys.modules if name.startswith("nets_")]:
        del sys.modules[name]
    for arguments in (["runs", "."], ["report", "copy"], ["resume", "copy"], ["report", "run"]):
        assert here(*arguments, folder=tmp_path).returncode == 0


HOSTILE = [
    "os:fork", "sys:exit", "signal:pause", "os:abort", "builtins:exit", "pdb:set_trace", "code:interact",
    "antigravity:geohash", "torch:tensor", "torch:cuda.empty_cache", "numpy:zeros", "nets:number", "nets:Plain",
    "nets:Path", "nets:Path.cwd", "nets:nn", "nets:ends", "nets:nothing", "nets:", "nowhere:make",
]  # fmt: skip


@pytest.mark.parametrize("code", HOSTILE)
def test_what_makes_no_network_is_refused_in_one_line(code, tmp_path):
    (tmp_path / "nets.py").write_text(NET)
    process = here("symmetries", code, "--input", "16x8", folder=tmp_path)
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("code", HOSTILE[:4])
def test_a_hostile_run_is_refused_even_with_trust(started, code):
    values = json.loads((started / "run.json").read_text())
    values.pop("digest")
    values["spec"]["model"] = code
    (started / "run.json").write_text(json.dumps(values))
    assert here("resume", "run", folder=started.parent).returncode == 2
    process = here("resume", "run", "--trust", folder=started.parent)
    assert process.returncode == 2 and "part of Python itself" in process.stderr


@pytest.mark.parametrize("code", ["own_nets:make", "own_nets:Net", "own_nets:Net.small"])
def test_functions_and_modules_are_called(code, tmp_path):
    (tmp_path / "own_nets.py").write_text(NET)
    assert len(list(build(code, input_shape=(8,), classes=3).parameters())) > 1


def test_a_factory_that_exits_is_an_error(tmp_path):
    (tmp_path / "exits.py").write_text("raise SystemExit(0)")
    with pytest.raises(ModelError, match="cannot import"):
        build("exits:make", input_shape=(8,), classes=3)


def test_a_map_of_a_stranger_hands_down_no_code(whole):
    for file in ("run.json", "result.json"):
        values = json.loads((whole / file).read_text())
        values.pop("digest", None)
        values["spec"]["model"] = "stranger:make"
        (whole / file).write_text(json.dumps(values))
    (whole / "digests.json").unlink()
    process = here("schedule", "--map", "run", folder=whole.parent)
    assert process.returncode == 2, process.stderr
    assert "--model stranger:make" in process.stderr and "not started here" in process.stderr


def test_the_key_is_readable_for_its_user_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first = trust.signature(tmp_path, "a")
    key = tmp_path / "state" / "onsphere" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == trust.KEY_BYTES
    assert [path.name for path in key.parent.iterdir()] == ["key"]
    assert trust.signature(tmp_path, "a") == first != trust.signature(tmp_path, "b")
    assert trust.is_own(tmp_path, "a", first) and not trust.is_own(tmp_path / "else", "a", first)


def test_without_a_place_for_a_key_a_run_starts_and_asks_later(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "keyless.py").write_text(NET)
    assert here("symmetries", "keyless:make", "--input", "16x8", "--out", "run", folder=tmp_path).returncode == 0
    (tmp_path / "run" / "result.json").unlink()
    assert "--trust" in here("resume", "run", folder=tmp_path).stderr


# ---- links


def victim(folder):
    place = folder / "elsewhere"
    place.mkdir()
    (place / "precious").write_text("mine")
    return place


def linked(path, to):
    """A link in the place of a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(to)


LINKS = {
    "figures": lambda run, out: linked(run / "figures", out),
    "report.html": lambda run, out: linked(run / "report.html", out / "precious"),
    "a figure": lambda run, out: linked(run / "figures" / "map.png", out / "precious"),
    "shards": lambda run, out: [
        shutil.copytree(run / "shards", out / "shards"),
        linked(run / "shards", out / "shards"),
    ],
    ".lock": lambda run, out: linked(run / ".lock", out / "precious"),
    "a dangling link": lambda run, out: linked(run / "new", out / "nothing"),
    "a parent": lambda run, out: linked(run / "up", ".."),
    "a circle": lambda run, out: linked(run / "round", "round"),
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())
@pytest.mark.parametrize("command", ["report", "resume"])
def test_links_that_lead_out_are_not_written_through(request, link, command, tmp_path):
    run = request.getfixturevalue("whole" if command == "report" else "cut")
    for name in ("figures", "shards"):
        (run / name).mkdir(exist_ok=True)
    (run / "report.html").touch()
    out = victim(tmp_path)
    link(run, out)
    process = here(command, "run", folder=tmp_path)
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.strip().splitlines()) == 1 and "link" in process.stderr
    assert (out / "precious").read_text() == "mine"
    assert {path.name for path in out.iterdir()} <= {"precious", "shards"}


def test_pipes_and_sockets_in_a_run_are_refused(whole):
    os.mkfifo(whole / "figures" / "pipe")
    process = here("report", "run", folder=whole.parent)
    assert process.returncode == 2 and "pipe" in process.stderr


def test_links_that_stay_inside_and_a_run_behind_a_link_are_fine(whole, tmp_path):
    (whole / "page").symlink_to("report.html")
    (tmp_path / "other").symlink_to(whole)
    assert here("report", "other", folder=tmp_path).returncode == 0


def test_listing_writes_nothing(whole, cut_run, tmp_path):
    shutil.copytree(cut_run, tmp_path / "second")
    (tmp_path / "second" / ".lock").unlink(missing_ok=True)
    before = sorted(tmp_path.rglob("*"))
    assert here("runs", ".", folder=tmp_path).returncode == 0
    assert sorted(tmp_path.rglob("*")) == before
