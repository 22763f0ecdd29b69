"""The three set-ups of the periodic behaviour: which parameters are trained, and of which network.

    scale-invariant    norms without affine parameters, frozen head: every trained weight is scale-invariant
    all-parameters     the norms have weights and biases and the head is trained from its default initial weights;
                       ELR, norm and gradient are those of the scale-invariant tensors alone, or of some of them:
                       gains that start at one add their number to the norm's square, and the published code counts
                       convolutions only
    practical          the same with momentum 0.9

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 4 (set-ups); augmentation and schedules are options of
any set-up (``Problem.augment``, ``Problem.schedule``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from onsphere import SymmetryError, sphere_groups
from onsphere.groups import Only
from onsphere.lab import models
from onsphere.lab.experiments.periods.spec import Setup
from onsphere.lab.models import ModelError
from onsphere.lab.options import InputError
from onsphere.lab.population import Problem
from onsphere.lab.preparation import PROBE, check_output, split_trainable
from onsphere.lab.progress import Progress
from onsphere.lab.training import prepared

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class AllTrained:
    """A factory of networks all of whose parameters are trained.

    Reference networks get affine batch norms and a trained head with PyTorch's default weights; a network of one's own
    is taken as it is.

    Attributes:
        model: A name of :mod:`onsphere.lab.models`, a path to a factory, or a factory.
    """

    model: str | Callable[..., nn.Module]

    def __call__(self, **given: Any) -> nn.Module:
        """Build the network; torch's CPU generator is seeded by whoever calls."""
        # The same seed once more: hidden weights are those of the scale-invariant network.
        network = models.build(self.model, seed=torch.default_generator.initial_seed(), **given)
        if self.model not in models.MODELS:
            return network
        for module in network.modules():
            if isinstance(module, _BATCH_NORMS) and not module.affine:
                module.affine = True
                module.weight = nn.Parameter(torch.ones(module.num_features))
                module.bias = nn.Parameter(torch.zeros(module.num_features))
        head: Any = network.get_submodule("head")
        head.reset_parameters()
        head.requires_grad_(True)
        return network


@dataclass(frozen=True)
class Ready:
    """A problem that can be trained.

    Attributes:
        problem: The problem with its trained tensors named.
        invariant: Names of the scale-invariant tensors among them that ELR, norm and gradient are those of.
        widths: The problem of every width, where there are several.
    """

    problem: Problem
    invariant: tuple[str, ...]
    widths: dict[int, Problem] = field(default_factory=dict)


def ready(problem: Problem, setup: Setup, progress: Progress, only: Only = None, *, any_network: bool = False) -> Ready:
    """Give a problem the network of a set-up, and name its trained and its scale-invariant tensors.

    Args:
        problem: A problem that is not yet prepared.
        setup: The set-up whose network it gets.
        progress: Told what was changed in the network.
        only: Which of the scale-invariant tensors count, as for :func:`onsphere.sphere_groups`; None: all.
        any_network: Whether a network all of whose parameters are trained may have nothing that is scale-invariant.

    Raises:
        InputError: The network cannot be trained so, nothing in it is scale-invariant, or what counts is not so by
            itself.
    """
    if setup == "scale-invariant":
        whole = prepared(problem, progress)
        return Ready(whole, _counted(whole, whole.trained, only))
    invariant: list[str] = []

    def prepare(given: Problem) -> tuple[Problem, list[str]]:
        network = given.build(0)
        check_output(given, network)
        found, rest = split_trainable(given, network)
        if not found and not any_network:
            raise ModelError(
                "no trainable tensor is scale-invariant: follow linear or convolution layers by norm layers"
            )
        invariant.extend(found)
        trained = tuple(name for name, parameter in network.named_parameters() if parameter.requires_grad)
        notes = [f"trained: {len(found)} scale-invariant tensors and {len(rest)} others"]
        return replace(given, trained=trained), notes

    whole = prepared(replace(problem, model=AllTrained(problem.model)), progress, prepare)
    return Ready(whole, _counted(whole, tuple(invariant), only))


def _counted(problem: Problem, invariant: tuple[str, ...], only: Only) -> tuple[str, ...]:
    """Those of the scale-invariant tensors that count."""
    if only is None:
        return invariant
    try:
        groups = sphere_groups(problem.build(0), problem.data.x_train[:PROBE], only=only)
    except SymmetryError as error:
        given = only if isinstance(only, str) else ",".join(only)
        raise InputError(f"--elr-of: {str(error).replace(f'only={only!r}', repr(given), 1)}") from error
    return tuple(groups[0]["names"])
