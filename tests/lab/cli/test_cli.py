"""The command line as a stranger meets it: help, results, wrong inputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command import SMALL, here, last_json, onsphere
from onsphere.lab.cli import run_command
from onsphere.lab.store import Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small map, made by the command."""
    folder = tmp_path_factory.mktemp("finished")
    process = onsphere("regimes", *SMALL, "--workers", "1", "--out", "map", "--json", folder=folder)
    assert process.returncode == 0, process.stderr
    return folder, process


def test_json_is_the_last_line_and_complete(finished):
    folder, process = finished
    result = last_json(process)
    assert len(process.stdout.splitlines()) == 1
    assert result["command"] == "regimes"
    assert (folder / result["run"]).is_dir() and (folder / result["report"]).is_file()
    for name in ("convergence", "divergence"):
        assert {"low", "high", "resolved"} <= result["boundaries"][name].keys()
    keys = (
        "elr",
        "seed",
        "regime",
        "loss",
        "loss_at_init",
        "train_error",
        "test_error",
        "angular_update",
        "trend",
    )
    assert len(result["cells"]) >= 6
    for cell in result["cells"]:
        assert {*keys, "gradient_norm", "finite"} <= cell.keys()
        assert cell["regime"] in {"convergence", "chaotic_equilibrium", "divergence"}
    assert result["engine"].keys() == {"mode", "chunk", "compiled", "workers"}
    assert result["seconds"] > 0


