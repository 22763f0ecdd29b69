"""Damaged and hand-edited run.json and result.json: one line that names the file and what to do; the list goes on."""

import json
import shutil

import pytest

from command import flags, here
from store_runs import strip_digests

JUNK = {
    "null": None,
    "a number": 3,
    "a fraction": -0.5,
    "a text": "x\x1b[31m[/b]",
    "a list": [],
    "a nested list": [[{"a": [None, {"b": 1}]}]],
    "an object": {},
    "true": True,
    "huge": 10**400,
}
DELETED = object()
TOYS = {
    "toy regimes": {"alphas": [1, 2], "grid": 3, "steps": 50, "seeds": 2},
    "symmetries": {"widths": 4},
}


def places(value, path=()):
    """Where every value of a nested object lies; of a list, the first entry alone."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for name, item in items:
        yield from places(item, (*path, name))


def changed(value, path, to):
    """A copy in which one value is another, or gone."""
    copy = json.loads(json.dumps(value))
    *way, last = path
    at = copy
    for name in way:
        at = at[name]
    if to is DELETED:
        del at[last]
    else:
        at[last] = to
    return copy


def mutations(value):
    """Every key, deleted and replaced by every kind of junk."""
    for path in places(value):
        for name, to in {"deleted": DELETED, **JUNK}.items():
            yield f"{'.'.join(map(str, path))}: {name}", changed(value, path, to)


TEXTS = {
    "empty": "",
    "cut in half": None,
    "not JSON": "hello",
    "a list": "[]",
    "a number": "1e400",
    "NaN": '{"command": NaN}',
    "deep": "[" * 50_000,
    "long number": '{"command": ' + "9" * 5000 + "}",
    "nothing in it": "{}",
}


def one_line(process, name):
    assert process.returncode == 2, process.stderr
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1, process.stderr
    assert name in lines[0] and "Error:" not in lines[0].split("(")[0], lines[0]
    assert "\x1b" not in lines[0] and len(lines[0]) < 1100
    assert "as it was" in lines[0], lines[0]


@pytest.fixture(scope="module")
def ended(tmp_path_factory, whole_run):
    """One ended run of several experiments, by command."""
    folder = tmp_path_factory.mktemp("ended")
    runs = {"regimes": shutil.copytree(whole_run, folder / "regimes")}
    for command, fields in TOYS.items():
        name = command.replace(" ", "-")
        process = here(*command.split(), *flags(**fields), "--out", name, folder=folder)
        assert process.returncode == 0, process.stderr
        runs[command] = folder / name
    return runs


@pytest.mark.parametrize("file", ["run.json", "result.json"])
@pytest.mark.parametrize("command", ["regimes", *TOYS])
def test_every_edit_of_a_run_with_digests_is_refused(ended, command, file, tmp_path):
    run = shutil.copytree(ended[command], tmp_path / "run")
    shutil.copytree(ended["symmetries"], tmp_path / "other")
    whole = json.loads((run / file).read_text())
    for number, (what, values) in enumerate(mutations(whole)):
        if values == whole or what.startswith("digest") or (number % 2 and command == "regimes"):
            continue
        (run / file).write_text(json.dumps(values))
        one_line(here("report" if number % 4 else "resume", "run", folder=tmp_path), file)
        if number % 10 == 0:
            listed = here("runs", ".", "--json", folder=tmp_path)
            rows = {row["run"]: row["status"] for row in json.loads(listed.stdout)["runs"]}
            assert listed.returncode == 0 and rows == {"run": "damaged", "other": "done"}, what


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("file", ["run.json", "result.json"])
@pytest.mark.parametrize("digests", ["with digests", "without"])
def test_what_is_no_result_at_all(whole, file, text, digests):
    if digests == "without":
        strip_digests(whole)
    if text is None:
        text = (whole / file).read_text()
        text = text[: len(text) // 2]
    (whole / file).write_text(text)
    for command in ("report", "resume"):
        one_line(here(command, "run", folder=whole.parent), file)
    process = here("runs", ".", folder=whole.parent)
    assert process.returncode == 0 and "run  " in process.stdout and "damaged" in process.stdout
    assert len(process.stdout.splitlines()) == 1


@pytest.mark.parametrize("file", ["run.json", "result.json"])
@pytest.mark.parametrize("command", ["regimes", *TOYS])
def test_edits_of_a_run_without_digests_never_end_in_an_exception(ended, command, file, tmp_path):
    run = shutil.copytree(ended[command], tmp_path / "run")
    strip_digests(run)
    whole = json.loads((run / file).read_text())
    refused = 0
    for number, (what, values) in enumerate(mutations(whole)):
        if number % 3:  # a third of them, each kind of junk among them
            continue
        (run / file).write_text(json.dumps(values))
        process = here("runs", ".", "--json", folder=tmp_path)
        (row,) = json.loads(process.stdout)["runs"]
        assert process.returncode == 0 and "Error:" not in row["summary"].split("(")[0], (what, row)
        process = here("resume", "run", folder=tmp_path)
        assert process.returncode in (0, 2), (what, process.stderr)
        if process.returncode:
            refused += 1
            one_line(process, file)
        assert "\x1b" not in process.stdout + process.stderr, what
    assert refused > 5


KEYS = {"regimes": ["cells", "spec", "engine", "seconds"], "symmetries": ["groups", "spec", "seconds", "names"]}


@pytest.mark.parametrize("junk", [DELETED, None, "x", 3, [[]]])
@pytest.mark.parametrize(("command", "key"), [(command, key) for command, keys in KEYS.items() for key in keys])
def test_a_result_without_digests_must_have_its_parts(ended, command, key, junk, tmp_path):
    run = shutil.copytree(ended[command], tmp_path / "run")
    strip_digests(run)
    values = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(changed(values, (key,), junk)))
    if key == "seconds" and junk in (None, 3):
        return  # a number, or none that is finite
    for name in ("report", "resume"):
        one_line(here(name, "run", folder=tmp_path), "result.json")
    assert "damaged" in here("runs", ".", folder=tmp_path).stdout


@pytest.mark.parametrize("missing", ["engine.json", "shards", "shards/round0-001"])
def test_a_report_whose_sources_are_gone_names_them(whole, missing):
    path = whole / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    process = here("report", "run", folder=whole.parent)
    assert process.returncode == 2, process.stderr
    assert missing in process.stderr and len(process.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", ["folder", "link to itself", "pipe"])
@pytest.mark.parametrize("file", ["run.json", "result.json"])
def test_files_that_are_none(whole, file, kind):
    import os

    path = whole / file
    path.unlink()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link to itself": lambda: path.symlink_to(path)}[kind]()
    for command in ("report", "resume"):
        process = here(command, "run", folder=whole.parent)
        assert process.returncode == 2, process.stderr
        assert file in process.stderr and len(process.stderr.strip().splitlines()) == 1
    assert here("runs", ".", folder=whole.parent).returncode == 0


def test_a_run_of_a_later_version_is_listed(whole):
    strip_digests(whole)
    values = json.loads((whole / "run.json").read_text())
    (whole / "run.json").write_text(json.dumps(values | {"command": "bananas"}))
    assert "does not know this experiment" in here("runs", ".", folder=whole.parent).stdout
    process = here("resume", "run", folder=whole.parent)
    assert process.returncode == 2 and "bananas" in process.stderr
