"""A family of networks of one architecture in all widths, and the images that they see."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from onsphere.ensembles import BudgetError, Split, splits
from onsphere.lab import models
from onsphere.lab.data import Dataset
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.models import ModelError
from onsphere.lab.options import InputError
from onsphere.lab.population import Problem
from onsphere.lab.preparation import check_output

EPS = 1e-12
#: Sides of the images that are known by name.
SIDES = {"digits": 8, "fashion-mnist": 28, "cifar10": 32, "cifar100": 32}


@dataclass(frozen=True)
class Family:
    """Makes the network of a width.

    Attributes:
        model: A name of :mod:`onsphere.lab.models`, ``package.module:factory``, or a callable that returns a module.
        layers: Hidden layers, for networks that take ``widths``.
        input_shape: Shape of one example.
        classes: How many outputs there are.
        head_norm: Frobenius norm of a frozen last layer.
        takes: The argument that carries the width: ``width``, or ``widths``, one for every layer.
    """

    model: str | Callable[..., nn.Module]
    layers: int
    input_shape: tuple[int, ...]
    classes: int
    head_norm: float
    takes: str

    @classmethod
    def of(cls, model: str | Callable[..., nn.Module], spec: SplitSpec, data: Dataset) -> Family:
        """The family of a spec.

        Raises:
            InputError: There is no such model, or it has no width.
        """
        try:
            name, factory = models.resolve(model)
            parameters = inspect.signature(factory).parameters
        except (ModelError, TypeError, ValueError) as error:
            raise InputError(f"--model: {error}") from error
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        takes = "width" if "width" in parameters or (anything and "widths" not in parameters) else "widths"
        if takes not in parameters and not anything:
            raise InputError(
                f"--model: {name} takes neither width nor widths; a memory split needs networks of any width"
            )
        return cls(model, spec.layers, data.input_shape, data.classes, spec.head_norm, takes)

    def options(self, width: int) -> dict[str, Any]:
        """What :func:`onsphere.lab.models.build` takes besides the model, input shape and classes."""
        size: dict[str, Any] = {"width": width} if self.takes == "width" else {"widths": (width,) * self.layers}
        return size | {"head_norm": self.head_norm, "eps": EPS}

    def __call__(self, width: int) -> nn.Module:
        """The network of a width."""
        return models.build(
            self.model, input_shape=self.input_shape, classes=self.classes, seed=0, **self.options(width)
        )


def splits_of(spec: SplitSpec, family: Family) -> dict[int, list[Split]]:
    """The splits of every budget.

    Raises:
        InputError: A budget is too small for that many networks, or the family does not grow with its width.
    """
    found: dict[int, list[Split]] = {}
    for budget in spec.budget:
        try:
            found[budget] = splits(budget, family, spec.members, unit=spec.unit)
        except BudgetError as error:
            raise InputError(f"--budget: {error}") from error
        except (ModelError, TypeError, ValueError) as error:
            raise InputError(f"--model: {error}") from error
        _check_different(found[budget])
    return found


def _check_different(found: Sequence[Split]) -> None:
    """InputError where rounding gives two splits of a budget one width, so that one is not what it says."""
    for i, split in enumerate(found):
        for other in found[:i]:
            if other.width == split.width:
                raise InputError(
                    f"--budget: {split.budget:,} {split.unit} is too small to tell {other.members} from "
                    f"{split.members} members: both round to width {split.width}; leave one out of --members"
                )


def pooling_factor(data: str, pool: int) -> int:
    """The factor that ``--pool`` means: itself or the side to pool to, whichever leaves larger images.

    Args:
        data: Name of the data set; for any other the factor is the number itself.
        pool: What was given. One that does not divide the side is returned as it is, and refused by the loader.
    """
    side = SIDES.get(data)
    return pool if side is None or side % pool else min(pool, side // pool)


def prepare_whole(problem: Problem) -> tuple[Problem, list[str]]:
    """Train every trainable parameter, in the whole space.

    Raises:
        ModelError: The network fails on the data or has nothing to train.
    """
    network = problem.build(0)
    check_output(problem, network)
    trained = tuple(name for name, parameter in network.named_parameters() if parameter.requires_grad)
    if not trained:
        raise ModelError("the network has no trainable parameter")
    return replace(problem, trained=trained), []
