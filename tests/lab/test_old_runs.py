"""Runs of an earlier version, kept in archives: the stopped ones go on to what it found, the ended ones are shown.

Each was stopped in the middle of a measurement that is made once and kept, so what it kept in its folder is read.
"""

import tarfile

import pytest

from command import here, last_json
from experiment_specs import COMMANDS, GOLDEN, charts_on, differences, found, golden_of, result_in, slug
from pictures import undrawn

KEPT = [command for command in COMMANDS if (GOLDEN / f"{slug(command)}.tar.xz").exists()]


@pytest.fixture
def unpacked(request, tmp_path):
    """The folder with the runs of an archive."""
    with tarfile.open(GOLDEN / f"{slug(request.param)}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return request.param, tmp_path


@pytest.mark.parametrize("unpacked", KEPT, ids=slug, indirect=True)
def test_a_stopped_run_goes_on_to_the_same(unpacked):
    command, place = unpacked
    assert not (place / "stopped" / "result.json").exists()
    with undrawn():
        done = here("resume", "stopped", "--json", folder=place)
    assert done.returncode == 0, done.stderr
    assert differences(golden_of(command)["result"], found(last_json(done))) == []


@pytest.mark.parametrize("unpacked", ["landscape zones"], ids=slug, indirect=True)
def test_an_ended_run_is_shown_and_reported(unpacked):
    command, place = unpacked
    before = result_in(place / "ended")
    with undrawn():
        done = here("report", "ended", folder=place)
    assert (done.returncode, done.stdout) == (0, "ended/report.html\n"), done.stderr
    assert charts_on(place / "ended" / "report.html") >= golden_of(command)["charts"]
    done = here("resume", "ended", "--json", folder=place)
    now, golden = found(last_json(done)), golden_of(command)["result"]
    assert differences(golden, now) == []
    new = {"label_noise_kind": "other", "executor": None}  # fields of the spec that there were not
    assert {name: now["spec"].pop(name) for name in new} == new
    assert now == before
    assert result_in(place / "ended") == before


def test_the_archives_are_there():
    assert "landscape zones" in KEPT
