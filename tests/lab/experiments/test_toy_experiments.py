"""The toys as experiments: results against their laws, folders, resuming, pages."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from command import flags
from onsphere.lab import Interrupted, Run, toy_periods, toy_regimes, toy_thermo
from onsphere.lab.cli import run_command

SMALL = {
    "regimes": (toy_regimes, {"elrs": [0.1, 0.2], "steps": 2000, "seeds": 2}),
    "periods": (toy_periods, {"steps": 2500}),
    "thermo": (toy_thermo, {"weight_decays": [0.02, 0.04], "elrs": [0.04], "copies": 64, "points": 512}),
}


def said(arguments, capfd):
    assert run_command(arguments) == 0
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def test_regimes_of_the_command_line(capfd, undrawn):
    found = said(["toy", "regimes", "--alphas", "1,2,4", "--elrs", "0.1,0.144,0.15,0.2", "--json"], capfd)
    rows = {row["elr"]: row for row in found["rows"]}
    assert rows.keys() == {0.1, 0.144, 0.15, 0.2}
    assert rows[0.1]["loss"] < 1e-30 and rows[0.1]["predicted_loss"] == 0
    for elr, loss in ((0.144, 0.02778), (0.15, 0.16667), (0.2, 1.0)):
        assert rows[elr]["loss"] == pytest.approx(loss, rel=1e-3)
        assert rows[elr]["predicted_loss"] == pytest.approx(loss, rel=1e-3)
        assert rows[elr]["loss_at_random"] == 3.5
    assert Path(found["report"]).is_file()


def test_periods_of_the_command_line(capfd, undrawn):
    found = said(["toy", "periods", "--lr", "0.1", "--weight-decay", "0.01", "--floor", "1e-16", "--json"], capfd)
    assert found["period"] == pytest.approx(found["predicted_period"], rel=0.1)
    assert found["predicted_period"] == pytest.approx(271.4, abs=0.1)
    assert len(found["periods"]) >= 5 and all(abs(p / found["period"] - 1) < 0.1 for p in found["periods"])


def test_without_a_floor_the_norm_vanishes(capfd, undrawn):
    found = said(["toy", "periods", "--floor", "0", "--json"], capfd)
    assert found["period"] is None and found["periods"] == []
    run = said(["runs", "--json"], capfd)["runs"][0]
    assert run["command"] == "toy periods" and "the norm fell" in run["summary"]


def test_thermo_follows_the_gas_law(capfd, undrawn):
    found = said(["toy", "thermo", "--json"], capfd)
    assert {row["protocol"] for row in found["rows"]} == {"fixed_elr", "fixed_lr", "sphere"}
    for row in found["rows"]:
        assert row["energy"] == pytest.approx(row["predicted_energy"], rel=0.05)
        assert row["radius"] == pytest.approx(row["predicted_radius"], rel=0.03)
        assert row["pressure"] == pytest.approx(row["predicted_pressure"], rel=0.03)
    for test in found["maxwell"]:
        assert test["slope"] == pytest.approx(test["expected"], rel=0.03)


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_toy_resumes_to_the_same_bits(name, undrawn):
    call, fields = SMALL[name]
    with pytest.raises(Interrupted):
        call(out="stopped", stop=lambda: True, **fields)
    assert Run(Path("stopped")).status == "interrupted"
    assert run_command(["resume", "stopped"]) == 0
    whole = call(out="whole", **fields).to_dict()
    resumed = json.loads(Path("stopped/result.json").read_text())
    assert Run(Path("stopped")).done
    for key in whole.keys() - {"run", "report", "seconds"}:
        assert json.loads(json.dumps(whole[key])) == resumed[key], key


@pytest.mark.parametrize("name", SMALL)
def test_config_seed_and_page_command_repeat_a_run(name, capfd, undrawn):
    import shlex

    call, fields = SMALL[name]
    first = call(out="first", seed=3, **fields).to_dict()
    page = Path(first["report"]).read_text(encoding="utf-8")
    command = shlex.split(re.search(rf"onsphere toy {name}[^<\n]*", page)[0])
    again = said([*command[1:], "--out", "again", "--json"], capfd)
    assert again["spec"] == json.loads(json.dumps(first["spec"]))
    Path("spec.toml").write_text(f"[toy.{name}]\nseed = 3\n[regimes]\nsteps = 9\n")
    third = said(["toy", name, "--config", "spec.toml", *flags(**fields), "--json"], capfd)
    assert third["spec"] == again["spec"]
    rows = "rows" if name != "periods" else "periods"
    assert third[rows] == again[rows] == json.loads(json.dumps(first[rows]))
    other = call(out="other", seed=4, **fields).to_dict()
    assert other[rows] != first[rows] or name == "periods"


@pytest.mark.parametrize("name", SMALL)
def test_help_is_quick_to_load(name):
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "onsphere.lab.cli", "toy", name, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--seed" in shown.stdout and "default" in shown.stdout
    for module in ("torch", "numpy", "matplotlib", "numba"):
        assert f" {module}\n" not in shown.stderr, f"--help imports {module}"
