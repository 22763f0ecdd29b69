"""Numbers and files that only a slip of the finger asks for: refused in one short line, before anything is made."""

import math

import pytest

from onsphere.lab.config import with_config
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.experiments.schedule.spec import ScheduleSpec
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.options import InputError
from onsphere.lab.training import check_device, validated

FILES = {
    "an integer of 5,000 digits": ("seeds = " + "9" * 5000, "a number of too many digits"),
    "an integer of 4,000 digits": ("seeds = " + "9" * 4000, "a number of too many digits"),
    "36,000 bits": ("seeds = 0x" + "f" * 9000, "a number of too many digits"),
    "a list with a long integer": ("widths = [8, 0x" + "f" * 9000 + "]", "a number of too many digits"),
    "5,000 lists": ("elr = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    "5,000 inline tables": ("a = " + "{a=" * 5000 + "1" + "}" * 5000, "nested too deeply"),
    "5,000 tables": ("[" + ".".join("a" * 5000) + "]\nx = 1\n", "a is a dict"),
    "lists of lists": ("widths = [[1, 2], [3]]", "widths is a list"),
    "lists of tables": ("widths = [{a = 1}]", "widths is a list"),
    "a large file": ("#" * (1 << 20) + "\n", "larger than 1,048,576 bytes"),
    "no text": (b"\xff\xfe", "is not TOML"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_fields_that_are_too_much(kind, tmp_path):
    content, message = FILES[kind]
    path = tmp_path / "fields.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        with_config(["regimes", "--config", str(path)], ["regimes"])
    assert "\n" not in str(caught.value) and len(str(caught.value).replace(str(path), "")) < 200


def test_windows_line_ends_are_read_as_before(tmp_path):
    (tmp_path / "fields.toml").write_bytes(b"seeds = 3\r\n[regimes]\r\nelrs = 4\r\n")
    words = with_config(["regimes", "--config", str(tmp_path / "fields.toml")], ["regimes"])
    assert {"--seeds=3", "--elrs=4"} <= set(words)


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        (RegimesSpec, {"seeds": 10**12}, r"seeds: 1000000000000 is not allowed: must be at most 1,000"),
        (RegimesSpec, {"elrs": 10**6}, "elrs: .*at most 1,000"),
        (RegimesSpec, {"steps": 10**12}, "steps: .*at most 1,000,000,000"),
        (RegimesSpec, {"workers": 10**5}, "workers: .*at most 1,024"),
        (RegimesSpec, {"seed": 10**30}, "seed: .*at most 9,223,372,036,854,775,807"),
        (RegimesSpec, {"seeds": 10**5000}, "seeds: this int, which is too long to print, is not allowed"),
        (RegimesSpec, {"model": 5, "loss": "x" * 5000}, "model"),
        (RegimesSpec, {"loss": "x" * 5000}, r"loss: 'x{79}\.\.\. is not allowed"),
        (RegimesSpec, {"loss": "mse", "elr_max": 1e300}, r"elr_max: 1e\+300 is not allowed: must be a number between"),
        (RegimesSpec, {"elr_min": 1e-300}, "elr_min: 1e-300 is not allowed"),
        (RegimesSpec, {"checkpoint_seconds": math.inf}, "checkpoint_seconds: inf is not allowed"),
        (RegimesSpec, {"widths": [8, 10**8]}, "widths: .*at most 100,000"),
        (PeriodsSpec, {"lr": [1e31]}, "lr: .*between 1e-37 and 1e"),
        (ScheduleSpec, {"peaks": [1.0, 1e200]}, "peaks: .*between 1e-37 and 1e"),
        (SplitSpec, {"budget": [10**13]}, "budget: .*at most 1,000,000,000"),
    ],
)
def test_numbers_out_of_all_bounds(spec, fields, message):
    with pytest.raises(InputError, match=message) as caught:
        validated(spec, fields)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_the_largest_that_are_allowed():
    spec = validated(RegimesSpec, {"seeds": 1000, "elr_max": 1e30, "elr_min": 1e-37, "seed": 2**63 - 1, "steps": 10**9})
    assert spec.grid()[-1] == 1e30


@pytest.mark.parametrize("device", ["meta", "banana", "cuda:99", "mps"])
def test_devices_on_which_nothing_is_computed(device):
    with pytest.raises(InputError, match=f"--device: '{device}' is not usable here .*cpu always is") as caught:
        check_device(device)
    assert "\n" not in str(caught.value)
