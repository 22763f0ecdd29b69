"""The fields of the toys: what is refused, what is chosen, what a command and a file say."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from onsphere.lab import InputError, toy_periods, toy_regimes, toy_thermo
from onsphere.lab.cli import app, run_command
from onsphere.lab.config import to_command, to_toml, with_config
from onsphere.lab.experiments.toy_periods.spec import ToyPeriodsSpec
from onsphere.lab.experiments.toy_regimes.spec import ToyRegimesSpec
from onsphere.lab.experiments.toy_thermo.spec import ToyThermoSpec
from onsphere.lab.registry import ENTRIES

COMMANDS = [entry.command for entry in ENTRIES]
BAD = {
    "negative coefficient": ("regimes --alphas 1,-2", "--alphas"),
    "coefficient that is no number": ("regimes --alphas 1,x", "--alphas"),
    "infinite coefficient": ("regimes --alphas inf", "--alphas"),
    "no ELRs": ("regimes --elrs ,", "--elrs"),
    "ELRs and a grid": ("regimes --elrs 0.1 --elr-max 1", "--elr-max"),
    "reversed grid": ("regimes --elr-min 1 --elr-max 0.1", "--elr-min"),
    "low end above the default high end": ("regimes --elr-min 100", "--elr-min"),
    "grid of one": ("regimes --grid 1", "--grid"),
    "no seeds": ("regimes --seeds 0", "--seeds"),
    "no steps": ("regimes --steps 0", "--steps"),
    "negative seed": ("regimes --seed -1", "--seed"),
    "unknown backend": ("regimes --backend jax", "--backend"),
    "a device": ("regimes --device cuda", "--device"),
    "workers": ("periods --workers 2", "--workers"),
    "zero learning rate": ("periods --lr 0", "--lr"),
    "no weight decay": ("periods --weight-decay 0", "--weight-decay"),
    "decay of exactly 1 / lr": ("periods --lr 0.5 --weight-decay 2", "--weight-decay"),
    "negative floor": ("periods --floor -1e-9", "--floor"),
    "floor that squares to nothing": ("periods --floor 1e-200", "--floor"),
    "endless default": ("periods --lr 1e-4 --weight-decay 1e-3", "--steps"),
    "no noise": ("thermo --sigma 0", "--sigma"),
    "unknown protocol": ("thermo --protocols fixed", "--protocols"),
    "step that turns around": ("thermo --elrs 0.9", "--elrs"),
    "decay that turns around": ("thermo --lrs 1 --weight-decays 0.5", "--lrs"),
    "ELR that never settles": ("thermo --elrs 1e-4", "--elrs"),
    "one copy": ("thermo --copies 1", "--copies"),
    "few points": ("thermo --points 5", "--points"),
    "negative norm": ("thermo --radii -1", "--radii"),
    "output is a file": ("periods --out a_file", "--out"),
    "missing config": ("thermo --config none.toml", "none.toml"),
    "table that is none": ("thermo --config flat.toml", "toy.thermo"),
    "unknown key in the table": ("thermo --config unknown.toml", "bananas"),
}


@pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_status_2(line, said, capfd):
    Path("a_file").write_text("x")
    Path("flat.toml").write_text("toy.thermo = 3\n")
    Path("unknown.toml").write_text("[toy.thermo]\nbananas = 3\n")
    assert run_command(["toy", *shlex.split(line)]) == 2
    out, error = capfd.readouterr()
    assert out == "" and len(error.strip().splitlines()) == 1, error
    assert said in error
    assert not Path("runs").exists(), "a run folder was made for a run that cannot start"


def test_numba_is_asked_for_where_it_is_not(monkeypatch):
    monkeypatch.setattr("onsphere.lab.toy_options.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"backend.*numba is not installed"):
        toy_regimes(backend="numba")


@pytest.mark.parametrize("call", [toy_regimes, toy_periods, toy_thermo])
def test_python_says_fields_without_dashes(call):
    with pytest.raises(InputError, match=r"^seed: -1 is not allowed"):
        call(seed=-1)
    assert not Path("runs").exists()


def test_the_default_grid_spans_the_threshold():
    grid = ToyRegimesSpec(alphas=(3, 5)).chosen()
    assert len(grid) == 49 and grid == sorted(grid)
    assert grid[0] * 8 == pytest.approx(0.2) and grid[-1] * 8 == pytest.approx(50)
    assert ToyRegimesSpec(elrs=(0.2, 0.1, 0.2)).chosen() == [0.1, 0.2]
    assert ToyRegimesSpec(elr_min=0.01, elr_max=1, grid=3).chosen() == pytest.approx([0.01, 0.1, 1])


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(2e-3, 0.2), decay=st.floats(1e-3, 0.5), copies=st.integers(2, 512))
def test_lengths_wait_for_the_slowest_and_keep_points_apart(rate, decay, copies):
    spec = ToyThermoSpec(elrs=(0.1,), lrs=(0.1,), weight_decays=(0.1,), copies=256)
    spec = spec.model_copy(update={"weight_decays": (decay,), "copies": copies, "points": 1000})
    for protocol in ("fixed_elr", "fixed_lr", "sphere"):
        wait, steps = spec.lengths(protocol, rate)
        relaxation = (1 / (rate * decay)) ** 0.5 if protocol == "fixed_lr" else 1 / rate
        norm = {"fixed_elr": 1 / (2 * rate**2), "fixed_lr": 1 / (4 * rate * decay), "sphere": 0}[protocol]
        assert wait >= 9.99 * relaxation and wait >= 4.99 * norm
        assert steps >= 3.99 * relaxation * (1000 / copies)


def test_one_file_serves_several_commands():
    Path("all.toml").write_text(
        "seed = 1\n[regimes]\nelrs = 3\n[toy]\nseed = 2\nsteps = 100\n"
        "[toy.regimes]\nelrs = [0.1, 0.2]\nsteps = 50\n[toy.periods]\nlr = 0.5\n"
    )
    tail = ["--config", "all.toml"]
    assert with_config(["toy", "regimes", *tail], COMMANDS) == [
        *("toy", "regimes", "--seed=2", "--steps=50", "--elrs=0.1,0.2"),
        *tail,
    ]
    assert with_config(["toy", "periods", *tail], COMMANDS) == [
        *("toy", "periods", "--seed=2", "--steps=100", "--lr=0.5"),
        *tail,
    ]
    assert with_config(["regimes", *tail], COMMANDS) == [
        "regimes",
        "--seed=1",
        "--elrs=3",
        *tail,
    ]
    with pytest.raises(InputError, match="is a dict"):  # without the names of the commands every table is a field
        with_config(["toy", "regimes", *tail])


SPECS = [
    ("toy regimes", ToyRegimesSpec(alphas=(1, 2.5), elrs=(1e-3, 0.25), seeds=3, backend="numpy")),
    ("toy regimes", ToyRegimesSpec(elr_min=0.01, grid=7)),
    ("toy periods", ToyPeriodsSpec(lr=0.3, floor=1e-30, steps=777, alphas=(2,))),
    ("toy thermo", ToyThermoSpec(protocols=("sphere",), radii=(1, 3), elrs=(0.05,), points=64)),
]


@pytest.mark.parametrize(("name", "spec"), SPECS)
def test_a_spec_survives_as_command_and_as_file(name, spec):
    fields = spec.model_dump(mode="json")
    words = shlex.split(to_command(name, type(spec), fields))
    assert words[:3] == ["onsphere", *name.split()]
    Path("spec.toml").write_text(to_toml(fields))
    for arguments in (
        words[1:],
        with_config([*name.split(), "--config", "spec.toml"], COMMANDS),
    ):
        _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert bound.arguments["spec"] == spec


def test_to_command_writes_flags_and_given_words_for_none():
    from onsphere.lab.experiments.regimes.spec import RegimesSpec

    fields = {"train": None, "standardise": False, "widths": [8, 9], "steps": 2500}
    said = to_command("regimes", RegimesSpec, fields, none={"train": "all"})
    assert said == "onsphere regimes --train all --no-standardise --widths 8,9"


def test_a_damaged_spec_on_disk_is_bad_input(capfd):
    toy_periods(out="run", steps=50)
    manifest = json.loads(Path("run/run.json").read_text())
    del manifest["digest"]  # as in a run of before there were digests; with one, any edit is refused
    manifest["spec"]["lr"] = -1
    Path("run/run.json").write_text(json.dumps(manifest))
    Path("run/result.json").unlink()
    assert run_command(["resume", "run"]) == 2
    error = capfd.readouterr().err
    assert "run.json" in error and "lr: -1" in error


def test_specs_do_not_change():
    with pytest.raises(ValidationError):
        ToyPeriodsSpec().lr = 3.0
