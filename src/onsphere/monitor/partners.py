"""Tensors that a rescaling binds: what their norms do together, and how they share it.

A rescaling multiplies tensor i by a^c_i and leaves the output as it is (v by a and o by 1 / a, say). Of the norms the
function sees what no rescaling changes, their product; how the product is shared is a choice of gauge, which the
optimiser makes nevertheless: the partner with the smaller norm turns faster.

    norm product   geometric mean of ρ^(1/c) over tensors with c > 0, times that of ρ^(1/|c|) over those with c < 0
    imbalance      log of the one geometric mean over the other: a rescaling by a moves it by 2 log a

For two tensors with exponents 1 and -1 these are ρ₁ρ₂ and log(ρ₁/ρ₂).

Source: Du, Hu and Lee, NeurIPS 2018 (balance of layers under gradient flow); the form for any exponents is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.monitor.groups import Group
from onsphere.monitor.record import Record

__all__ = ["Exponents", "check_partners", "partners", "partners_title"]

Exponents = Mapping[str, int | float]


def partners_title(exponents: Exponents) -> str:
    """The names of the tensors, joined by ``~``."""
    return " ~ ".join(exponents)


def check_partners(rescalings: Sequence[Exponents], names: Sequence[str]) -> list[dict[str, float]]:
    """The rescalings of which every tensor is read and some exponents have either sign.

    Raises:
        ValueError: There are such rescalings, but of none is every tensor read.
    """
    two_sided = [one for one in rescalings if min(one.values()) < 0 < max(one.values())]
    known = [{name: float(c) for name, c in one.items()} for one in two_sided if set(one) <= set(names)]
    if two_sided and not known:
        missing = next(name for name in two_sided[0] if name not in names)
        raise ValueError(
            f"symmetries binds {partners_title(two_sided[0])}, but {missing} is not read: give model=, so that tensors "
            "have their names, and groups that hold the partners"
        )
    return known


def partners(record: Record, rescalings: Sequence[Exponents]) -> dict[str, NDArray[Any]]:
    """Norm product and imbalance of rescaling partners, one row a reading and rescaling.

    Args:
        record: The readings, in which every tensor of the rescalings has its norms.
        rescalings: Exponents by name, as :func:`check_partners` returns them.

    Returns:
        ``step``, ``group`` (the names joined by ``~``), ``norm_product`` and ``imbalance``, by step.
    """
    tensors = {tensor.name: tensor for tensor in record.watched.by_tensor}
    rows = [_read(record, tensors, one) for one in rescalings]
    steps = np.concatenate([steps for steps, _, _ in rows]) if rows else np.zeros(0, dtype=np.int64)
    order = np.argsort(steps, kind="stable")
    names = np.repeat([partners_title(one) for one in rescalings], [len(steps) for steps, _, _ in rows])
    columns = [np.concatenate([row[i] for row in rows])[order] if rows else np.zeros(0) for i in (1, 2)]
    return {"step": steps[order], "group": names[order], "norm_product": columns[0], "imbalance": columns[1]}


def _read(
    record: Record, tensors: Mapping[str, Group], exponents: Exponents
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    read = {name: record.read(tensors[name]) for name in exponents}
    steps = next(iter(read.values()))["step"]
    for one in read.values():  # tensors of several optimisers: steps that all of them read
        steps = np.intersect1d(steps, one["step"], assume_unique=True)
    with np.errstate(all="ignore"):
        logs = {n: np.log(one["norm"][np.searchsorted(one["step"], steps)]) for n, one in read.items()}
    up, down = (
        np.mean([logs[n] / abs(c) for n, c in exponents.items() if (c > 0) == positive], axis=0)
        for positive in (True, False)
    )
    return steps, np.exp(up + down), np.asarray(up - down)
