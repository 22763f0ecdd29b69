"""The contract of all experiments, on one tiny run of each that its tests share.

Tests of one experiment follow one another (the fixture's scope is the module), so that of two processes that share the
tests only the one in the middle is run by both.
"""

import dataclasses
import json
import pickle
import shlex
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest

from browser import attribute, needs_browser, open_page
from command import here, last_json
from experiment_specs import (
    COMMANDS,
    GOLDEN,
    OPTIONS,
    WRONG,
    Interrupter,
    charts_on,
    code_on,
    differences,
    files_in,
    found,
    golden_of,
    hearing,
    result_in,
    slug,
    words,
)
from onsphere.lab import InputError, Run
from onsphere.lab.population import sizing
from onsphere.lab.registry import entry_of
from pictures import undrawn

MOST_SITTINGS = 40


@pytest.fixture(scope="module", params=COMMANDS, ids=slug)
def tiny(request, tmp_path_factory):
    """The tiny run of an experiment, with everything on disk."""
    command, place, titles = request.param, tmp_path_factory.mktemp("tiny"), []

    def listen(name, *arguments):
        if name == "begin":
            titles.append(arguments[0])

    with hearing(listen):
        done = here(*words(command), "--out", "run", "--json", folder=place)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(command=command, place=place, run=place / "run", done=done, titles=titles)


def test_it_prints_one_json_object_last_and_keeps_it(tiny):
    assert len(tiny.done.stdout.splitlines()) == 1
    printed = last_json(tiny.done)
    assert printed["command"] == tiny.command
    assert (printed["run"], printed["report"]) == ("run", "run/report.html")
    assert found(printed) == result_in(tiny.run)
    assert printed["seconds"] > 0


def test_resumed_after_its_end_it_says_the_same_again(tiny):
    again = here("resume", "run", "--json", folder=tiny.place)
    assert again.returncode == 0, again.stderr
    assert last_json(again) == last_json(tiny.done)
    shown = here("resume", "run", folder=tiny.place)
    assert shown.stdout.splitlines()[-1] == "page: run/report.html" and len(shown.stdout.splitlines()) > 1


def test_its_plan_is_what_it_trained(tiny, monkeypatch):
    """The rounds that are sure are those that were trained: copies, shards, steps; nothing is left on disk."""
    monkeypatch.setattr(sizing, "LONG", 1e-4)  # no time is looked at
    before = sorted(tiny.place.iterdir())
    told = here(*words(tiny.command), "--plan", "--json", folder=tiny.place)
    assert sorted(tiny.place.iterdir()) == before
    rounds = rounds_in(tiny.run)
    if not rounds:
        assert (told.returncode, told.stderr) == (
            2,
            f"onsphere: --plan: is not allowed with onsphere {tiny.command}: it trains nothing\n",
        )
        return
    assert told.returncode == 0, told.stderr
    plan = last_json(told)
    sure = [(one["copies"], one["shards"], one["steps"]) for one in plan["stages"] if one["sure"]]
    assert Counter(sure) <= Counter(rounds), "a round that is sure was not trained so"
    assert len(rounds) <= len(plan["stages"]), "a round was trained that no stage stands for"
    assert plan["engine"] == {name: last_json(tiny.done)["engine"][name] for name in plan["engine"]}


def rounds_in(run):
    """Copies, shards and steps of every round of a run."""
    found = {}
    for folder in Run(run).shard_folders():
        shard = json.loads((folder / "shard.json").read_text("utf-8"))
        found.setdefault(folder.name.rpartition("-")[0], []).append((len(shard["copies"]), steps_of(folder)))
    return [(sum(copies for copies, _ in own), len(own), own[0][1]) for own in found.values()]


def steps_of(folder):
    return json.loads((folder / "done.json").read_text("utf-8"))["steps"]


def test_it_is_listed_with_a_summary(tiny):
    (row,) = last_json(here("runs", ".", "--json", folder=tiny.place))["runs"]
    assert (row["run"], row["command"], row["status"]) == ("run", tiny.command, "done")
    assert row["summary"] and "\n" not in row["summary"]


def test_it_finds_what_it_always_found(tiny):
    golden = golden_of(tiny.command)
    assert differences(golden["result"], result_in(tiny.run)) == []
    assert set(golden["files"]) <= set(files_in(tiny.run))
    assert golden["charts"] <= charts_on(tiny.run / "report.html")


