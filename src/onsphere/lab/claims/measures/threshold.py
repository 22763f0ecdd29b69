"""ELR times sharpness through a whole periodic run of gradient descent: 2 is the threshold of the jumps."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from onsphere.curvature import SharpnessTracker
from onsphere.dynamics.detect import zigzag_jumps
from onsphere.lab import data
from onsphere.lab.claims.study import Values
from onsphere.lab.networks import batches, criterion
from onsphere.lab.population import Copy, Engine, Plan, Problem
from onsphere.lab.preparation import prepare_model

EVERY, BURN_IN = 4, 100
BEFORE, AFTER = 45, 30  # steps around a jump that belong to it
STABLE = 1.8  # of ELR times sharpness: below the threshold of 2 by what two readings four steps apart may miss


def threshold(seed: int, *, lr: float, weight_decay: float, steps: int, train: int) -> Values:
    """Track the sharpness of full-batch training on digits every four steps.

    Args:
        seed: Seed of the initial weights.
        lr: Learning rate of SGD.
        weight_decay: Weight decay as in torch's SGD.
        steps: How many steps are trained.
        train: How many images there are, all of them in every step.

    Returns:
        ``jumps``; ``before``: the least over jumps of the highest product in the 45 steps before one; ``elsewhere`` and
        ``median``: of the steps that belong to no jump, the share below 1.8 and the median product; ``far``: the share
        below 1.8 of steps more than 90 before a jump; ``early``: the median over gaps of the highest product in their
        first half.
    """
    jumps, at, products = _tracked(seed, lr, weight_decay, steps, train)
    if len(jumps) < 2:
        return dict.fromkeys(("before", "elsewhere", "median", "far", "early"), float("nan")) | {"jumps": len(jumps)}
    elsewhere = at >= BURN_IN
    highest = []
    for jump in jumps:
        before = (at >= jump - BEFORE) & (at < jump)
        highest.append(products[before].max())
        elsewhere &= (at < jump - BEFORE) | (at > jump + AFTER)
    far = elsewhere & ~np.any([(at >= jump - 2 * BEFORE) & (at < jump) for jump in jumps], axis=0)
    early = [products[(at > first + AFTER) & (at <= (first + last) / 2)].max() for first, last in pairwise(jumps)]
    return {
        "jumps": float(len(jumps)),
        "before": float(min(highest)),
        "elsewhere": float((products[elsewhere] < STABLE).mean()),
        "median": float(np.median(products[elsewhere])),
        "far": float((products[far] < STABLE).mean()),
        "early": float(np.median(early)),
    }


def _tracked(seed: int, lr: float, weight_decay: float, steps: int, train: int) -> tuple[Any, Any, Any]:
    """Steps of the jumps; and at every fourth step its number and ELR times sharpness."""
    dataset = data.load("digits", seed=0, train=train, label_noise=0.0)
    options = {"widths": (32, 32), "head_norm": 10.0, "eps": 1e-12}
    problem = Problem(dataset, "mlp", options, geometry="space", radius=None, steps=steps, batch_size=train)
    problem, _ = prepare_model(problem)
    engine = Engine(problem, (Copy(seed, lr, weight_decay),), Plan("vmap", 1))
    state, ring = engine.initial_state(), torch.empty((EVERY, 1, engine.columns))
    model = problem.build(seed).train()
    own, layers = dict(model.named_parameters()), len(problem.trained)
    tracker = SharpnessTracker(
        criterion(problem), batches(problem), parameters=list(problem.trained), sphere=True, tolerance=1e-2
    )
    products, squares = [], []
    while state.step < steps:
        with torch.no_grad():
            for name, value in zip(problem.trained, state.params, strict=True):
                own[name].copy_(value[0])
        found = tracker(model)
        radius, sharpness = float(found.radius or math.nan), float(found.values[0])
        products.append(lr / radius**2 * sharpness if found.converged[0] else math.nan)
        state = engine.advance(state, state.step + EVERY, ring)
        squares.append(ring[:, 0, 2 : 2 + layers].double().sum(-1).numpy())
    jumps = zigzag_jumps(lr / np.concatenate(squares), burn_in=BURN_IN)
    return jumps, np.arange(0, steps, EVERY), np.array(products)
