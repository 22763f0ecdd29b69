"""Make a problem's network ready for the sphere: which of its parameters are trained, after surgery where needed."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import nn

from onsphere import SymmetryError, sphere_groups
from onsphere.lab.models import ModelError
from onsphere.lab.population import Problem
from onsphere.lab.population.spheres import Kind

PROBE = 32  # examples for the scale-invariance test


def prepare_model(problem: Problem) -> tuple[Problem, list[str]]:
    """Find the scale-invariant parameters of a problem whose ``trained`` is still empty.

    If some trainable ones are not scale-invariant, the network is made so first.

    Returns:
        The problem with ``trained`` (and ``surgery`` and the groups of ``spheres``) set, and sentences about what was
        changed.

    Raises:
        ModelError: The network fails on the data, has no norm layer, stays partly not scale-invariant, or has no
            spheres of the kind that the problem asks for.
    """
    network = problem.build(0)
    check_output(problem, network)
    trained, rest = split_trainable(problem, network)
    if not rest and trained:
        return _with_spheres(replace(problem, trained=tuple(trained)), network), []
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
    ready = _with_spheres(replace(problem, trained=tuple(trained)), network)
    return ready, [f"made scale-invariant: {network.scale_invariance}"]


def prepare_with_others(problem: Problem) -> tuple[Problem, list[str]]:
    """Put the scale-invariant weights of a problem on spheres and train every other trainable parameter beside them.

    On spheres are the scale-invariant groups that hold a weight of two or more dimensions. Groups of gains and biases
    alone, which are scale-invariant ahead of the next norm, are among the others, as the published code has it.

    Returns:
        The problem with ``trained`` and ``spheres`` set, and a sentence about what is trained.

    Raises:
        ModelError: The network fails on the data, has no scale-invariant weight, has nothing else that is trained, or
            has no spheres of the kind that the problem asks for.
    """
    network = problem.build(0)
    check_output(problem, network)
    shapes = {name: p.dim() for name, p in network.named_parameters() if p.requires_grad}
    try:
        found = _groups(problem, network, "groups")
    except SymmetryError as error:
        raise ModelError(str(error)) from error
    weights = {name for group in found if any(shapes[name] > 1 for name in group) for name in group}
    if not weights:
        raise ModelError("no trainable weight is scale-invariant: follow linear or convolution layers by norm layers")
    invariant = tuple(name for name in shapes if name in weights)
    others = tuple(name for name in shapes if name not in weights)
    if not others:
        raise ModelError(
            "every trainable tensor is scale-invariant: no head is trained; make it trainable (requires_grad=True), or "
            "leave the head frozen"
        )
    spheres = replace(problem.spheres, free=others)
    notes = [f"trained: {len(invariant)} scale-invariant tensors on spheres and {len(others)} others beside them"]
    return _with_spheres(replace(problem, trained=invariant + others, spheres=spheres), network), notes


def _with_spheres(problem: Problem, network: nn.Module) -> Problem:
    """The problem with the groups of its spheres.

    Raises:
        ModelError: Rows were asked for, and some are not scale-invariant by themselves.
    """
    kind = problem.spheres.kind
    if kind == "joint":
        return problem
    found = _groups(problem, network, kind)
    if kind == "groups":
        own = tuple(tuple(group) for group in found if set(group) <= set(problem.invariant))
        missing = [name for name in problem.invariant if sum(name in group for group in own) != 1]
        if missing:
            raise ModelError(f"{missing[0]} is in no scale-invariant group, or in several: --spheres joint is allowed")
        return replace(problem, spheres=replace(problem.spheres, groups=own))
    wrong = [name for name in problem.invariant if name not in found[0]]
    if wrong:
        listed = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise ModelError(
            f"single filters of {len(wrong)} of the {len(problem.invariant)} tensors ({listed}) are not scale-invariant"
            ", as where several write to one residual stream: --spheres rows would change the function; "
            "allowed are joint and groups"
        )
    return problem


def _groups(problem: Problem, network: nn.Module, kind: Kind) -> list[list[str]]:
    """Names of the tensors of each sphere; for rows those that are scale-invariant row by row, which may be none."""
    with warnings.catch_warnings():  # of the eps, which the search for the joint sphere has given
        warnings.simplefilter("ignore", UserWarning)
        found = sphere_groups(network, problem.data.x_train[:PROBE], spheres=kind)
    if kind == "rows":
        return [next((list(group["names"]) for group in found if group["sphere"] == "rows"), [])]
    return [list(group["names"]) for group in found if group["sphere"]]


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
