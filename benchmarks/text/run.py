"""One run: a network trained by one scheme at one setting from one seed, its loss, and how far a step turned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import onsphere
from benchmarks.text.data import Text, batches, load_text, windows
from benchmarks.text.model import GPT
from benchmarks.text.schemes import Setting, build

#: Largest norm of a gradient; a longer one is scaled down to it.
CLIP = 1.0


@dataclass(frozen=True)
class Size:
    """How much there is to train; all runs of a comparison share it.

    Attributes:
        steps: Optimiser steps.
        batch: Windows a step.
        length: Characters of a window.
        width: Of the residual stream.
        depth: Blocks.
        heads: Of each attention.
        text: Characters of the text that are used; None: all.
    """

    steps: int = 300
    batch: int = 16
    length: int = 64
    width: int = 96
    depth: int = 2
    heads: int = 4
    text: int | None = None


_text = cache(load_text)


def train(size: Size, scheme: str, setting: Setting, seed: int, part: str) -> dict[str, Any]:
    """Train once and evaluate.

    Args:
        size: What to train, and how long.
        scheme: One of ``schemes.GRIDS``.
        setting: One of its settings.
        seed: Of the initial weights and of the batches.
        part: ``validation`` or ``test``: where the loss is from.

    Returns:
        What it was, ``loss`` (mean over all characters of the part, natural log), and of the angles that the matrices
        of the blocks turned by (radians a step): ``peak_angle``, their median over matrices at the largest learning
        rate; ``angle``, the same averaged over the run; ``least_angle`` and ``largest_angle``, the averages of the
        matrices that turn least and most.
    """
    text = _text(size.text)
    generator = torch.Generator().manual_seed(seed)
    shape = {"width": size.width, "depth": size.depth, "heads": size.heads}
    model = GPT(text.characters, **shape, generator=generator)
    optimizers, schedules = build(scheme, setting, model, size.steps)
    matrices = list(model.hidden())
    monitor = onsphere.Monitor(optimizers[0], every=max(size.steps // 40, 1), select=matrices, model=model)
    for window in batches(text.train, size=size.batch, length=size.length, steps=size.steps, seed=seed):
        for one in optimizers:
            one.zero_grad()
        _loss(model, window).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for one, schedule in zip(optimizers, schedules, strict=True):
            one.step()
            schedule.step()
    return {
        "scheme": scheme,
        "setting": dict(setting),
        "seed": seed,
        "part": part,
        "loss": evaluate(model, getattr(text, part), size),
        **_angles(monitor, matrices),
    }


def recipe(size: Size) -> dict[str, Any]:
    """What runs must share to be compared: sizes, the text, the version of torch."""
    text: Text = _text(size.text)
    return {**asdict(size), "digest": text.digest, "torch": torch.__version__.split("+")[0]}


@torch.no_grad()
def evaluate(model: GPT, part: Tensor, size: Size) -> float:
    """Mean loss of a character over all whole windows of a part."""
    every = windows(part, size.length)
    return sum(float(_loss(model, some)) * len(some) for some in every.split(64)) / len(every)


def _loss(model: GPT, window: Tensor) -> Tensor:
    return F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())


def _angles(monitor: onsphere.Monitor, matrices: list[str]) -> dict[str, float]:
    readings = monitor.readings("tensor")
    angles = np.stack([readings["angular_update"][readings["group"] == name] for name in matrices])
    peak = readings["lr"][readings["group"] == matrices[0]].argmax()
    each = angles.mean(1)
    return {
        "peak_angle": float(np.median(angles[:, peak])),
        "angle": float(np.median(angles, axis=0).mean()),
        "least_angle": float(each.min()),
        "largest_angle": float(each.max()),
    }
