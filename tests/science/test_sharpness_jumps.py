"""ELR times sharpness through a whole periodic run, tracked every 4 steps with the core's tracker: 2 is the threshold.

Full batch of 512 digits, lr 1, weight decay 3e-3, 3000 steps. Seen with seeds 0 to 2 and stated beside each check.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch

from onsphere.curvature import SharpnessTracker
from onsphere.dynamics.detect import zigzag_jumps
from onsphere.lab import data
from onsphere.lab.networks import batches, criterion
from onsphere.lab.population import Copy, Engine, Plan, Problem
from onsphere.lab.preparation import prepare_model

pytestmark = [pytest.mark.science, pytest.mark.slow]

LR, WEIGHT_DECAY, STEPS, EVERY, BURN_IN = 1.0, 3e-3, 3000, 4, 100
BEFORE, AFTER = 45, 30  # steps around a jump that belong to it


def tracked(seed):
    """Steps of the jumps; and at every fourth step its number and ELR times sharpness."""
    dataset = data.load("digits", seed=0, train=512, label_noise=0.0)
    options = {"widths": (32, 32), "head_norm": 10.0, "eps": 1e-12}
    problem = Problem(dataset, "mlp", options, geometry="space", radius=None, steps=STEPS, batch_size=512)
    problem, notes = prepare_model(problem)
    assert not notes
    engine = Engine(problem, (Copy(seed, LR, WEIGHT_DECAY),), Plan("vmap", 1))
    state, ring = engine.initial_state(), torch.empty((EVERY, 1, engine.columns))
    model = problem.build(seed).train()
    own, layers = dict(model.named_parameters()), len(problem.trained)
    tracker = SharpnessTracker(
        criterion(problem), batches(problem), parameters=list(problem.trained), sphere=True, tolerance=1e-2
    )
    products, squares = [], []
    while state.step < STEPS:
        with torch.no_grad():
            for name, value in zip(problem.trained, state.params, strict=True):
                own[name].copy_(value[0])
        found = tracker(model)
        assert found.converged[0]
        products.append(LR / found.radius**2 * found.values[0])
        state = engine.advance(state, state.step + EVERY, ring)
        squares.append(ring[:, 0, 2 : 2 + layers].double().sum(-1).numpy())
    jumps = zigzag_jumps(LR / np.concatenate(squares), burn_in=BURN_IN)
    return jumps, np.arange(0, STEPS, EVERY), np.array(products)


@pytest.mark.parametrize("seed", [0, 1])
def test_elr_times_sharpness_passes_1_8_before_each_jump_and_hardly_elsewhere(seed):
    jumps, steps, products = tracked(seed)
    assert 6 <= len(jumps) <= 13
    elsewhere = steps >= BURN_IN
    for jump in jumps:
        before = (steps >= jump - BEFORE) & (steps < jump)
        assert products[before].max() > 1.8  # seen 2.6 and more before each of 29 jumps
        elsewhere &= (steps < jump - BEFORE) | (steps > jump + AFTER)
    # Not everywhere: on the last part of the way to a jump the product hangs about 2 for tens of steps.
    assert (products[elsewhere] < 1.8).mean() > 0.95  # seen 0.97 to 0.99
    assert np.median(products[elsewhere]) < 1.2  # seen 0.93 to 1.04
    far = elsewhere & ~np.any([(steps >= jump - 2 * BEFORE) & (steps < jump) for jump in jumps], axis=0)
    assert (products[far] < 1.8).mean() > 0.98  # seen 0.99 with seed 0, all of them with seeds 1 and 2
    early = [products[(steps > first + AFTER) & (steps <= (first + last) / 2)].max() for first, last in pairwise(jumps)]
    assert np.median(early) < 1.4  # the highest of the first half of a gap; seen 0.90 to 1.11
