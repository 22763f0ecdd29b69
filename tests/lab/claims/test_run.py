"""Claims are run, gone on with, kept and shown."""

import json
from dataclasses import replace

import pytest

from command import here, last_json
from onsphere.lab.claims import CLAIMS, read_record, run_claims
from onsphere.lab.claims.document import markdown
from onsphere.lab.claims.page import claims_page
from onsphere.lab.claims.record import told
from onsphere.lab.execution import Interrupted
from onsphere.lab.options import InputError

PERIOD = "toys.period"
NAMES = [PERIOD, "laws.norm"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """One claim of an experiment and one of a library study, two seeds."""
    folder = tmp_path_factory.mktemp("claims") / "own"
    return folder, run_claims(NAMES, seeds=2, workers=1, out=folder)


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("small-2/**/*.json")}


def test_what_was_seen_has_verdict_numbers_and_interval(ended):
    folder, found = ended
    assert {(one.id, one.data) for one in found} == {
        ("laws.norm", "drawn gradients"),
        (PERIOD, "floor 1e-16"),
    }
    for one in found:
        assert one.verdict == "holds" and len(one.numbers) == 2 and one.low <= one.middle <= one.high
    period = next(one for one in found if one.id == PERIOD)
    assert len(period.runs) == 2 and all((folder / run / "result.json").exists() for run in period.runs)
    assert period.commands[0].startswith("onsphere toy periods")
    assert read_record(folder) == found


def test_a_second_call_runs_nothing_again_and_keeps_what_others_saw(ended):
    folder, _ = ended
    before = stamps(folder)
    again = run_claims(["laws.norm", "laws.angle"], seeds=2, workers=1, out=folder)
    assert [one.id for one in again] == ["laws.norm", "laws.angle"]
    assert before and stamps(folder) == before
    kept = {one.id for one in read_record(folder)}
    assert kept == {"laws.norm", "laws.angle", PERIOD}


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_call_goes_on_with_what_it_had(name, tmp_path):
    asked = []

    def stop():
        asked.append(None)
        return len(asked) > 2

    with pytest.raises(Interrupted):
        run_claims([name], seeds=3, workers=1, out=tmp_path / "own", stop=stop)
    ended = set((tmp_path / "own").glob("small-3/**/*.json"))
    assert ended
    before = {path: path.stat().st_mtime_ns for path in ended}
    found = run_claims([name], seeds=3, workers=1, out=tmp_path / "own")
    assert all(len(one.numbers) == 3 for one in found)
    assert {path: path.stat().st_mtime_ns for path in before if path.name != "run.json"} == {
        path: stamp for path, stamp in before.items() if path.name != "run.json"
    }


def test_a_folder_with_runs_of_other_fields_is_not_mixed_with_them(ended, tmp_path):
    folder, found = ended
    path = folder / next(one for one in found if one.id == "laws.norm").runs[0] / "seed-0.json"
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(json.dumps({"fields": {"lr": 1}, "values": {}}), encoding="utf-8")
        (one,) = run_claims(["laws.norm"], seeds=2, workers=1, out=folder)
        assert one.verdict == "not run" and "another version" in one.reason
    finally:
        path.write_text(text, encoding="utf-8")
        run_claims(["laws.norm"], seeds=2, workers=1, out=folder)


def test_the_page_shows_statement_figure_numbers_verdict_and_command(ended):
    folder, found = ended
    text = (folder / "claims.html").read_text(encoding="utf-8")
    period = next(one for one in found if one.id == PERIOD)
    assert period.says in text and period.seen in text and period.rule in text
    assert f"onsphere claims run {PERIOD}" in text and "onsphere toy periods" in text
    assert f'href="{period.runs[0]}/report.html"' in text and "data:image/png;base64," in text
    assert (folder / period.runs[0] / "report.html").exists()


def test_what_does_not_hold_is_said_first(ended):
    folder, found = ended
    worse = [replace(found[0], verdict="does not hold"), *found[1:]]
    page = claims_page(folder, worse)
    assert f"Not as said: {worse[0].id}" in page.answer[1]
    assert "1 do not hold" in told(worse)
    assert "**does not hold**" in markdown(worse) and "Not as said:" in markdown(worse)
    assert markdown(found).count("| holds |") == len(found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("regimes.four",), "there is no claim 'regimes.four'"),
        ((PERIOD, "--seeds", "0"), "--seeds: 0 is not allowed"),
        ((PERIOD, "--scale", "large"), "--scale"),
        (
            (PERIOD, "--scale", "paper"),
            "toys.period can be asked at the other scale alone",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, said, tmp_path):
    process = here("claims", "run", *arguments, "--out", "own", folder=tmp_path)
    assert process.returncode == 2
    assert said in process.stderr and len(process.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_lists_runs_and_prints_json(ended):
    folder, _ = ended
    process = here("claims", "run", PERIOD, "--seeds", "2", "--workers", "1", "--out", folder, "--json", folder=folder)
    assert process.returncode == 0, process.stderr
    result = last_json(process)
    assert result["command"] == "claims run" and result["counts"]["holds"] == 1
    assert [row["data"] for row in result["outcomes"]] == ["floor 1e-16"]

    listed = here("claims", "--out", folder, folder=folder)
    assert listed.returncode == 0
    assert all(f"  {claim.id}: {claim.says} [{claim.source}]" in listed.stdout for claim in CLAIMS)
    assert "floor 1e-16: holds; " in listed.stdout and "(small scale, 2 seeds)" in listed.stdout

    page = here("claims", "--out", folder, "--markdown", folder=folder).stdout
    assert page.startswith("# The papers, claim by claim") and f"| `{PERIOD}` |" in page

    rows = last_json(here("claims", "--out", folder, "--json", folder=folder))["claims"]
    assert len(rows) == len(CLAIMS)
    assert next(row for row in rows if row["id"] == PERIOD)["seen"][0]["verdict"] == "holds"


def test_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "claims.json").write_text('{"outcomes": [{"id": 1}]}', encoding="utf-8")
    process = here("claims", "--out", ".", folder=tmp_path)
    assert process.returncode == 2 and "claims.json is damaged" in process.stderr
    with pytest.raises(InputError):
        run_claims([PERIOD], out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["claims.json"]
