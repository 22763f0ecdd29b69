"""Running batch statistics in a functional step, as torch's batch norms keep them while they train.

    r <- (1 - m) r + m s     s: the minibatch's mean, or its unbiased variance;   m: the norm's momentum, usually 0.1

The published test errors are by these, which lag behind weights that turn fast; ours are by statistics re-estimated at
the weights of the moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onsphere.normalisation import frozen_norms


def momenta(network: nn.Module) -> dict[str, float]:
    """The momentum of every batch norm that keeps running statistics while the network trains, by name.

    Raises:
        ValueError: There is none, or one keeps cumulative averages (momentum None), which are not followed here.
    """
    frozen = set(frozen_norms(network).values())
    norms = {n: m for n, m in network.named_modules() if isinstance(m, _BatchNorm) and m not in frozen}
    known = {name: norm.momentum for name, norm in norms.items() if norm.running_mean is not None}
    if not known:
        raise ValueError("the network has no batch norm that keeps running statistics")
    for name, momentum in known.items():
        if momentum is None:
            raise ValueError(f"the batch norm {name!r} averages over all steps (momentum None), which is not followed")
    return {name: float(momentum) for name, momentum in known.items() if momentum is not None}


class Recorder:
    """Sees what enters the norms of a network in one forward pass.

    Args:
        network: The network whose norms, of whatever class they are now, are looked at.
        momenta: Momentum of each norm by name, in the order of the statistics.
    """

    def __init__(self, network: nn.Module, momenta: Mapping[str, float]) -> None:
        self.momenta = list(momenta.values())
        self._seen: list[tuple[int, Tensor, Tensor]] = []
        for index, name in enumerate(momenta):
            network.get_submodule(name).register_forward_pre_hook(self._hook(index))

    def _hook(self, index: int) -> Any:
        def look(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].detach()
            axes = (0, *range(2, x.dim()))
            variance, mean = torch.var_mean(x, axes)
            self._seen.append((index, mean, variance))

        return look

    def updated(self, statistics: Sequence[Tensor]) -> list[Tensor]:
        """The running statistics, mean and variance [C] of each norm in turn, after the forward pass before."""
        new = list(statistics)
        seen, self._seen = self._seen, []
        for index, *both in seen:
            m = self.momenta[index]
            for place, value in enumerate(both, 2 * index):
                new[place] = (1 - m) * new[place] + m * value
        return new


def statistic_names(momenta: Mapping[str, float]) -> list[str]:
    """Names of the buffers that hold the statistics, in their order."""
    return [f"{name}.running_{kind}" for name in momenta for kind in ("mean", "var")]
