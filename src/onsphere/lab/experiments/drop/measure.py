"""What is measured from the weights of both phases: averages, angles, paths, sharpness; one file a start on disk.

The average is that of the last snapshots before the drop, put back onto the sphere. Paths are great circles between
the continuations at the smallest and the largest final effective learning rate and the average; losses and errors on
them are those of training examples, batch statistics re-estimated at every point.

Source: Sadrtdinov, Kodryan et al., NeurIPS 2024 (averages and barriers after a drop).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from onsphere.curvature import top_eigenvalues
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.drop.analyse import allowed_barrier
from onsphere.lab.experiments.drop.rows import Average, PathBarrier
from onsphere.lab.networks import batches, criterion, evaluate, network
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.threads import one_thread
from onsphere.landscape import angle, average, barrier

SHARPNESS_TOLERANCE = 1e-2  # relative
Point = dict[str, Tensor]


@dataclass(frozen=True)
class Place:
    """Where the weights of one copy lie.

    Attributes:
        shard: The folder of its shard.
        row: Its row there.
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
        paths: Between its ends.
        angles: From the drop to the end, by final effective learning rate, radians; None if not finite.
        sharpness: At the end, by final effective learning rate; None where not measured.
    """

    average: Average | None
    paths: list[PathBarrier]
    angles: dict[float, float | None]
    sharpness: dict[float, float | None]


@dataclass(frozen=True)
class What:
    """What is measured.

    Attributes:
        snapshots: Steps whose weights are averaged.
        barriers: Whether paths are.
        points: Of a path.
        examples: Training images for paths and sharpness, at most.
        sharpness: Whether sharpness is.
    """

    snapshots: tuple[int, ...]
    barriers: bool
    points: int
    examples: int
    sharpness: bool


def measure(
    problem: Problem,
    origins: Sequence[Origin],
    what: What,
    folder: Path,
    progress: Progress,
    stop: Callable[[], bool],
) -> list[Measured]:
    """Measure every origin; those that are on disk are read.

    Args:
        problem: What was trained.
        origins: The runs before the drop.
        what: What is measured.
        folder: Where the numbers go, one file an origin.
        progress: Told the origins done.
        stop: Asked between origins.

    Raises:
        Interrupted: ``stop`` returned True.
    """
    folder.mkdir(exist_ok=True)
    progress.begin("averages and paths", len(origins))
    found = []
    for number, origin in enumerate(origins):
        path = folder / f"{number:05d}.json"
        if not path.exists():
            if stop():
                raise Interrupted
            with one_thread():
                write_json(path, _to_json(_Bench(problem, origin, what).measure()))
        # read back also what was just written: a resumed run sees the same numbers
        found.append(_from_json(read_json(path)))
        progress.advance(1)
    return found


class _Bench:
    """One origin, its networks and data."""

    def __init__(self, problem: Problem, origin: Origin, what: What) -> None:
        self.problem, self.origin, self.what = problem, origin, what
        self.names = problem.trained
        self.before = origin.place.weights(self.names)
        self.after = {end: p.weights(self.names) for end, p in sorted(origin.continued.items()) if p.alive}
        self.batches = batches(problem, "train", examples=what.examples)

    def measure(self) -> Measured:
        """See :class:`Measured`."""
        origin = self.origin
        points = [origin.place.snapshot(step, self.names) for step in self.what.snapshots] if origin.place.alive else []
        mean = average(points) if points else None
        return Measured(
            average=None if mean is None else self._average(mean, points),
            paths=self._paths(mean) if self.what.barriers else [],
            angles={
                end: angle(self.before, self.after[end]) if end in self.after else None for end in origin.continued
            },
            sharpness={end: self._sharpness(end) for end in origin.continued},
        )

    def _network(self, point: Point) -> nn.Module:
        return network(self.problem, {name: tensor[None] for name, tensor in point.items()}, 0, self.origin.seed)

    def _average(self, mean: Point, points: Sequence[Point]) -> Average:
        values = evaluate(self.problem, self._network(mean))
        spread = sum(angle(mean, point) for point in points) / len(points)
        return Average(self.origin.start, self.origin.seed, **values.to_dict(), spread=spread)

    def _paths(self, mean: Point | None) -> list[PathBarrier]:
        ends: dict[str, Point] = {} if mean is None else {"average": mean}
        finals = sorted(self.origin.continued)
        for name, end in dict(low=finals[0], high=finals[-1]).items():
            if end in self.after and (name == "low" or end != finals[0]):
                ends[name] = self.after[end]
        return [self._path(f"{a}-{b}", ends[a], ends[b]) for a, b in combinations(ends, 2)]

    def _path(self, pair: Any, a: Point, b: Point) -> PathBarrier:
        found = barrier(
            self._network(a),
            self._network(a),
            self._network(b),
            criterion(self.problem),
            self.batches,
            points=self.what.points,
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

    def _sharpness(self, end: float) -> float | None:
        if not self.what.sharpness or end not in self.after:
            return None
        model, loss = self._network(self.after[end]), criterion(self.problem)
        found = top_eigenvalues(
            model, loss, self.batches, parameters=list(self.names), sphere=True, tolerance=SHARPNESS_TOLERANCE
        )
        return found.values[0]


def _row(path: Path, names: Sequence[str], row: int) -> Point:
    """One copy's tensors, without reading those of the others."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name)[row : row + 1][0].clone() for name in names}


def _to_json(one: Measured) -> dict[str, Any]:
    return {
        "average": None if one.average is None else asdict(one.average),
        "paths": [asdict(path) for path in one.paths],
        "angles": [[end, value] for end, value in one.angles.items()],
        "sharpness": [[end, value] for end, value in one.sharpness.items()],
    }


def _from_json(stored: dict[str, Any]) -> Measured:
    return Measured(
        average=None if stored["average"] is None else Average(**stored["average"]),
        paths=[PathBarrier(**path) for path in stored["paths"]],
        angles={end: value for end, value in stored["angles"]},
        sharpness={end: value for end, value in stored["sharpness"]},
    )
