"""What the toys find and keep: rows, tables on disk, outcomes, words, interruption in the middle."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from onsphere.dynamics.toys import simulate_pairs
from onsphere.lab import Interrupted, Run, toy_periods, toy_regimes, toy_thermo
from onsphere.lab.cli import run_command
from onsphere.lab.experiments.toy_periods.result import ToyPeriodsResult
from onsphere.lab.experiments.toy_periods.result import answer as periods_answer
from onsphere.lab.experiments.toy_regimes.result import answer as regimes_answer
from onsphere.lab.experiments.toy_thermo.result import answer as thermo_answer
from onsphere.lab.progress import Progress
from onsphere.lab.store.files import read_table

pytestmark = pytest.mark.usefixtures("undrawn_module")


class Told(Progress):
    """Adds up what was announced and what was done."""

    def __init__(self):
        self.announced, self.done, self.run = 0, 0, None

    def folder(self, folder):
        self.run = folder

    def begin(self, title, copy_steps):
        self.announced += copy_steps

    def advance(self, copy_steps):
        self.done += copy_steps


def test_rows_are_means_and_ranges_over_seeds_that_start_alike():
    result = toy_regimes(alphas=[1, 3], elrs=[0.2, 0.5], steps=400, seeds=4, out="run")
    starts = np.random.default_rng(0).standard_normal((4, 2, 2))
    for row in result.rows:
        loss = simulate_pairs([1, 3], [row.elr] * 4, 400, start=starts).loss
        assert row.loss == pytest.approx(loss.mean(), rel=1e-12)
        assert (row.loss_low, row.loss_high) == (loss.min(), loss.max())
        assert row.relative_elr == pytest.approx(4 * row.elr)
        assert sum(1 / elr for elr in row.individual_elrs) == pytest.approx(1 / row.elr, rel=1e-9)
    assert [row.converged for row in result.rows] == [True, False]
    table = read_table(Path("run/course.parquet"))
    assert set(table) == {"elr", "seed", "step", "loss", "elr_1", "elr_2"}
    # exact but for rounding: the norm is 1 at every step
    assert np.allclose(1 / table["elr_1"] + 1 / table["elr_2"], 1 / table["elr"], rtol=1e-9)
    here = (table["elr"] == 0.5) & (table["seed"] == 2)
    whole = simulate_pairs([1, 3], [0.5] * 2, 400, start=starts[[2, 2]], record_every=1)
    at = np.searchsorted(whole.recorded_steps, table["step"][here])
    assert table["step"][here][0] == 0 and table["step"][here][-1] > 380
    assert np.allclose(whole.recorded_loss[0, at], table["loss"][here], rtol=1e-9)


def test_pieces_do_not_change_a_bit(monkeypatch):
    fields = {"grid": 7, "seeds": 3, "steps": 300}
    whole = toy_regimes(**fields, out="whole")
    monkeypatch.setattr("onsphere.lab.experiments.toy_regimes.run._PIECE", 1)
    told = Told()
    pieces = toy_regimes(**fields, progress=told, out="pieces")
    assert pieces.rows == whole.rows
    tables = [read_table(result.run / "course.parquet") for result in (pieces, whole)]
    assert all((tables[0][name] == column).all() for name, column in tables[1].items())
    assert told.done == told.announced == 7 * 3 * 300


def test_many_seeds_keep_the_course_of_the_first():
    few, many = (toy_regimes(elrs=[0.3], steps=200, seeds=n, out=f"run{n}") for n in (10, 12))
    tables = [read_table(result.run / "course.parquet") for result in (few, many)]
    assert max(tables[1]["seed"]) == 9
    assert all(np.allclose(tables[0][name], column, rtol=1e-9) for name, column in tables[1].items())


@pytest.mark.parametrize("call", [toy_regimes, toy_periods, toy_thermo])
def test_progress_reaches_what_was_announced(call):
    told = Told()
    small = {toy_regimes: {"steps": 50}, toy_periods: {"steps": 50}, toy_thermo: {"points": 16, "protocols": "sphere"}}
    result = call(progress=told, **small[call])
    assert told.done == told.announced > 0
    assert told.run == result.run and result.run.parts[0] == "runs"
    assert result.run.name.startswith(result.command.replace(" ", "-"))
    assert type(result).load(Run(result.run)).to_dict() == result.to_dict()
    assert str(result.report) in repr(result)


@pytest.mark.parametrize("call", [toy_regimes, toy_thermo])
def test_stop_is_asked_between_pieces(call, monkeypatch):
    monkeypatch.setattr("onsphere.lab.experiments.toy_regimes.run._PIECE", 1)
    asked = []

    def stop():
        asked.append(True)
        return len(asked) == 3

    small = {toy_regimes: {"steps": 50}, toy_thermo: {"points": 16, "protocols": "sphere"}}
    told = Told()
    with pytest.raises(Interrupted):
        call(out="run", stop=stop, progress=told, **small[call])
    assert 0 < told.done < told.announced and not Path("run/result.json").exists()


def test_ctrl_c_says_how_to_go_on(tmp_path):
    line = "toy regimes --backend numpy --grid 1000 --seeds 50 --steps 20000 --out run"
    process = subprocess.Popen(
        [sys.executable, "-m", "onsphere.lab.cli", *line.split()], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / ".lock").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "onsphere resume run" in error and "Traceback" not in error
    assert Run(tmp_path / "run").status == "interrupted"


def test_jumps_of_a_period():
    result = toy_periods()
    assert result.outcome == "periods" and result.threshold == 1
    assert [b.step - a.step for a, b in zip(result.jumps, result.jumps[1:], strict=False)] == result.periods
    for jump in result.jumps:
        assert jump.elr > result.threshold > jump.trough_elr
        assert jump.drop == pytest.approx(jump.elr / jump.trough_elr) and jump.drop > 1.25
    assert all(jump.step > result.burn_in for jump in result.jumps)
    assert len(result.law) == 15
    for row in result.law:
        assert row.predicted_period == pytest.approx((2 * row.strength) ** 0.5 / (row.lr * row.weight_decay), rel=1e-9)
        if row.strength < 0.2:
            assert row.period == pytest.approx(row.predicted_period, rel=0.1)


def test_outcomes_of_the_periods():
    gone = toy_periods(floor=0, out="gone")
    assert gone.outcome == "instability" and gone.period is gone.predicted_period is None and gone.periods == []
    start, end = gone.log_radius
    # from the zero on, exactly the decay of the weights
    assert end - start == pytest.approx(gone.steps * np.log(1 - 1e-3), rel=1e-2) and end < -20
    table = read_table(Path("gone/trace.parquet"))
    assert (table["loss"][table["step"] >= gone.vanished] == 0).all()
    assert (table["loss"][table["step"] < gone.vanished] > 0).all()
    assert "no periods" in periods_answer(gone)[0]
    short = toy_periods(steps=100, out="short")
    assert short.outcome == "undecided" and short.period is None and short.jumps == []
    assert "No period was seen" in periods_answer(short)[0]
    without_law = toy_periods(floor=0, lr=1, weight_decay=0.1, out="without")
    assert without_law.outcome == "periods" and without_law.predicted_period is None
    assert "no law" in periods_answer(without_law)[0]
    strong = toy_periods(lr=1, weight_decay=0.1, out="strong")
    assert "strong" in periods_answer(strong)[0] and strong.period < strong.predicted_period


def test_several_pairs_share_the_period():
    one, three = toy_periods(out="one"), toy_periods(alphas=[1, 2, 4], out="three")
    assert three.threshold == pytest.approx(1 / 7)
    assert three.period == pytest.approx(one.period, abs=2)


def test_answers_count_what_converged():
    words = regimes_answer(toy_regimes(elrs=[0.05, 0.1, 0.3], steps=2000, out="a"))
    assert "all 2 ELRs below it" in words[0] and "none of one ELR above it" in words[0]
    assert "No ELR above the threshold" in regimes_answer(toy_regimes(elrs=[0.05], steps=2000, out="b"))[1]
    slow = regimes_answer(toy_regimes(elrs=[0.001, 0.1], steps=400, out="c"))
    assert "1 of 2 ELRs below it" in slow[0]
    assert "within" in regimes_answer(toy_regimes(elrs=[5.0], steps=2000, out="d"))[1]


def test_thermo_rows_hold_their_own_laws():
    result = toy_thermo(
        elrs=[0.02, 0.05], radii=[1, 2], protocols="fixed_elr,sphere", points=512, dimension=4, sigma=0.5
    )
    assert [row.protocol for row in result.rows] == ["fixed_elr"] * 6 + ["sphere"] * 4
    for row in result.rows:
        assert row.temperature == pytest.approx(row.elr * 0.25 / 2)
        force = row.weight_decay if row.protocol == "fixed_elr" else row.predicted_pressure
        assert row.predicted_radius**2 == pytest.approx(row.temperature * 3 / force)
        assert row.gas_law == pytest.approx(row.pressure * row.radius**2 / (3 * row.temperature) - 1)
        assert abs(row.gas_law) < 0.1
    assert [row.expected for row in result.maxwell] == [-1.5, 3.0]
    assert "ideal gas" in thermo_answer(result)[0]


def test_settings_that_tell_no_slope_give_none():
    result = toy_thermo(elrs=[0.05], radii=[1], protocols="sphere", points=64)
    assert result.maxwell == [] and len(result.rows) == 1
    assert "Maxwell" not in thermo_answer(result)[0]


def test_frames_need_pandas(monkeypatch):
    result = toy_periods(steps=50)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install pandas"):
        result.to_frame()


def test_a_moved_run_is_where_it_lies(capfd):
    toy_periods(steps=50, out="here")
    Path("here").rename("there")
    loaded = ToyPeriodsResult.load(Run(Path("there")))
    assert (loaded.run, loaded.report) == (Path("there"), Path("there/report.html"))
    assert run_command(["resume", "there", "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["run"] == "there"


@pytest.mark.parametrize("name", ["regimes", "periods", "thermo"])
def test_what_the_terminal_says(name, capfd):
    small = {"regimes": ["--steps", "100"], "periods": [], "thermo": ["--points", "64", "--protocols", "sphere"]}
    assert run_command(["toy", name, *small[name], "--out", "run"]) == 0
    out, error = capfd.readouterr()
    assert "page: run/report.html" in out and "…" not in out
    assert max(map(len, out.splitlines()[:5])) <= 80
    assert "training steps" in error
