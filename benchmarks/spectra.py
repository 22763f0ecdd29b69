"""Random small networks: is a top eigenvalue that is called converged ever another one?

Every net is drawn from its number alone: input, widths, depth, activation, norm (LayerNorm, GroupNorm or none), loss,
examples, and how long it was trained. The truth is the spectrum of the dense Hessian, by double backward through a
float64 copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("layer", "group", "none")


@dataclass(frozen=True)
class Net:
    """A float32 network with what its loss is measured on."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor


def draw(number: int) -> Net:
    """Net ``number`` of the survey."""
    rng = np.random.default_rng([12, number])
    generator = torch.Generator().manual_seed(number)
    norm = NORMS[number % 3]
    inputs, depth = int(rng.integers(2, 7)), int(rng.integers(1, 3))
    activation = (nn.GELU, nn.Tanh, nn.ReLU, nn.SiLU)[int(rng.integers(4))]
    outputs, examples = int(rng.integers(2, 6)), int(rng.integers(8, 65))
    classify = bool(rng.integers(3))
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        before = inputs
        for _ in range(depth):
            width = 2 * int(rng.integers(2, 6))
            layers.append(nn.Linear(before, width))
            if norm == "layer":
                layers.append(nn.LayerNorm(width))
            elif norm == "group":
                layers.append(nn.GroupNorm(2, width))
            layers.append(activation())
            before = width
        model = nn.Sequential(*layers, nn.Linear(before, outputs))
    x = torch.randn(examples, inputs, generator=generator)
    if classify:
        y, loss = torch.randint(outputs, (examples,), generator=generator), F.cross_entropy
    else:
        y, loss = torch.randn(examples, outputs, generator=generator), F.mse_loss
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9 * float(rng.integers(2)))
    for _ in range(int(rng.choice([0, 10, 100]))):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Net(model, loss, x, y)


def spectrum(net: Net) -> np.ndarray:
    """All eigenvalues, ascending."""
    model = copy.deepcopy(net.model).double()
    params = list(model.parameters())
    y = net.y.double() if net.y.is_floating_point() else net.y
    grads = torch.autograd.grad(net.loss(model(net.x.double()), y), params, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [
        torch.cat([
            r.reshape(-1)
            for r in torch.autograd.grad(v, params, retain_graph=True, allow_unused=True, materialize_grads=True)
        ])
        for v in flat
    ]
    dense = torch.stack(rows)
    return torch.linalg.eigvalsh((dense + dense.T) / 2).numpy()
