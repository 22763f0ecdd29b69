"""Make a problem's network ready for the sphere: which of its parameters are trained, after surgery where needed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from onsphere import SymmetryError, sphere_groups
from onsphere.lab.models import ModelError
from onsphere.lab.population import Problem

PROBE = 32  # examples for the scale-invariance test


def prepare_model(problem: Problem) -> tuple[Problem, list[str]]:
    """Find the scale-invariant parameters of a problem whose ``trained`` is still empty.

    If some trainable ones are not scale-invariant, the network is made so first.

    Returns:
        The problem with ``trained`` (and ``surgery``) set, and sentences about what was changed.

    Raises:
        ModelError: The network fails on the data, has no norm layer, or stays partly not scale-invariant.
    """
    network = problem.build(0)
    check_output(problem, network)
    trained, rest = split_trainable(problem, network)
    if not rest and trained:
        return replace(problem, trained=tuple(trained)), []
    problem = replace(problem, surgery=True)
    try:
        network = problem.build(0)
    except ValueError as error:
        raise ModelError(str(error)) from error
    trained, rest = split_trainable(problem, network)
    if rest or not trained:
        listed = ", ".join(rest[:4]) + (", ..." if len(rest) > 4 else "")
        raise ModelError(
            f"{len(rest)} trainable tensors are not scale-invariant ({listed}): freeze them (requires_grad=False) "
            "or follow each by a norm layer without affine parameters"
        )
    return replace(problem, trained=tuple(trained)), [f"made scale-invariant: {network.scale_invariance}"]


def split_trainable(problem: Problem, network: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the trainable parameters that are on the joint sphere, and of those that are not."""
    x = problem.data.x_train[:PROBE]
    try:
        groups = sphere_groups(network, x)
    except SymmetryError as error:
        if isinstance(error.__cause__, Exception):
            raise ModelError(str(error)) from error
        return [], [name for name, p in network.named_parameters() if p.requires_grad]
    on = {name for group in groups if group["sphere"] for name in group["names"]}
    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    return [n for n in trainable if n in on], [n for n in trainable if n not in on]


def check_output(problem: Problem, network: nn.Module) -> None:
    """Raise :class:`ModelError` unless the network maps the data to logits."""
    x, classes = problem.data.x_train[: max(2, PROBE)], problem.data.classes
    try:
        with torch.no_grad():
            outputs = network(x)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"the network fails on images of shape {tuple(x.shape[1:])}: {reason}") from error
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (len(x), classes):
        found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ModelError(f"the network must return logits of shape [batch, {classes}], not {found}")