def test_its_result_is_equal_to_its_pickled_copy(tiny):
    result = entry_of(tiny.command).experiment.result.load(Run.open(tiny.run))
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result and copy is not result
    assert dataclasses.replace(copy, seconds=copy.seconds + 1) != result != 1


def test_a_result_that_was_sealed_again_without_its_parts_is_refused_in_a_sentence(tiny, tmp_path):
    folder = shutil.copytree(tiny.run, tmp_path / "run")
    whole, refused = json.loads((folder / "result.json").read_text(encoding="utf-8")), []
    for name, value in whole.items():
        kind = type(value)
        Run(folder).write_result(whole | {name: kind() if kind in (list, dict) else {"no": kind.__name__}})
        with undrawn():
            done = here("report", "run", folder=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) in ((0, 0), (2, 1)), (name, done.stderr)
        refused += [name] if done.returncode else []
    assert {"command", "spec"} < set(refused) and len(refused) > 3


def test_stopped_in_every_stage_and_resumed_it_finds_the_same(tiny, tmp_path):
    interrupter, sittings = Interrupter(), 0
    arguments = [*words(tiny.command), "--out", "cut"]
    with hearing(interrupter), undrawn():
        while True:
            interrupter.sit_down()
            sittings += 1
            assert sittings < MOST_SITTINGS
            done = here(*arguments, folder=tmp_path)
            if done.returncode == 0:
                break
            assert done.returncode == 130, done.stderr
            assert done.stderr.splitlines()[-1] == "interrupted; continue with: onsphere resume cut"
            assert done.stdout == "" and not (tmp_path / "cut" / "result.json").exists()
            arguments = ["resume", "cut"]
    assert sittings > 1
    assert {title for title, _ in interrupter.stopped} >= set(tiny.titles)
    assert result_in(tmp_path / "cut") == result_in(tiny.run)
    assert files_in(tmp_path / "cut") == files_in(tiny.run)


def test_its_page_is_written_again_as_it_was(tiny):
    page = tiny.run / "report.html"
    before, files = page.read_text(encoding="utf-8"), files_in(tiny.run)
    page.unlink()
    with undrawn():
        done = here("report", "run", folder=tiny.place)
    assert (done.returncode, done.stdout) == (0, "run/report.html\n"), done.stderr
    assert page.read_text(encoding="utf-8") == before
    assert files_in(tiny.run) == files


@needs_browser
def test_its_page_opens_without_a_word_and_draws_every_chart(tiny, tmp_path):
    page = tmp_path / "report.html"  # the browser keeps files of its own beside the page
    page.write_bytes((tiny.run / "report.html").read_bytes())
    document, console = open_page(page)
    assert console == [] and not attribute(document, "data-errors")
    assert attribute(document, "data-charts") == str(charts_on(page)) != "0"


def test_the_command_and_the_file_on_its_page_ask_for_the_same(tiny, tmp_path, monkeypatch):
    asked = []

    def create(folder, command, spec):
        asked.append((command, spec))
        raise InputError("that is all")

    monkeypatch.setattr(Run, "create", create)
    spec = last_json(tiny.done)["spec"]
    *_, line = (
        text for text in code_on(tiny.run / "report.html") if text.startswith("onsphere ")
    )  # after what is next
    (file,) = (text for text in code_on(tiny.run / "report.html") if not text.startswith("onsphere "))
    (tmp_path / "spec.toml").write_text(file, encoding="utf-8")
    for arguments in (shlex.split(line)[1:], [*tiny.command.split(), "--config", "spec.toml"]):
        done = here(*arguments, folder=tmp_path)
        assert done.stderr.splitlines()[-1] == "onsphere: that is all"
        assert asked.pop() == (tiny.command, spec)


@pytest.mark.parametrize("command", COMMANDS, ids=slug)
def test_a_wrong_field_is_one_line_status_2_and_no_folder(command, tmp_path):
    given, named = WRONG[command]
    place = tmp_path / "empty"
    place.mkdir()
    (tmp_path / "wrong.toml").write_text("bananas = 3\n")
    for options, said in (
        (given.split(), named),
        (["--seed=-1"], "--seed"),
        (["--bananas", "3"], "bananas"),
        (["--config", str(tmp_path / "wrong.toml")], "bananas"),
    ):
        done = here(*command.split(), *options, folder=place)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not list(place.iterdir())


def test_every_experiment_has_a_tiny_run_and_golden_rows():
    assert set(OPTIONS) == set(WRONG) == set(COMMANDS)
    assert {path.stem for path in GOLDEN.glob("*.json")} == {slug(command) for command in COMMANDS}
