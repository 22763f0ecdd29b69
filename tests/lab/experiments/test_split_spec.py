"""The fields of a memory split: budgets as they are written, what is refused, what a pooling number means."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from onsphere.lab.cli import run_command
from onsphere.lab.experiments.split.pools.study import Family, pooling_factor, splits_of
from onsphere.lab.experiments.split.run import split_budget
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.options import InputError

TINY = "--train 60 --test 60 --steps 8 --batch-size 16 --seeds 2"
BAD = {
    "budget too small for one member": ("--budget 50 --members 1", "too small for 1 members"),
    "budget too small for all members": ("--budget 1k --members 1,64", "at most"),
    "budget that is no number": ("--budget many", "--budget"),
    "half a parameter": ("--budget 1.5", "--budget"),
    "a budget twice": ("--budget 1k,1000", "--budget"),
    "members that are no integers": ("--members 1,2.5", "--members"),
    "members that are no numbers": ("--members one", "--members"),
    "no members": ("--members 0", "--members"),
    "members twice": ("--members 2,2", "--members"),
    "two splits of one width": ("--budget 400 --members 4,5", "round to width"),
    "no such metric": ("--metric brier", "--metric"),
    "sphere without an ELR": ("--geometry sphere", "--elr"),
    "sphere with two": ("--geometry sphere --elr 0.1 --map x", "--elr"),
    "ELR in the whole space": ("--elr 0.1", "--elr"),
    "learning rate on the sphere": ("--geometry sphere --elr 0.1 --lr 0.1", "--lr"),
    "a map that is none": ("--geometry sphere --map nowhere", "nowhere"),
    "plain network on the sphere": ("--geometry sphere --elr 0.1 --model plain-mlp", "--model"),
    "unknown model": ("--model nothing", "--model"),
    "model without a width": ("--model torch.nn:ReLU", "neither width nor widths"),
    "a prediction to save": ("--predict --save best.safetensors", "--save"),
    "a folder that is not there": ("--save nowhere/best.safetensors", "--save"),
    "pooling that does not divide": ("--pool 3", "pool"),
    "more images a step than there are": ("--batch-size 61", "--batch-size"),
    "too many networks": ("--seeds 100000", "--seeds"),
}


@pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_status_2(line, said, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [word for word in line.split() if word.startswith("--")]
    rest = TINY.split()
    small = [w for i in range(0, len(rest), 2) if rest[i] not in given for w in rest[i : i + 2]]
    assert run_command(["split", *small, *line.split()]) == 2
    out, error = capfd.readouterr()
    assert out == "" and said in error
    assert len(error.strip().splitlines()) == 1, error
    assert not Path("runs").exists(), "a run folder was made for a run that cannot start"


def test_budgets_are_written_with_suffixes():
    spec = SplitSpec(budget="64k,1M,500", members="4,1,2")
    assert spec.budget == (500, 64_000, 1_000_000)
    assert spec.members == (1, 2, 4)
    assert SplitSpec(budget=["0.5k"]).budget == (500,)
    with pytest.raises(ValidationError):
        SplitSpec(budget="0.0005k")


@pytest.mark.parametrize(
    ("data", "pool", "factor"),
    [
        ("fashion-mnist", 1, 1),
        ("fashion-mnist", 2, 2),
        ("fashion-mnist", 4, 4),
        ("fashion-mnist", 7, 4),
        ("fashion-mnist", 14, 2),
        ("fashion-mnist", 28, 1),
        ("digits", 4, 2),
        ("cifar10", 8, 4),
        ("arrays", 3, 3),
    ],
)
def test_a_pooling_number_is_the_factor_or_the_side_whichever_leaves_larger_images(data, pool, factor):
    assert pooling_factor(data, pool) == factor


def test_a_pooling_number_that_does_not_divide_is_left_to_the_loader():
    assert pooling_factor("fashion-mnist", 5) == 5


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("mlp", lambda w: 49 * w + w * w + 10 * w),
        ("plain-mlp", lambda w: 49 * w + w + w * w + w + 10 * w + 10),
    ],
)
def test_a_split_spends_the_budget_to_within_a_width(model, parameters):
    spec = SplitSpec(model=model, budget=(16_000,))
    family = Family(model, 2, (1, 7, 7), 10, 10.0, "widths")
    for split in splits_of(spec, family)[16_000]:
        assert split.parameters == parameters(split.width)
        share = 16_000 / split.members
        assert abs(split.parameters - share) <= min(
            abs(parameters(split.width + 1) - share), abs(parameters(split.width - 1) - share)
        )


def test_layers_and_width_of_a_family():
    assert Family("mlp", 3, (64,), 10, 10.0, "widths").options(5)["widths"] == (5, 5, 5)
    assert Family("convnet", 3, (1, 8, 8), 10, 10.0, "width").options(5)["width"] == 5


def test_python_takes_single_numbers_and_refuses_wrong_ones(tmp_path):
    with pytest.raises(InputError, match="budget"):
        split_budget(budget=-5, out=tmp_path / "run")
    with pytest.raises(InputError, match="members"):
        split_budget(budget=1000, members=0, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
