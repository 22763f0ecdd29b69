"""The norms of the groups of weights that can be rescaled by themselves, before the drop.

A group is a row of a tensor that is invariant row by row (a filter or unit ahead of a batch norm), or else an
irreducible group of tensors (:func:`onsphere.sphere_groups`). Norms are divided by the joint norm of all of them, so
that the squares of a network's sum to one.

Source: Sadrtdinov, Kodryan et al., NeurIPS 2024 (norms of groups after training at rates of the third regime).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onsphere import sphere_groups
from onsphere.lab.experiments.drop.result import GroupNorms
from onsphere.lab.experiments.periods.science.setups import Ready
from onsphere.lab.networks.minima import Place
from onsphere.lab.population import Copy
from onsphere.lab.preparation import PROBE

BINS = 30
Array = NDArray[np.float64]


def group_norms(given: Ready, copies: Sequence[Copy], places: Sequence[Place]) -> dict[str, Any]:
    """Histograms of the norms at initialisation and at the end of every start, those of its seeds together.

    Args:
        given: The problem of the first round.
        copies: The starts of a single stage.
        places: Where the weights of each lie.

    Returns:
        ``norms`` and ``norm_edges`` of the result.
    """
    rows, groups = _groups(given)
    found: dict[float | None, list[Array]] = {None: []}
    for seed in sorted({copy.seed for copy in copies}):
        network = dict(given.problem.build(seed).named_parameters())
        found[None].append(norms_of({name: network[name].detach() for name in given.invariant}, rows, groups))
    for copy, place in zip(copies, places, strict=False):
        if place.alive:
            found.setdefault(copy.lr, []).append(norms_of(place.weights(given.invariant), rows, groups))
    norms = {start: np.concatenate(own) for start, own in found.items()}
    positive = np.concatenate([own[own > 0] for own in norms.values()])
    edges = np.geomspace(positive.min() * (1 - 1e-9), positive.max() * (1 + 1e-9), BINS + 1)
    return {"norms": [_histogram(start, own, edges) for start, own in norms.items()], "norm_edges": edges.tolist()}


def _groups(given: Ready) -> tuple[list[str], list[list[str]]]:
    """Names of the tensors that are invariant row by row, and the other groups of tensors."""
    network, x = given.problem.build(0), given.problem.data.x_train[:PROBE]
    rows = [
        name for part in sphere_groups(network, x, spheres="rows") if part["sphere"] == "rows" for name in part["names"]
    ]
    whole = [part["names"] for part in sphere_groups(network, x, spheres="groups") if part["sphere"]]
    others = [[name for name in names if name not in rows] for names in whole]
    return rows, [names for names in others if names]


def norms_of(weights: Mapping[str, Tensor], rows: Sequence[str], groups: Sequence[Sequence[str]]) -> Array:
    """The norms of rows and groups over their joint norm: [rows of all tensors + groups]."""
    squares = [weights[name].double().square().flatten(1).sum(1).numpy() for name in rows]
    squares += [np.array([sum(float(weights[name].double().square().sum()) for name in names)]) for names in groups]
    found = np.concatenate(squares)
    norms: Array = np.sqrt(found / found.sum())
    return norms


def _histogram(start: float | None, norms: Array, edges: Array) -> GroupNorms:
    counts, _ = np.histogram(np.maximum(norms, edges[0]), edges)
    return GroupNorms(start, counts.tolist(), float(norms.min()), float(np.median(norms)), float(norms.max()))
