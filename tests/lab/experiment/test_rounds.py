"""A run has a page from its first finished round on, which says what is still to come and gives way to the result's."""

import pytest

from onsphere.lab import Interrupted, Run, map_regimes, map_spectrum, resume_regimes
from onsphere.lab.experiment import skeleton
from onsphere.lab.experiment.rounds import Rounds
from onsphere.lab.population import Copy, Stage
from onsphere.lab.progress import Progress
from pictures import undrawn
from store_runs import FIELDS

SHORT = {**FIELDS, "elrs": 3, "refine": 2, "steps": 40, "evaluations": 1}


class Notes(Progress):
    """Keeps the notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_an_unended_map_shows_what_it_knows(tmp_path):
    folder, told = tmp_path / "run", Notes()
    page = folder / "report.html"
    with pytest.raises(Interrupted):
        map_regimes(out=folder, progress=told, stop=page.exists, **SHORT)
    text = page.read_text("utf-8")
    assert "This run has not ended: 1 of 3 rounds of training is done; still to come: round 1 (about 4 copies)" in text
    assert "overview-chart" in text, "the experiment's own page, with its charts"
    assert not (folder / "figures").exists() and not (folder / "result.json").exists()
    assert not any("could not be written" in note for note in told.notes), told.notes
    with undrawn():
        resume_regimes(Run.open(folder))
    assert "has not ended" not in page.read_text("utf-8")


def test_an_experiment_that_says_nothing_has_a_page_of_its_rounds(tmp_path):
    folder, seen = tmp_path / "run", []

    class Reads(Progress):
        def begin(self, title, copy_steps):
            if (folder / "report.html").exists():
                seen.append((folder / "report.html").read_text("utf-8"))

    fields = {n: FIELDS[n] for n in ("train", "label_noise", "workers", "mode", "compiled", "chunk")}
    more = {"widths": (4,), "elr": (2e-3, 8e-3), "seeds": 1, "steps": 16, "batch_size": 10, "evaluations": 1}
    with undrawn():
        map_spectrum(out=folder, progress=Reads(), **fields, **more, window=2, gradients=2, points=3)
    assert "1 of 1 round of training is done" in seen[0] and "sharpness and barriers, measured after" in seen[0]
    assert "onsphere resume" in seen[0] and "onsphere landscape spectrum --train 60" in seen[0]
    assert "has not ended" not in (folder / "report.html").read_text("utf-8")


def test_a_page_that_fails_stops_no_run(tmp_path, monkeypatch):
    drawn, told = skeleton.write_page, Notes()

    def broken(run, result, report, answer, runs=None, so_far=""):
        if so_far:
            raise ValueError("no ink")
        return drawn(run, result, report, answer, runs)

    monkeypatch.setattr(skeleton, "write_page", broken)
    with undrawn():
        result = map_regimes(out=tmp_path / "run", progress=told, **SHORT)
    assert result.report.is_file()
    assert "the page so far could not be written (ValueError: no ink)" in told.notes


def test_what_is_still_to_come_is_said_in_a_sentence():
    stages = [Stage("grid", None, [Copy(0, 1e-3)] * 6), Stage("round 1", None, [Copy(0, 1e-3)] * 4, sure=False)]
    rounds = Rounds(stages=stages, beside="paths")
    said = [rounds.still_to_come()]
    for stage in stages:
        rounds.ended(stage.title, len(stage.copies), 10)
        said.append(rounds.still_to_come())
    assert said[1].endswith("1 of 2 rounds of training is done; still to come: round 1 (about 4 copies), paths.")
    assert said[2].endswith("2 of 2 rounds of training are done; still to come: paths.")
    assert Rounds().still_to_come().endswith("0 of 0 rounds of training are done; the result is still to come.")
