"""Networks whose last layer is trained beside scale-invariant weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from onsphere.lab import models


@dataclass(frozen=True)
class TrainedHead:
    """A factory of networks whose last layer is trained.

    The head of a reference network gets PyTorch's default initial weights, as in the published set-ups that train it;
    its hidden weights are those of the network with a frozen head. A network of one's own is taken as it is.

    Attributes:
        model: A name of :mod:`onsphere.lab.models`, a path to a factory, or a factory.
    """

    model: str | Callable[..., nn.Module]

    def __call__(self, **given: Any) -> nn.Module:
        """Build the network; torch's CPU generator is seeded by whoever calls."""
        # The same seed once more: hidden weights are those of the network with a frozen head.
        network = models.build(self.model, seed=torch.default_generator.initial_seed(), **given)
        if self.model in models.SCALE_INVARIANT:
            head: Any = network.get_submodule("head")
            head.reset_parameters()
            head.requires_grad_(True)
        return network
