"""What a study trains: a family of networks in all widths, the splits of every budget, the problem of each width.

budget -> splits -> widths       splits of different budgets with the same width share its pool
width  -> problem, pool size     seeds x members networks; with ``predict`` four
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from onsphere.ensembles import BudgetError, Split, splits
from onsphere.lab import models
from onsphere.lab.data import Dataset
from onsphere.lab.experiments.split.spec import PREDICTION_POOL, SplitSpec, published
from onsphere.lab.models import ModelError
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, Phase, Problem
from onsphere.lab.preparation import check_output, prepare_model
from onsphere.lab.progress import Progress
from onsphere.lab.regime_map import map_run, proposed_by
from onsphere.lab.store.place import check_destination
from onsphere.lab.training import (
    Data,
    Model,
    check_batch_size,
    check_device,
    check_images,
    check_placement,
    check_sendable,
    load_data,
    prepared,
)

EPS = 1e-12
#: Sides of the images that are known by name.
SIDES = {"digits": 8, "fashion-mnist": 28, "cifar10": 32, "cifar100": 32}
Labels = NDArray[np.int64]


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


@dataclass(frozen=True, eq=False)
class Study:
    """What is trained.

    Attributes:
        family: The networks of all widths.
        splits: The splits of each budget.
        problems: The problem of each width, narrow ones first.
        sizes: How many networks of each width are trained.
        everything: How many of each width all splits take, which a prediction does not train.
    """

    family: Family
    splits: dict[int, list[Split]]
    problems: dict[int, Problem]
    sizes: dict[int, int]
    everything: dict[int, int]

    @property
    def data(self) -> Dataset:
        """The data, which all problems share."""
        return next(iter(self.problems.values())).data

    @property
    def labels(self) -> Labels:
        """Classes of the test images, [N]."""
        found: Labels = self.data.y_test.cpu().numpy()
        return found


def handed_down(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with those that a preset or a map hands down, in place of the map, which the run no longer needs.

    Args:
        fields: What the user gave.

    Raises:
        InputError: There is no published recipe to fill in, the folder of ``map`` holds no ended regime map or it does
            not say where convergence ends, or the file of ``save`` could not be written.
    """
    given = published(fields) if fields.get("preset") == "paper" else dict(fields)
    if isinstance(given.get("save"), str):
        check_destination(Path(given["save"]), "--save")
    if given.get("map") is None or given.get("elr") is not None or given.get("geometry") != "sphere":
        return given  # nothing to hand down, or not allowed together, as the spec will say
    run = map_run(given.pop("map"))
    return given | {"elr": proposed_by(run.result(), run.folder).bracket[0]}


def prepare(spec: SplitSpec, model: Model, data: Data, progress: Progress) -> Study:
    """The study of a spec.

    Raises:
        InputError: Data, batch size, device, model or budgets are not usable.
    """
    factor = pooling_factor(data, spec.pool) if isinstance(data, str) else spec.pool
    dataset = load_data(spec.model_copy(update={"pool": factor}), spec.seed, data)
    check_batch_size(spec.batch_size, dataset)
    check_device(spec.device)
    check_placement(spec.placement)
    check_sendable(model, spec.senders)
    if spec.augment:
        check_images(dataset)
    family = Family.of(model, spec, dataset)
    splits = splits_of(spec, family)
    every = sorted((split for own in splits.values() for split in own), key=lambda s: (s.width, s.members))
    everything = {split.width: spec.seeds * split.members for split in every}  # the largest split of a width is last
    options = {width: family.options(width) | _dropout(spec, model, width) for width in everything}
    sphere = spec.geometry == "sphere"
    narrowest = Problem(
        data=dataset,
        model=model,
        model_options=options[min(everything)],
        geometry=spec.geometry,
        radius=1.0 if sphere else None,
        steps=spec.steps,
        batch_size=spec.batch_size,
        evaluations=1,
        seed=spec.seed,
        dtype=getattr(torch, spec.dtype),
        device=spec.device,
        schedule="cosine" if spec.schedule == "cosine" and not sphere else "constant",
        augment=spec.augment,
        optimizer="sgd" if sphere else spec.optimizer,
    )
    ready = prepared(narrowest, progress, prepare_model if sphere else _prepare_whole)
    return Study(
        family=family,
        splits=splits,
        problems={width: replace(ready, model_options=options[width]) for width in everything},
        sizes=dict.fromkeys(everything, PREDICTION_POOL) if spec.predict else everything,
        everything=everything,
    )


def pooling_factor(data: str, pool: int) -> int:
    """The factor that ``--pool`` means: itself or the side to pool to, whichever leaves larger images.

    It is the number itself for data of unknown side, or of one that it does not divide, which the loader refuses.
    """
    side = SIDES.get(data)
    return pool if side is None or side % pool else min(pool, side // pool)


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
        for one, other in combinations(found[budget], 2):
            if one.width == other.width:  # by rounding, so that one of them is not what it says
                raise InputError(
                    f"--budget: {budget:,} {spec.unit} is too small to tell {one.members} from {other.members} "
                    f"members: both round to width {one.width}; leave one out of --members"
                )
    return found


def _prepare_whole(problem: Problem) -> tuple[Problem, list[str]]:
    """Train every trainable parameter, in the whole space."""
    network = problem.build(0)
    check_output(problem, network)
    trained = tuple(name for name, parameter in network.named_parameters() if parameter.requires_grad)
    if not trained:
        raise ModelError("the network has no trainable parameter")
    return replace(problem, trained=trained), []


def _dropout(spec: SplitSpec, model: Model, width: int) -> dict[str, float]:
    """What the network of a width is told of dropout: nothing where there is none, as before there was the field.

    Raises:
        InputError: The model takes no dropout.
    """
    chance = spec.settings_of(width)["dropout"]
    if not chance:
        return {}
    name, factory = models.resolve(model)
    parameters = inspect.signature(factory).parameters
    if "dropout" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise InputError(f"--dropout: {chance:g} is not allowed: {name} takes no dropout (vgg16 and wrn28 do)")
    return {"dropout": chance}


def copies_of(spec: SplitSpec, members: int, width: int) -> list[Copy]:
    """The networks of a pool."""
    if spec.geometry == "sphere":
        assert spec.elr is not None, "the spec or its map says it"
        return [Copy(seed, spec.elr) for seed in range(members)]
    own = spec.settings_of(width)
    momentum = spec.momentum if spec.optimizer == "sgd" else 0.0
    phases = paper_phases(own["lr"], spec.steps) if spec.schedule == "paper" else ()
    return [Copy(seed, own["lr"], own["weight_decay"], momentum, phases) for seed in range(members)]


def paper_phases(lr: float, steps: int) -> tuple[Phase, ...]:
    """The published schedule over ``steps`` (at least 8) steps.

        lr(t) = lr                                  t <= steps / 2
                lr (1 - 0.99 (t / steps - 0.5) / 0.4)     to 9 / 10 of the steps
                lr / 100                            after them

    Source: Lobacheva, Chirkova et al. 2020, with epochs in place of steps.
    """

    def factor(step: int) -> float:
        return 1 - 0.99 * min(max(step / steps - 0.5, 0.0), 0.4) / 0.4

    fall, late = -(-steps // 2), 9 * steps // 10  # whole steps within the linear part, at both of its ends
    return (
        Phase(0, lr),
        Phase(fall, lr * factor(fall), lr * factor(late), "linear"),
        Phase(late, lr * factor(late)),
        Phase(late + 1, lr * factor(steps)),
    )
