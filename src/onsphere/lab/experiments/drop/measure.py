"""What is measured from the weights of both phases: averages, angles, paths, sharpness; one file a start on disk.

The average is that of the last snapshots before the drop, put back onto the sphere. Paths are great circles between
the continuations at the smallest and the largest final effective learning rate and the average; losses and errors on
them are those of training examples, batch statistics re-estimated at every point.

Source: Sadrtdinov, Kodryan et al., NeurIPS 2024 (averages and barriers after a drop).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from onsphere.curvature import top_eigenvalues
from onsphere.lab.experiment import Session
from onsphere.lab.experiments.drop.analyse import allowed_barrier
from onsphere.lab.experiments.drop.result import Average, PathBarrier
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.networks import batches, criterion, evaluate, network
from onsphere.lab.population import Problem, ShardFolder
from onsphere.landscape import angle, average, barrier

SHARPNESS_TOLERANCE = 1e-2  # relative
Point = dict[str, Tensor]


@dataclass(frozen=True)
class Place:
    """Where the weights of one copy lie.

    Attributes:
        shard: The folder of its shard.
        row: The copy's row in that shard.
    """

    shard: ShardFolder
    row: int

    def weights(self, names: Sequence[str]) -> Point:
        """The trained tensors at the end."""
        return _row(self.shard.folder / "weights.safetensors", names, self.row)

    def snapshot(self, step: int, names: Sequence[str]) -> Point:
        """The trained tensors after a step."""
        return _row(self.shard.snapshot_path(step), names, self.row)

    @property
    def alive(self) -> bool:
        """Whether the copy stayed finite."""
        return bool(_row(self.shard.folder / "weights.safetensors", ("alive",), self.row)["alive"])


@dataclass(frozen=True)
class Origin:
    """One run before the drop and those that continue it.

    Attributes:
        start: Its effective learning rate.
        seed: Index of its seed.
        place: Where its weights lie.
        continued: By final effective learning rate, where the weights of the continuations lie.
    """

    start: float
    seed: int
    place: Place
    continued: dict[float, Place]


@dataclass(frozen=True)
class Measured:
    """What one origin's weights say.

    Attributes:
        average: The average of its snapshots, or None.
        paths: The paths between its ends.
        angles: Final effective learning rates, and the angle from the drop to the end, radians; None if not finite.
        sharpness: Final effective learning rates, and the sharpness at the end; None where not measured.
    """

    average: Average | None
    paths: list[PathBarrier]
    angles: list[tuple[float, float | None]]
    sharpness: list[tuple[float, float | None]]


def measure_origins(session: Session[DropSpec, Problem], origins: Sequence[Origin]) -> list[Measured]:
    """Measure every run before the drop with those that continue it; those that are on disk are read.

    Raises:
        Interrupted: The run was asked to stop.
    """
    session.progress.begin("averages and paths", len(origins))
    return [
        session.kept(f"measured/{number:05d}", Measured, partial(_measured, session, origin), units=0, key="")
        for number, origin in session.each(list(enumerate(origins)))
    ]


def _measured(session: Session[DropSpec, Problem], origin: Origin) -> Measured:
    bench = _Bench(session.spec, session.given, origin)
    steps, names = session.given.snapshots if origin.place.alive else (), session.given.trained
    points = [origin.place.snapshot(step, names) for step in steps]
    mean = average(points) if points else None
    before, ends = origin.place.weights(names), list(origin.continued)
    return Measured(
        average=None if mean is None else bench.average(mean, points),
        paths=bench.paths(mean) if session.spec.barriers else [],
        angles=[(end, angle(before, bench.after[end]) if end in bench.after else None) for end in ends],
        sharpness=[(end, bench.sharpness(end)) for end in ends],
    )


class _Bench:
    """One origin, its networks and data."""

    def __init__(self, spec: DropSpec, problem: Problem, origin: Origin) -> None:
        self.spec, self.problem, self.origin, self.names = spec, problem, origin, problem.trained
        self.after = {end: p.weights(self.names) for end, p in sorted(origin.continued.items()) if p.alive}
        self.batches = batches(problem, "train", examples=spec.examples)

    def average(self, mean: Point, points: Sequence[Point]) -> Average:
        """The average of snapshots, ``mean``, as a network."""
        values = evaluate(self.problem, self._network(mean))
        spread = sum(angle(mean, point) for point in points) / len(points)
        return Average(self.origin.start, self.origin.seed, **values.to_dict(), spread=spread)

    def paths(self, mean: Point | None) -> list[PathBarrier]:
        """Paths between the average and both ends, as far as there are these."""
        ends: dict[str, Point] = {} if mean is None else {"average": mean}
        finals = sorted(self.origin.continued)
        for name, end in dict(low=finals[0], high=finals[-1]).items():
            if end in self.after and (name == "low" or end != finals[0]):
                ends[name] = self.after[end]
        return [self._path(f"{a}-{b}", ends[a], ends[b]) for a, b in combinations(ends, 2)]

    def sharpness(self, end: float) -> float | None:
        """Sharpness at the end of a continuation, if it is asked for and the continuation stayed finite."""
        if not self.spec.sharpness or end not in self.after:
            return None
        model, loss = self._network(self.after[end]), criterion(self.problem)
        found = top_eigenvalues(
            model, loss, self.batches, parameters=list(self.names), sphere=True, tolerance=SHARPNESS_TOLERANCE
        )
        return found.values[0]

    def _network(self, point: Point) -> nn.Module:
        return network(self.problem, {name: tensor[None] for name, tensor in point.items()}, 0, self.origin.seed)

    def _path(self, pair: Any, a: Point, b: Point) -> PathBarrier:
        found = barrier(
            self._network(a),
            self._network(a),
            self._network(b),
            criterion(self.problem),
            self.batches,
            points=self.spec.points,
            parameters=self.names,
        )
        assert found.errors is not None and found.error_barrier is not None  # labels are classes
        return PathBarrier(
            start=self.origin.start,
            seed=self.origin.seed,
            pair=pair,
            angle=found.angle,
            loss_barrier=found.loss_barrier,
            error_barrier=found.error_barrier,
            allowed=allowed_barrier(float(found.errors[0]), float(found.errors[-1]), found.examples),
        )


def _row(path: Path, names: Sequence[str], row: int) -> Point:
    """One copy's tensors, without reading those of the others."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name)[row : row + 1][0].clone() for name in names}
