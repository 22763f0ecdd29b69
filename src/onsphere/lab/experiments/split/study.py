"""What a study trains: the splits of every budget, a pool of networks of each width, the problem of each pool.

budget -> splits -> widths       splits of different budgets with the same width share its pool
width  -> problem, pool size     seeds x members networks; with ``predict`` four
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onsphere.ensembles import Split
from onsphere.lab.experiments.split.family import Family, pooling_factor, prepare_whole, splits_of
from onsphere.lab.experiments.split.spec import PREDICTION_POOL, SplitSpec
from onsphere.lab.population import Copy, Problem
from onsphere.lab.preparation import prepare_model
from onsphere.lab.progress import Progress
from onsphere.lab.regime_map import map_run, proposed_by
from onsphere.lab.store.place import check_destination
from onsphere.lab.training import Data, Model, check_batch_size, check_device, check_sendable, load_data, prepared

Labels = NDArray[np.int64]


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
    def narrowest(self) -> Problem:
        """The problem of the narrowest networks, for what all problems share."""
        return next(iter(self.problems.values()))

    @property
    def labels(self) -> Labels:
        """Classes of the test images, [N]."""
        found: Labels = self.narrowest.data.y_test.cpu().numpy()
        return found

    @property
    def parameters(self) -> dict[int, int]:
        """Parameters of one network of each width."""
        return {split.width: split.parameters for own in self.splits.values() for split in own}


def handed_down(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with the ELR that a map hands down in place of the map, so that the run no longer needs it.

    Args:
        fields: What the user gave.

    Raises:
        InputError: The folder of ``map`` holds no ended regime map or it does not say where convergence ends, or the
            file of ``save`` could not be written.
    """
    given = dict(fields)
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
    check_sendable(model, spec.workers)
    family = Family.of(model, spec, dataset)
    splits = splits_of(spec, family)
    every = sorted((split for own in splits.values() for split in own), key=lambda s: (s.width, s.members))
    everything = {split.width: spec.seeds * split.members for split in every}  # the largest split of a width is last
    sphere = spec.geometry == "sphere"
    narrowest = Problem(
        data=dataset,
        model=model,
        model_options=family.options(min(everything)),
        geometry=spec.geometry,
        radius=1.0 if sphere else None,
        steps=spec.steps,
        batch_size=spec.batch_size,
        evaluations=1,
        seed=spec.seed,
        dtype=getattr(torch, spec.dtype),
        device=spec.device,
        schedule="constant" if sphere else spec.schedule,
        optimizer="sgd" if sphere else spec.optimizer,
    )
    ready = prepared(narrowest, progress, prepare_model if sphere else prepare_whole)
    return Study(
        family=family,
        splits=splits,
        problems={width: replace(ready, model_options=family.options(width)) for width in everything},
        sizes=dict.fromkeys(everything, PREDICTION_POOL) if spec.predict else everything,
        everything=everything,
    )


def copies_of(spec: SplitSpec, members: int) -> list[Copy]:
    """The networks of a pool."""
    if spec.geometry == "sphere":
        assert spec.elr is not None, "the spec or its map says it"
        return [Copy(seed, spec.elr) for seed in range(members)]
    momentum = spec.momentum if spec.optimizer == "sgd" else 0.0
    return [Copy(seed, spec.lr_used, spec.weight_decay, momentum) for seed in range(members)]
