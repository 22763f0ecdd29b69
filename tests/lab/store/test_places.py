"""Where a run is written, under which names, what is printed of them, and what happens when the place is no good."""

import errno
import json
import os
import shlex
import shutil
import threading
from pathlib import Path

import pytest

import onsphere.lab.experiment.skeleton as experiment
from command import flags, here
from onsphere.lab import InputError, Interrupted, map_regimes, resume_regimes
from onsphere.lab.console import PlainConsole, visible
from onsphere.lab.result import PageFailed
from onsphere.lab.store import Run, resume_command
from onsphere.lab.store import files as store_files
from store_runs import FIELDS, findings, train

QUICK = {"steps": 40, "elrs": 2, "seeds": 1}
TOY = ("toy", "regimes", *flags(alphas=[1, 2], grid=3, steps=50, seeds=2))

NAMES = {
    "a home that is none": "~nobody",
    "a tilde": "~",
    "a colon": "a:b",
    "a bucket": "s3:bucket",
    "an address": "s3:/bucket/key",
    "a drive": "file:/x",
    "markup": "m[red]x[/b]",
    "an emoji's name": "a:smile:b",
    "spaces and quotes": 'it\'s a "run" $HOME',
    "a percent sign": "50%20",
    "not ASCII": "Läufe-Ω",
    "a hash": "a#b?c=d",
    "almost too long": "x" * 250,
}


@pytest.mark.parametrize("name", [NAMES[which] for which in ("a bucket", "markup", "almost too long")])
def test_a_name_is_a_name(name, tmp_path):
    folder = Path(name)
    with pytest.raises(Interrupted):
        train(folder, until=30, **QUICK)
    assert (tmp_path / name / "run.json").is_file()
    process = here("resume", f"./{name}", folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert f"page: {name}/report.html" in process.stdout
    assert (tmp_path / name / "report.html").is_file()
    assert f"{name}  regimes  done" in here("runs", f"./{folder.parent}", folder=tmp_path).stdout
    assert here("report", f"./{name}", folder=tmp_path).stdout == f"{name}/report.html\n"


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_toys_take_such_names_too(name, tmp_path):
    process = here(*TOY, f"--out={name}", folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert f"page: {name}/report.html" in process.stdout
    assert (tmp_path / name / "course.parquet").is_file()


REFUSED = {
    "bytes that are no UTF-8": os.fsdecode(b"bad\xff\xfe"),
    "a name of 256 bytes": "x" * 256,
    "a path of 5,000 bytes": "/".join(["x" * 100] * 50),
    "a file": "file",
    "within a file": "file/run",
    "a device": "/dev/null",
    "a NUL": "a\0b",
    "a full folder": ".",
}


@pytest.mark.parametrize("name", REFUSED.values(), ids=REFUSED.keys())
def test_a_place_that_cannot_be_is_refused_before_training(name, tmp_path):
    (tmp_path / "file").write_text("")
    process = here(*TOY, "--out", name, folder=tmp_path)
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.strip().splitlines()) == 1 and "--out" in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    process.stderr.encode("utf-8")


def test_a_read_only_folder_is_refused(monkeypatch, whole):
    def mkdir(*_args, **_options):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        process = here(*TOY, "--out", "new", folder=whole.parent)
        assert process.returncode == 2 and "Read-only" in process.stderr
    monkeypatch.setattr(store_files.os, "open", mkdir)
    process = here("report", "run", folder=whole.parent)
    assert process.returncode == 2 and "Read-only" in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    name = "a\x1b[2J\x07\u202eb"
    process = here(*TOY, f"--out={name}", folder=tmp_path)
    assert process.returncode == 0, process.stderr
    for command in (["runs", "."], ["report", name], ["resume", name], ["resume", f"{name}x"]):
        again = here(*command, folder=tmp_path)
        assert not set("\x1b\x07\u202e") & set(process.stdout + process.stderr + again.stdout + again.stderr)
    assert "\\x1b[2J" in process.stdout


@pytest.mark.parametrize(
    "text", ["\x1b]0;title\x07", "\x9b31m", "a\rb", "\x08\x08", "\u2066x", "\udcff", "\x7f", "\x00"]
)
def test_visible_leaves_nothing_to_obey(text):
    shown = visible(f"[bold]{text}[/b] :smile:\n\tend")
    assert shown.isascii() and shown.replace("\n", "").replace("\t", "").isprintable()
    assert shown.startswith("[bold]") and shown.endswith("[/b] :smile:\n\tend")


def test_a_console_prints_text_and_tables_as_they_are():
    import io

    from rich.table import Table

    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=True, width=80)
    table = Table(box=None)
    table.add_column("[red]head[/red]")
    table.add_row("\x1b[5mcell[/b]")
    console.print("[bold]text\x1b[0m :smile:")
    console.print(table)
    assert "[bold]text\\x1b[0m :smile:" in out.getvalue() and "\\x1b[5mcell[/b]" in out.getvalue()
    assert "[red]head[/red]" in out.getvalue()


@pytest.mark.parametrize("name", ["a b", "-x", "it's $(rm)"])
def test_what_continues_a_run_is_quoted_for_a_shell(name, tmp_path):
    words = shlex.split(resume_command(Path(name)))
    assert words[:2] == ["onsphere", "resume"] and Path(words[2]) == Path(name) and not words[2].startswith("-")
    with pytest.raises(Interrupted):
        train(Path(name), until=5, **QUICK)
    with pytest.raises(InputError) as caught:
        map_regimes(out=Path(name), **FIELDS | QUICK)
    assert resume_command(Path(name)) in str(caught.value)
    process = here("report", f"./{name}", folder=tmp_path)
    assert process.returncode == 2 and shlex.split(process.stderr.rsplit(": ", 1)[1])[2].removeprefix("./") == name


