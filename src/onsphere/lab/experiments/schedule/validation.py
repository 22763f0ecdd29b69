"""Images to tune on that are neither trained on nor reported: training images of a named data set left over.

    the data set's fixed order:   [ trained on: --train ][ validation: the next 5000 at most ][ not used ]

Where none are left over (own arrays, all images used) there is no validation set, and methods are tuned on the test
set, which favours the methods with more settings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onsphere.lab import data as datasets
from onsphere.lab.data import Dataset
from onsphere.lab.data.transforms import standardise_floats
from onsphere.lab.experiments.schedule.spec import ScheduleSpec
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.population.engine import State
from onsphere.lab.population.evaluate import Evaluator

MOST, LEAST = 5000, 200


def validation_set(spec: ScheduleSpec, data: Any) -> Dataset | None:
    """The training set with the left-over images as its test part, or None if there are too few.

    Args:
        spec: What was asked for.
        data: The data as given: only a named data set has images left over.
    """
    if not isinstance(data, str) or spec.train is None:
        return None
    shared: dict[str, Any] = {"data_dir": spec.data_dir, "pool": spec.pool, "test": 1, "seed": spec.seed}
    everything = datasets.load(data, label_noise=0.0, standardise=False, **shared)
    left = len(everything.x_train) - spec.train
    if left < LEAST:
        return None
    part = slice(spec.train, spec.train + min(left, MOST))
    inputs = everything.x_train[part].numpy()
    if spec.standardise:
        inputs = standardise_floats(everything.x_train[: spec.train].numpy(), inputs)[1]
    trained = datasets.load(
        data, train=spec.train, label_noise=spec.label_noise, standardise=spec.standardise, **shared
    )
    return replace(trained, x_test=torch.from_numpy(inputs), y_test=everything.y_train[part])


def validation_errors(shards: list[ShardFolder], problem: Problem, validation: Dataset) -> NDArray[np.float64]:
    """Error of every copy's final weights on the validation images, as the engine evaluates: float64 [copies]."""
    there = replace(problem, data=validation)
    errors = []
    for shard in shards:
        weights = shard.weights()
        constant = tuple(name for name in weights if name not in problem.trained and name != "alive")
        state = State(
            params=[weights[name].to(problem.device) for name in problem.trained],
            buffers=[],
            constants=[weights[name].to(problem.device) for name in constant],
            alive=weights["alive"],
            radius=torch.ones(len(weights["alive"])),
            step=problem.steps,
        )
        errors.append(Evaluator(there, constant)(state)[:, 3].numpy())
    return np.concatenate(errors)