def test_the_run_folder_is_readable_without_onsphere(finished):
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    folder = finished[0] / "map"
    spec = json.loads((folder / "run.json").read_text())
    assert spec["spec"]["elrs"] == 3 and spec["environment"]["packages"]["torch"]
    shards = sorted((folder / "shards").iterdir())
    rows = sum(pq.read_table(part).num_rows for shard in shards for part in shard.glob("readings-*.parquet"))
    cells = json.loads((folder / "result.json").read_text())["cells"]
    assert rows == 40 * len(cells)
    assert load_file(shards[0] / "weights.safetensors")["alive"].all()
    for name in ("overview", "phase", "map"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 5000
    assert not list(folder.rglob("*.tmp"))


def test_runs_lists_and_resume_repeats_the_result(finished):
    folder, process = finished
    listed = here("runs", ".", folder=folder).stdout
    assert "map" in listed and "done" in listed and "convergence" in listed
    again = here("resume", "map", "--json", folder=folder)
    assert last_json(again) == last_json(process)
    plain = here("resume", "map", folder=folder).stdout
    assert "convergence ends" in plain and "report.html" in plain
    report = folder / "map" / "report.html"
    report.unlink()
    assert here("report", "map", folder=folder).returncode == 0
    assert report.is_file()


def test_a_second_run_does_not_overwrite_the_first(finished):
    process = here("regimes", *SMALL, "--out", "map", folder=finished[0])
    assert process.returncode == 2
    assert "already holds another run" in process.stderr and "resume" in process.stderr


def test_the_command_on_the_page_repeats_the_run(finished, undrawn):
    import shlex

    from onsphere.lab.experiments.regimes.result import RegimesResult
    from onsphere.lab.frame import repeated

    folder, process = finished
    words = shlex.split(repeated(RegimesResult.load(Run.open(folder / "map"))))
    again = here(*words[1:], "--out", "again", "--json", folder=folder)
    first, second = last_json(process), last_json(again)
    assert first["cells"] == second["cells"] and first["spec"] == second["spec"]


def test_a_toml_file_gives_the_same_fields_and_the_line_wins(finished, undrawn, tmp_path):
    from onsphere.lab.config import to_toml

    spec = json.loads((finished[0] / "map" / "run.json").read_text())["spec"]
    Path("spec.toml").write_text(to_toml(spec))
    process = here("regimes", "--config", "spec.toml", "--refine", "0", "--json", folder=tmp_path)
    result = last_json(process)
    assert result["spec"] == spec | {"refine": 0}
    grid = [c for c in last_json(finished[1])["cells"] if c["round"] == 0]
    assert result["cells"] == grid


def test_help_is_quick_to_load_and_names_defaults():
    help_text = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "onsphere.lab.cli", "regimes", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for word in (
        "--label-noise",
        "0.25",
        "--elr-min",
        "0.0001",
        "--json",
        "--config",
        "--workers",
        "--device",
    ):
        assert word in help_text.stdout
    for module in ("torch", "numpy", "matplotlib", "plotly", "sklearn"):
        assert f" {module}\n" not in help_text.stderr, f"--help imports {module}"


BAD = {
    "unknown command": (["regime"], "regime"),
    "unknown option": (["regimes", "--elr", "1"], "--elr"),
    "unknown model": (["regimes", "--model", "mpl"], "mlp"),
    "model that cannot be imported": (["regimes", "--model", "no_such_module:make"], "no_such_module"),
    "unknown data set": (["regimes", "--data", "imagenet"], "digits"),
    "zero ELR": (["regimes", "--elr-min", "0"], "--elr-min"),
    "negative ELR": (["regimes", "--elr-max", "-1"], "--elr-max"),
    "infinite ELR": (["regimes", "--elr-max", "inf"], "--elr-max"),
    "reversed range": (["regimes", "--elr-min", "1", "--elr-max", "0.1"], "--elr-min"),
    "no seeds": (["regimes", "--seeds", "0"], "--seeds"),
    "no steps": (["regimes", "--steps", "0"], "--steps"),
    "empty batch": (["regimes", "--batch-size", "0"], "--batch-size"),
    "batch over the data": (["regimes", "--batch-size", "501"], "--batch-size"),
    "too much label noise": (["regimes", "--label-noise", "1.5"], "--label-noise"),
    "not a number": (["regimes", "--steps", "many"], "--steps"),
    "unknown loss": (["regimes", "--loss", "hinge"], "--loss"),
    "bad widths": (["regimes", "--widths", "64,x"], "--widths"),
    "width for the mlp": (["regimes", "--model", "mlp", "--width", "8"], "width"),
    "more images than there are": (["regimes", "--train", "5000"], "1437"),
    "unknown device": (["regimes", "--device", "abacus"], "--device"),
    "empty data folder": (["regimes", "--data", "cifar10", "--data-dir", "."], "cifar10"),
    "damaged data folder": (["regimes", "--data", "cifar10", "--data-dir", "damaged"], "data_batch_1.bin"),
    "missing data folder": (["regimes", "--data", "cifar10", "--data-dir", "nowhere"], "nowhere"),
    "pool that does not divide": (["regimes", "--pool", "3"], "pool"),
    "output is a file": (["regimes", "--out", "a_file"], "--out"),
    "output cannot be written": (["regimes", "--out", "/proc/no/run"], "--out"),
    "symmetries without a batch": (["symmetries", "some.module:make"], "--input"),
    "symmetries of nothing importable": (["symmetries", "no_such_module:make", "--input", "8x3"], "no_such_module"),
    "symmetries of an unknown name": (["symmetries", "resnet81", "--input", "8x3"], "resnet18"),
    "symmetries of no module": (["symmetries", "math:sqrt", "--input", "8x3"], "math:sqrt"),
    "symmetries of a damaged shape": (["symmetries", "mlp", "--input", "8x3x"], "--input"),
    "symmetries of an empty batch": (["symmetries", "mlp", "--input", "0x3"], "--input"),
    "symmetries of one example": (["symmetries", "mlp", "--input", "1x8"], "batch of more than one"),
    "symmetries of the wrong kind of input": (["symmetries", "convnet", "--input", "8x3"], "square images"),
    "symmetries with tokens without a vocabulary": (["symmetries", "a:b", "--tokens", "4x16"], "--vocab"),
    "symmetries with a vocabulary without tokens": (["symmetries", "mlp", "--vocab", "9"], "--tokens"),
    "symmetries with an unknown dtype": (["symmetries", "mlp", "--dtype", "float8"], "--dtype"),
    "symmetries on an unknown device": (["symmetries", "mlp", "--device", "abacus"], "--device"),
    "symmetries of an mlp with a width": (["symmetries", "mlp", "--width", "8"], "widths"),
    "symmetries with a keyword twice": (["symmetries", "mlp", "--input", "x=8x3,x=8x3"], "twice"),
    "unknown key of symmetries": (["symmetries", "--config", "unknown.toml"], "bananas"),
    "periods at a zero learning rate": (["periods", "--lr", "1,0"], "--lr"),
    "periods without weight decay": (["periods", "--weight-decay", "0"], "--weight-decay"),
    "periods with a decay over 1 / lr": (["periods", "--lr", "10", "--weight-decay", "0.2"], "--weight-decay"),
    "periods of the same lr twice": (["periods", "--lr", "1,1"], "--lr"),
    "periods of an unknown set-up": (["periods", "--setup", "impractical"], "--setup"),
    "periods with momentum 1": (["periods", "--momentum", "1"], "--momentum"),
    "periods with half a batch": (["periods", "--batch-size", "half"], "--batch-size"),
    "periods with a batch over the data": (["periods", "--batch-size", "1438"], "--batch-size"),
    "periods with a burn-in over the run": (["periods", "--steps", "100"], "--burn-in"),
    "periods against a sphere that cannot be": (
        ["periods", "--compare-sphere", "--setup", "practical"],
        "--compare-sphere",
    ),
    "periods of an unknown model": (["periods", "--model", "mpl"], "mlp"),
    "unknown key of periods": (["periods", "--config", "unknown.toml"], "bananas"),
    "zero ELR of a toy": (["toy", "regimes", "--elrs", "0.1,0"], "--elrs"),
    "no coefficients": (["toy", "regimes", "--alphas", ","], "--alphas"),
    "floor of one": (["toy", "periods", "--floor", "1"], "--floor"),
    "decay over 1 / lr": (["toy", "periods", "--weight-decay", "20"], "--weight-decay"),
    "a line for a sphere": (["toy", "thermo", "--dimension", "1"], "--dimension"),
    "unknown toy": (["toy", "bananas"], "bananas"),
    "unknown key of a toy": (["toy", "periods", "--config", "unknown.toml"], "bananas"),
    "resume of nothing": (["resume", "nowhere"], "nowhere"),
    "resume of another folder": (["resume", "."], "run.json"),
    "missing config": (["regimes", "--config", "none.toml"], "none.toml"),
    "damaged config": (["regimes", "--config", "damaged.toml"], "damaged.toml"),
    "unknown key": (["regimes", "--config", "unknown.toml"], "bananas"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_status_2(arguments, said, capfd):
    Path("a_file").write_text("x")
    Path("damaged").mkdir()
    Path("damaged", "data_batch_1.bin").write_bytes(bytes(3073 * 2 - 5))
    Path("damaged", "test_batch.bin").write_bytes(bytes(3073 * 2))
    Path("damaged.toml").write_text("elrs = = 3")
    Path("unknown.toml").write_text("bananas = 3\n")
    assert run_command(arguments) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert len(error.strip().splitlines()) == 1, error
    assert said in error
    assert not Path("runs").exists(), "a run folder was made for a run that cannot start"


def test_a_model_without_norm_layers_is_bad_input(capfd):
    Path("plain_net.py").write_text(
        "from torch import nn\n"
        "def make(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))\n"
    )
    assert run_command(["regimes", "--model", "plain_net:make"]) == 2
    error = capfd.readouterr().err
    assert "norm" in error and len(error.strip().splitlines()) == 1


def test_a_model_of_ones_own_with_affine_norms_is_made_scale_invariant(undrawn, tmp_path):
    Path("own_net.py").write_text(
        "from torch import nn\n"
        "def make(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8),"
        " nn.ReLU(), nn.Linear(8, classes))\n"
    )
    small = [x for x in SMALL if x not in ("--widths", "8")]
    process = here("regimes", *small, "--model", "own_net:make", "--workers", "1", "--json", folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "made scale-invariant" in process.stderr
    assert last_json(process)["spec"]["model"] == "own_net:make"


def test_a_failure_that_is_nobodys_input_is_status_1(monkeypatch, capfd):
    import onsphere.lab.training as room

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(room, "choose_plan", broken)
    assert run_command(["regimes", *SMALL, "--workers", "1"]) == 1
    assert "disk full" in capfd.readouterr().err
