"""The comparison of schemes on text, on a network of nothing: that it runs, resumes, chooses and says what it did."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture
def text(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks.text import __main__, data, model, run, schemes

    tiny = run.Size(steps=6, batch=2, length=12, width=8, depth=1, heads=2, text=3000)
    return SimpleNamespace(main=__main__, data=data, model=model, run=run, schemes=schemes, tiny=tiny)


def test_parts_follow_one_another_and_repeat_no_paragraph(text):
    whole = text.data.load_text()
    sizes = [len(part) for part in (whole.train, whole.validation, whole.test)]
    assert sum(sizes) > 300_000
    assert np.allclose(np.array(sizes) / sum(sizes), (0.8, 0.1, 0.1), atol=1e-4)
    # No stretch of 200 characters, which is longer than most paragraphs, is both trained on and tested on.
    trained = {bytes(row.tolist()) for row in whole.train.unfold(0, 200, 1)}
    assert not trained.intersection(bytes(row.tolist()) for row in whole.test.unfold(0, 200, 50))
    every = text.data.windows(torch.arange(101), 10)
    assert torch.equal(every[:, :-1].flatten(), torch.arange(100))
    assert torch.equal(every[:, -1], torch.arange(10, 101, 10))


def test_the_schedule_reaches_one_and_never_zero(text):
    factors = [text.schemes.factor(step, 400) for step in range(400)]
    assert max(factors) == 1
    assert min(factors[0], factors[-1]) > 0
    assert np.argmax(factors) in (39, 40)


@pytest.mark.parametrize("scheme", ["adamw", "adamc", "adamh", "muon", "muonh", "decoupled"])
def test_every_scheme_trains_all_parameters_and_angles_are_exact(text, scheme):
    assert len(text.schemes.GRIDS[scheme]) == 7
    setting = text.schemes.GRIDS[scheme][0]
    row = text.run.train(text.tiny, scheme, setting, 3, "test")
    assert math.isfinite(row["loss"])
    assert row == text.run.train(text.tiny, scheme, setting, 3, "test")
    if "angle" in setting:  # the head is zero at first, so that the first step of six turns nothing
        mean = sum(text.schemes.factor(step, 6) for step in range(1, 6)) / 6 * setting["angle"]
        assert row["least_angle"] == pytest.approx(mean, rel=1e-4)
        assert row["largest_angle"] == pytest.approx(mean, rel=1e-4)

    model = text.model.GPT(20, width=8, depth=1, heads=2, generator=torch.Generator().manual_seed(0))
    optimizers, _ = text.schemes.build(scheme, setting, model, 6)
    stepped = [id(p) for one in optimizers for group in one.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in model.parameters())


def test_gains_leave_the_function_at_the_start(text):
    models = [
        text.model.GPT(20, width=8, depth=1, heads=2, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    ]
    for model in models:
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    text.schemes.build("decoupled", {"angle": 0.1, "gains_lr": 0.1}, models[0], 6)
    x = torch.arange(12).view(1, 12)
    assert torch.equal(models[0](x), models[1](x))
    assert len(list(models[0].parameters())) == len(list(models[1].parameters())) + 6


def test_a_comparison_goes_on_where_it_stopped(text, tmp_path, monkeypatch):
    monkeypatch.setattr(text.main, "CHOOSE", (100,))
    monkeypatch.setattr(text.main, "REPORT", (0, 1))
    path, schemes = tmp_path / "runs" / "text.jsonl", ("adamw", "adamh")
    rows = text.main.compare(text.tiny, path, schemes=schemes)
    assert len(rows) == 2 * (7 + 2)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + len(rows)
    assert json.loads(lines[0])["digest"] == text.data.load_text(3000).digest

    path.write_text("".join(lines[:-2]) + lines[-2][:20])  # killed while it wrote the last line but one
    trained = []
    monkeypatch.setattr(text.main, "train", lambda *job: trained.append(job) or text.run.train(*job))
    assert text.main.compare(text.tiny, path, schemes=schemes) == rows
    assert len(trained) == 2
    assert path.read_text() == "".join(lines)

    other = text.run.Size(**{**vars(text.tiny), "steps": 7})
    with pytest.raises(SystemExit, match="give another --out"):
        text.main.compare(other, path)


def test_the_best_validation_loss_is_chosen_and_the_table_is_of_test_seeds(text):
    grid = text.schemes.GRIDS["adamw"]
    losses = [2.0, 1.5, 1.8, math.nan, 1.9, 1.7, 1.6]
    rows = [
        {"scheme": "adamw", "setting": setting, "seed": seed, "part": "validation", "loss": loss + 0.1 * (seed - 100)}
        for setting, loss in zip(grid, losses, strict=True)
        for seed in (100, 101)
    ]
    assert text.main.chosen(rows, "adamw") == grid[1]
    angles = dict.fromkeys(("peak_angle", "angle", "least_angle", "largest_angle"), 0.01)
    rows += [
        {"scheme": scheme, "setting": grid[1], "seed": seed, "part": "test", "loss": loss + 0.01 * seed} | angles
        for scheme, loss in (("adamw", 1.4), ("adamc", 1.3))
        for seed in range(5)
    ]
    rows += [row | {"scheme": "adamc"} for row in rows if row["part"] == "validation"]
    table = list(text.main.table(rows))
    assert [line.split(" | ")[0] for line in table[2:]] == ["| adamc", "| adamw"]
    assert "1.320 (1.300 to 1.340) | -0.100 (-0.100 to -0.100)" in table[2]