@pytest.mark.parametrize("value", ["inf", "1e400", "nan"])
def test_numbers_that_run_json_cannot_hold_are_refused(value, tmp_path):
    process = here("regimes", "--checkpoint-seconds", value, "--out", "run", folder=tmp_path)
    assert process.returncode == 2, process.stderr
    assert "--checkpoint-seconds" in process.stderr and not (tmp_path / "run").exists()


def test_of_two_starts_on_one_folder_one_wins(tmp_path):
    for number in range(20):
        won, lost, barrier = [], [], threading.Barrier(4)

        def start(folder, won=won, lost=lost, barrier=barrier):
            barrier.wait()
            try:
                won.append(Run.create(folder, "regimes", {"seed": threading.get_ident()}))
            except InputError as error:
                lost.append(error)

        folder = tmp_path / f"run{number}"
        threads = [threading.Thread(target=start, args=(folder,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and len(lost) == 3
        assert [path.name for path in folder.iterdir() if path.name != ".lock"] == ["run.json"]


def test_starts_without_a_folder_never_share_one():
    runs = {Run.create(None, "toy thermo", {}).folder for _ in range(5)}
    assert len(runs) == 5


@pytest.mark.parametrize("what", ["file", "folder", "/dev/null", "pipe", "nowhere/x", "link", os.fsdecode(b"\xff")])
def test_save_replaces_nothing(what, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    process = here("split", "--save", what, "--out", "run", folder=tmp_path)
    assert process.returncode == 2, process.stderr
    assert "--save" in process.stderr and len(process.stderr.strip().splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["folder", "pipe", "/dev/null", "link to a pipe"])
def test_nothing_is_renamed_onto_what_is_no_file(place, tmp_path):
    import torch

    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a pipe").symlink_to("pipe")
    writers = [
        lambda path: store_files.write_text(path, "x"),
        lambda path: store_files.write_json(path, {}),
        lambda path: store_files.write_table(path, {"a": [1]}),
        lambda path: store_files.write_tensors(path, {"a": torch.ones(1)}),
    ]
    for write in writers:
        with pytest.raises(InputError, match="no regular file"):
            write(Path(place))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link to a pipe", "pipe"]


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "page").symlink_to("precious")
    store_files.write_text(Path("page"), "new")
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "page").is_symlink()


# ---- the result comes first


def test_a_page_that_fails_does_not_cost_the_result(monkeypatch, tmp_path, whole_run):
    def broken(*_args):
        raise ZeroDivisionError("no page today")

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "write_page", broken)
        with pytest.raises(PageFailed, match="onsphere report 'a run'"):
            train(Path("a run"))
    assert findings(Path("a run")) == findings(whole_run)
    process = here("resume", "a run", folder=tmp_path)  # makes the page that is missing
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "a run" / "report.html").is_file()


# ---- no room left


def no_room(monkeypatch, after):
    """Every write but the first ones finds the disk full."""
    left, write = [after], Path.write_bytes

    def write_bytes(self, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.parametrize("after", [3, 8, 13])
def test_a_full_disk_names_the_folder_and_how_to_go_on(monkeypatch, after, tmp_path, whole_run):
    words = flags(**{name: value for name, value in FIELDS.items() if name != "widths"}, widths=8)
    with monkeypatch.context() as patch:
        no_room(patch, after)
        process = here("regimes", *words, "--out", "a run", folder=tmp_path)
    assert process.returncode == 1, process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert "no space left to write a run" in last and "onsphere resume 'a run'" in last
    assert not list(tmp_path.rglob("*.tmp"))
    assert here("resume", "a run", folder=tmp_path).returncode == 0
    assert findings(tmp_path / "a run") == findings(whole_run)


def test_a_full_disk_while_weights_are_written(monkeypatch, tmp_path, whole_run):
    import safetensors.torch
    from safetensors import SafetensorError

    def full(*_args, **_options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError, match="no space left") as caught:
            train(Path("run"))
        assert caught.value.errno == errno.ENOSPC and "onsphere resume run" in str(caught.value)
    resume_regimes(Run.open(Path("run")))
    assert findings(Path("run")) == findings(whole_run)


def test_no_room_for_a_folder_is_bad_input(monkeypatch, tmp_path):
    no_room(monkeypatch, 0)
    process = here(*TOY, "--out", "run", folder=tmp_path)
    assert process.returncode == 2 and "No space left" in process.stderr


def test_a_damaged_part_is_found_before_training(monkeypatch, cut):
    import onsphere.lab.training as room

    def never(*_args, **_options):
        raise AssertionError("the data were loaded")

    monkeypatch.setattr(room, "problem_of", never)
    part = max(cut.glob("shards/*/readings-*.parquet"))
    part.write_bytes(part.read_bytes()[:-7])
    process = here("resume", "run", folder=cut.parent)
    assert process.returncode == 2 and part.name in process.stderr, process.stderr


def test_json_lines_hold_any_name(tmp_path):
    name = "q\x1b[31m\"'"
    process = here(*TOY, f"--out={name}", "--json", folder=tmp_path)
    assert process.returncode == 0 and json.loads(process.stdout)["run"] == name
    assert json.loads(here("runs", ".", "--json", folder=tmp_path).stdout)["runs"][0]["run"] == name
    shutil.rmtree(tmp_path / name)
