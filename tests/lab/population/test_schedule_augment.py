"""Schedules and augmentation: against plain PyTorch, the same in every mode, and nothing changes without them."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import images, problem, run
from test_shard import train

from onsphere.lab.population import Copy, Plan
from onsphere.lab.population.augment import augmented, padding

COPIES = (Copy(0, 0.1, 1e-3, 0.9), Copy(1, 0.05, 1e-3, 0.9), Copy(0, 0.05, 0.0, 0.0))
PLANS = (Plan("vmap", 3), Plan("vmap", 3, traced=False), Plan("loop", 1), Plan("loop", 1, traced=False))


def space(**changes):
    return dataclasses.replace(problem(), geometry="space", **changes)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_cosine_equals_a_plain_loop_with_pytorch_s_scheduler(plan):
    this = space(steps=40, schedule="cosine")
    state, _ = run(this, COPIES, plan, 40)
    constant, _ = run(space(steps=40), COPIES, plan, 40)
    for k, copy in enumerate(COPIES):
        model = this.build(copy.seed).double()
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, copy.lr, momentum=copy.momentum, weight_decay=copy.weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
        x, y = this.data.x_train.double(), this.data.y_train
        for rows in this.batches(copy.seed, 0, 40):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            scheduler.step()
        for value, weight, other in zip(state.params, weights, constant.params, strict=True):
            torch.testing.assert_close(value[k], weight.detach(), rtol=0, atol=1e-9)
            assert (value[k] - other[k]).abs().max() > 1e-4


def test_factors_fall_from_one_towards_zero_and_pieces_join():
    this = space(steps=40, schedule="cosine")
    whole = this.lr_factors(0, 40)
    assert whole.dtype == np.float64 and whole[0] == 1 and whole[20] == pytest.approx(0.5)
    assert (np.diff(whole) < 0).all() and 0 < whole[-1] < 0.01
    np.testing.assert_array_equal(whole, np.concatenate([this.lr_factors(0, 7), this.lr_factors(7, 40)]))
    np.testing.assert_array_equal(space().lr_factors(3, 9), np.ones(6))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(2, 40), st.integers(2, 40), st.integers(0, 10**6))
def test_every_output_is_a_crop_of_the_padded_image_or_its_mirror(channels, height, width, step):
    x = torch.randn(5, channels, height, width, generator=torch.Generator().manual_seed(step))
    pad = padding(height, width)
    assert pad == min(4, max(1, min(height, width) // 8))
    padded = F.pad(x, (pad,) * 4)
    offsets = [(dy, dx) for dy in range(2 * pad + 1) for dx in range(2 * pad + 1)]
    for one, around in zip(augmented(x, (0, step)), padded, strict=True):
        crops = [around[:, dy : dy + height, dx : dx + width] for dy, dx in offsets]
        assert any(torch.equal(one, crop) or torch.equal(one, crop.flip(-1)) for crop in crops)


def test_flips_and_offsets_are_uniform():
    image = torch.arange(1.0, 65.0).view(1, 1, 8, 8)
    out = augmented(image.expand(4000, 1, 8, 8), (1, 2, 3))
    inner = out[:, 0, 1:7, 1:7]
    mirrored = inner[:, 0, 1] < inner[:, 0, 0]
    assert abs(mirrored.double().mean() - 0.5) < 0.04
    kinds, counts = torch.unique(out.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 18  # 2 flips, 3 x 3 offsets
    assert counts.min() > 150 and counts.max() < 300


@pytest.mark.parametrize("seeds", [(0, 1, 0), (0, 0, 0)], ids=["two seeds", "one seed"])
def test_augmented_training_is_the_same_in_both_modes_and_differs_from_plain_training(seeds):
    copies = tuple(dataclasses.replace(copy, seed=seed) for copy, seed in zip(COPIES, seeds, strict=True))
    this = space(steps=20, augment=True)
    results = [run(this, copies, plan, 20)[0] for plan in PLANS]
    plain, _ = run(space(steps=20), copies, PLANS[0], 20)
    for other in results[1:]:
        for a, b in zip(results[0].params, other.params, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(results[0].params, plain.params, strict=True))


def test_augmented_convolutions_train_on_the_images_of_their_seed_and_step():
    options = {"width": 4, "head_norm": 10.0, "eps": 1e-12}
    this = problem(model="convnet", model_options=options, data=images(24, (3, 16, 16)), batch_size=8, steps=4)
    this = dataclasses.replace(this, geometry="space", augment=True)
    copies = (Copy(0, 0.1), Copy(1, 0.05))
    for plan in (Plan("loop", 1, channels_last=True), Plan("vmap", 2)):
        state, _ = run(this, copies, plan, 4)
        for k, copy in enumerate(copies):
            model = this.build(copy.seed).double()
            weights = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.SGD(weights, copy.lr)
            for step, rows in enumerate(this.batches(copy.seed, 0, 4)):
                optimizer.zero_grad()
                x = augmented(this.data.x_train.double()[rows], (this.seed, copy.seed, 4, step))
                F.cross_entropy(model(x), this.data.y_train[rows]).backward()
                optimizer.step()
            for value, weight in zip(state.params, weights, strict=True):
                torch.testing.assert_close(value[k], weight.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("plan", [Plan("vmap", 3), Plan("loop", 1)], ids=["vmap", "loop"])
def test_stopped_and_continued_gives_the_same_bits(tmp_path, plan):
    this = space(steps=300, evaluations=3, dtype=torch.float32, schedule="cosine", augment=True)
    whole, _ = train(tmp_path / "whole", this, plan, COPIES)
    pieces, sittings = train(tmp_path / "pieces", this, plan, COPIES, stops=(3, 140))
    assert sittings == 3
    for name, value in whole.weights().items():
        assert torch.equal(value, pieces.weights()[name]), name
    np.testing.assert_array_equal(whole.readings().values, pieces.readings().values)
