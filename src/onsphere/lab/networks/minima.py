"""What is measured of weights that copies left on disk: averages, angles, paths between them, sharpness.

                on the sphere                                  in the whole space
    average     mean of directions, put back onto the sphere   plain mean of the weights
    path        great circle                                   straight line of all weights (chord)
    angle       over all trained weights                       over the scale-invariant ones; NaN where there are none

Batch statistics are re-estimated over training images wherever something is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from onsphere.curvature import top_eigenvalues
from onsphere.lab.networks import Evaluation, batches, criterion, evaluate, network
from onsphere.lab.population import Problem, ShardFolder
from onsphere.landscape import Barrier, angle, average, barrier
from onsphere.landscape.barriers import PathKind

SHARPNESS_TOLERANCE = 1e-2  # relative
Point = dict[str, Tensor]  # trained tensors by name, without a leading axis


@dataclass(frozen=True)
class Place:
    """Where the weights of one copy lie: the folder of its shard, and its row there."""

    shard: ShardFolder
    row: int

    def weights(self, names: Sequence[str]) -> Point:
        """Those of some names at the end of training."""
        return self._read(self.shard.folder / "weights.safetensors", names)

    def snapshot(self, step: int, names: Sequence[str]) -> Point:
        """Those of some names after a step."""
        return self._read(self.shard.snapshot_path(step), names)

    @property
    def alive(self) -> bool:
        """Whether the copy stayed finite."""
        return bool(self.weights(("alive",))["alive"])

    def _read(self, path: Path, names: Sequence[str]) -> Point:
        """The copy's tensors, without reading those of the others."""
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name)[self.row : self.row + 1][0].clone() for name in names}


@dataclass(frozen=True)
class Minima:
    """Measures weights of one seed of a problem.

    Attributes:
        problem: The problem that was trained.
        invariant: Names of the scale-invariant tensors among the trained ones; on the sphere all of them.
        seed: Seed of the copies, from which their other tensors follow.
        examples: Training images, the first so many, for paths and sharpness; None for all.
    """

    problem: Problem
    invariant: tuple[str, ...]
    seed: int
    examples: int | None = None

    @property
    def kind(self) -> PathKind:
        """The path that belongs to the geometry."""
        return "geodesic" if self.problem.geometry == "sphere" else "chord"

    def built(self, point: Point) -> nn.Module:
        """The network with these weights; its batch statistics are those of its initialisation."""
        return network(self.problem, {name: tensor[None] for name, tensor in point.items()}, 0, self.seed)

    def evaluated(self, point: Point) -> Evaluation:
        """Losses and errors on all images."""
        return evaluate(self.problem, self.built(point))

    def angle(self, a: Point, b: Point) -> float:
        """Radians between two points over the scale-invariant weights; NaN where there are none."""
        if not self.invariant:
            return math.nan
        return angle({name: a[name] for name in self.invariant}, {name: b[name] for name in self.invariant})

    def mean(self, points: Sequence[Point]) -> Point:
        """The average of points, in the order of training."""
        if self.problem.geometry == "sphere":
            mean: Point = average(points)
            return mean
        stacked = {name: torch.stack([point[name].double() for point in points]) for name in points[0]}
        return {name: values.mean(0).to(points[0][name].dtype) for name, values in stacked.items()}

    def path(
        self, a: Point, b: Point, points: int, kind: PathKind | None = None, split: Literal["train", "test"] = "train"
    ) -> Barrier:
        """Losses and errors between two points on training images, or on all test images; see :func:`barrier`."""
        first, second = self.built(a), self.built(b)
        training = batches(self.problem, "train", examples=self.examples)
        return barrier(
            first,
            first,
            second,
            criterion(self.problem),
            training if split == "train" else batches(self.problem, "test"),
            points=points,
            path=kind or self.kind,
            parameters=self.invariant or None,
            statistics=None if split == "train" else training,
        )

    def sharpness(self, point: Point) -> float:
        """Top eigenvalue of the training-mode Hessian on the unit sphere of the scale-invariant weights, to 1 %."""
        images = batches(self.problem, "train", examples=self.examples)
        found = top_eigenvalues(
            self.built(point),
            criterion(self.problem),
            images,
            parameters=list(self.invariant),
            sphere=True,
            tolerance=SHARPNESS_TOLERANCE,
        )
        return found.values[0]
