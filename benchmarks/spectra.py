"""Random small networks: is a top eigenvalue that is called converged ever another one?

Every net is drawn from its number alone: input, widths, depth, activation, norm (LayerNorm, GroupNorm or none), loss,
examples, and how long it was trained. The truth is the spectrum of the dense Hessian, by double backward through a
float64 copy.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onsphere.curvature import Krylov, hessian_operator, top_eigenvalues

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
        torch.cat(
            [
                r.reshape(-1)
                for r in torch.autograd.grad(v, params, retain_graph=True, allow_unused=True, materialize_grads=True)
            ]
        )
        for v in flat
    ]
    dense = torch.stack(rows)
    return torch.linalg.eigvalsh((dense + dense.T) / 2).numpy()


def before(net: Net, seed: int, tolerance: float = 1e-3) -> tuple[float, int]:
    """Value and products of a search by the residual and Kato and Temple's error alone, from a random vector."""
    operator = hessian_operator(net.model, net.loss, (net.x, net.y))
    krylov = Krylov(operator.product, operator.size, seed=seed, dtype=operator.dtype)
    while krylov.advance():
        theta, s = np.linalg.eigh(krylov.matrix())
        residuals = krylov.beta * np.abs(s[-1])
        value, residual = float(theta[-1]), float(residuals[-1])
        gap = float((np.abs(theta[:-1] - value) - residuals[:-1]).min()) if len(theta) > 1 else 0.0
        error = residual**2 / gap if gap > residual else residual
        if error <= tolerance * abs(value) and residual <= tolerance**0.5 / 10 * abs(value):
            break
    return value, krylov.steps


def measure(number: int) -> dict[str, Any]:
    """One net: its spectrum's top, the search of before and that of now."""
    net = draw(number)
    first, second = spectrum(net)[:-3:-1].tolist()
    value, products = before(net, number)
    found = top_eigenvalues(net.model, net.loss, (net.x, net.y), seed=number)
    return {
        "net": number,
        "first": first,
        "second": second,
        "before": value,
        "products_before": products,
        "value": found.values[0],
        "error": found.errors[0],
        "converged": found.converged[0],
        "products": found.products,
    }


def survey(nets: int = 100, file: str | None = None) -> Iterator[str]:
    """Measure nets (those in ``file``, one JSON object a line, are not measured again) and count."""
    path = None if file is None else Path(file)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path is not None and path.exists() else []
    known = {row["net"] for row in rows}
    for number in range(nets):
        if number not in known:
            rows.append(measure(number))
            if path is not None:
                with path.open("a") as handle:
                    handle.write(json.dumps(rows[-1]) + "\n")
    another = {
        key: [r["net"] for r in rows if abs(r[key] - r["second"]) < abs(r[key] - r["first"])]
        for key in ("value", "before")
    }
    taken = [r["net"] for r in rows if r["net"] in another["value"] and r["converged"]]
    off = [abs(r["value"] - r["first"]) / abs(r["first"]) for r in rows if r["converged"] and r["net"] not in taken]
    outside = [r for r in rows if abs(r["value"] - r["first"]) > r["error"]]
    ratio = statistics.median(r["products"] / r["products_before"] for r in rows)
    medians = [statistics.median(r[key] for r in rows) for key in ("products_before", "products")]
    yield f"top eigenvalue of {len(rows)} random small networks (LayerNorm, GroupNorm, none) against the dense Hessian"
    yield f"    converged at another eigenvalue than the first: {len(taken)}, nets {taken}"
    yield f"    by residual and r² / gap alone: {len(another['before'])}, nets {another['before']}"
    beyond = sum(x > 1.001e-3 for x in off)
    yield f"    converged at the first, off by more than the tolerance: {beyond}, worst {max(off):.1e}"
    yield f"    outside the error bound: {len(outside)}; not converged: {sum(not r['converged'] for r in rows)}"
    yield f"    products: median {medians[1]:g} for {medians[0]:g}, median ratio {ratio:.3g} (bar <= 1.2)"


def main() -> None:
    """``python -m benchmarks.spectra NETS [FILE]``: goes on where FILE ends."""
    torch.set_num_threads(1)
    for row in survey(int(sys.argv[1]), *sys.argv[2:3]):
        print(row)


if __name__ == "__main__":
    main()
