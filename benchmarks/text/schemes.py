"""The schemes that are compared: what steps the matrices of the blocks, and which settings are tried.

Everything else (embeddings, gains, head) is AdamW's without decay in each of them, with ``rest_lr`` where the
matrices are not AdamW's too. One schedule multiplies every learning rate and angle: see :func:`factor`.

    adamw       AdamW, lr × weight decay; the decay acts on the matrices of the blocks
    adamc       the same, the decay of the matrices scaled by lr / peak lr
    adamh       AdamW turning each matrix by an angle a step, norms as they were at the start
    muon        Muon with its decay of 0.1
    muonh       Muon turning each matrix by an angle a step
    decoupled   adamh on directions; each row of a matrix has a learnable gain beside them, one at the start
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

import onsphere
from benchmarks.text.model import GPT

__all__ = ["GRIDS", "build", "factor"]

Setting = Mapping[str, float]
BETAS = (0.9, 0.95)


def _grid(**values: tuple[float, ...]) -> list[dict[str, float]]:
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


_BY_DECAY = _grid(lr=(3e-3, 6e-3, 1.2e-2), weight_decay=(0.1, 1.0))
_BY_ANGLE = _grid(angle=(0.015, 0.03, 0.06), rest_lr=(4e-3, 1.2e-2))
#: What is tried, six settings a scheme. The ranges were set by a look at a few runs of seed 200, which is not used again.
GRIDS: dict[str, list[dict[str, float]]] = {
    "adamw": _BY_DECAY,
    "adamc": _BY_DECAY,
    "adamh": _BY_ANGLE,
    "muon": _grid(lr=(0.015, 0.03, 0.06), rest_lr=(4e-3, 1.2e-2)),
    "muonh": _BY_ANGLE,
    "decoupled": _BY_ANGLE,
}


class RowGains(nn.Module):
    """A matrix as its direction times a gain for each row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.ones(rows))

    def forward(self, direction: Tensor) -> Tensor:
        """``[rows, columns]`` to the same."""
        return self.gains[:, None] * direction


def factor(step: int, steps: int) -> float:
    """A tenth of the run upwards, the rest downwards, both along a line that does not touch zero."""
    warmup = max(steps // 10, 1)
    return min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))


def build(scheme: str, setting: Setting, model: GPT, steps: int) -> tuple[list[Optimizer], list[LambdaLR]]:
    """Optimisers and schedules of one run; the first optimiser steps the matrices of the blocks.

    Args:
        scheme: One of :data:`GRIDS`.
        setting: One of its settings.
        model: A new one; what is decoupled is changed in it.
        steps: Length of the run.
    """
    if scheme == "decoupled":
        for layer in [one for one in model.blocks.modules() if isinstance(one, nn.Linear)]:
            parametrize.register_parametrization(layer, "weight", RowGains(layer.out_features))
    hidden = model.hidden()
    known = {id(p) for p in hidden.values()}
    rest = [p for p in model.parameters() if id(p) not in known]
    spheres = [{"params": [p], "names": [name], "sphere": "joint"} for name, p in hidden.items()]
    optimizers = _MAKERS[scheme](list(hidden.values()), rest, setting)
    schedules = [LambdaLR(one, lambda step: factor(step, steps)) for one in optimizers]
    if scheme == "adamc":
        onsphere.correct_decay(optimizers, spheres)
    elif scheme in ("adamh", "muonh", "decoupled"):
        onsphere.keep_on_sphere(optimizers, spheres, angle=True)
    return optimizers, schedules


def _adamw(hidden: list[nn.Parameter], rest: list[nn.Parameter], setting: Setting) -> list[Optimizer]:
    groups = [{"params": hidden, "weight_decay": setting["weight_decay"]}, {"params": rest, "weight_decay": 0.0}]
    return [AdamW(groups, setting["lr"], betas=BETAS)]


def _adamh(hidden: list[nn.Parameter], rest: list[nn.Parameter], setting: Setting) -> list[Optimizer]:
    groups = [{"params": hidden, "lr": setting["angle"]}, {"params": rest, "lr": setting["rest_lr"]}]
    return [AdamW(groups, betas=BETAS, weight_decay=0.0)]


def _muon(hidden: list[nn.Parameter], rest: list[nn.Parameter], setting: Setting) -> list[Optimizer]:
    decay = 0.1 if "lr" in setting else 0.0
    return [
        Muon(hidden, setting.get("lr", setting.get("angle", 0.0)), weight_decay=decay),
        AdamW(rest, setting["rest_lr"], betas=BETAS, weight_decay=0.0),
    ]


_MAKERS: dict[str, Callable[[list[nn.Parameter], list[nn.Parameter], Setting], list[Optimizer]]] = {
    "adamw": _adamw,
    "adamc": _adamw,
    "adamh": _adamh,
    "muon": _muon,
    "muonh": _muon,
    "decoupled": _adamh,
}
