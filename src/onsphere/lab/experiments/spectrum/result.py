"""The result of a spectrum: what every run is like at matched loss and at its end, pairs of minima, trends."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onsphere.lab.experiments.regimes.classify import Regime
from onsphere.lab.experiments.spectrum.trends import Trend, pair_trend, trends_of
from onsphere.lab.old_result import frame, vouched
from onsphere.lab.store import Run
from onsphere.lab.store.seal import plain


@dataclass(frozen=True)
class Point:
    """What a network is like at one step of its training; None for what is not finite.

    Attributes:
        step: Steps done.
        batch_loss: Mean loss over the minibatches of the gradient norm, batch statistics of each minibatch.
        gradient_norm: Mean effective norm of the stochastic gradient at fixed weights, batch statistics as above.
        gradient_norm_error: Its standard error over minibatches.
        sharpness: Top eigenvalue of the Hessian on the unit sphere, batch statistics of batches of 512.
        sharpness_error: Bound on its error (:mod:`onsphere.curvature.lanczos`).
        train_loss: On all training images, batch statistics re-estimated over them; so are the next three.
        train_error: Fraction of training images.
        test_loss: On all test images.
        test_error: Fraction of test images.
        angle: From the initial weights, radians.
    """

    step: int
    batch_loss: float | None
    gradient_norm: float | None
    gradient_norm_error: float | None
    sharpness: float | None
    sharpness_error: float | None
    train_loss: float | None
    train_error: float | None
    test_loss: float | None
    test_error: float | None
    angle: float | None


@dataclass(frozen=True)
class SpectrumRun:
    """One run.

    Attributes:
        elr: Effective learning rate.
        seed: Seed.
        regime: Its label by the rules of :mod:`onsphere.lab.experiments.regimes.classify`.
        finite: Whether it stayed finite.
        matched: Where its train loss first came to the target; None if its running loss never reached it.
        end: At its last step; None if it did not stay finite.
    """

    elr: float
    seed: int
    regime: Regime
    finite: bool
    matched: Point | None
    end: Point | None

    @classmethod
    def of(cls, values: dict[str, Any]) -> SpectrumRun:
        """The run from what ``asdict`` gave."""
        points = {name: None if values[name] is None else Point(**values[name]) for name in ("matched", "end")}
        return cls(**values | points)


@dataclass(frozen=True)
class Pair:
    """The minima that two effective learning rates reach from the same initial weights.

    Attributes:
        seed: Seed.
        low: The smaller effective learning rate.
        high: The larger.
        angle: Between the final weights, radians.
        loss_barrier: Rise of the train loss on the great circle above the line between the ends.
        error_barrier: The same of the train error, fraction.
        position: Where on the path the loss barrier is, 0 at ``low``.
    """

    seed: int
    low: float
    high: float
    angle: float
    loss_barrier: float | None
    error_barrier: float | None
    position: float


@dataclass(frozen=True, repr=False)
class SpectrumResult:
    """What :func:`onsphere.lab.experiments.spectrum.run.map_spectrum` returns.

    Attributes:
        run: The run's folder.
        report: The page.
        target: Loss at which runs were compared; None if no run is in convergence and none was given.
        runs: One row a run, by effective learning rate, then seed.
        pairs: One row a seed and pair of effective learning rates.
        spec: What was asked for.
        engine: How it was executed: mode, chunk, compiled, workers.
        seconds: Wall-clock seconds of this call.
        cpu_seconds: Processor seconds of all shards, those of earlier, interrupted calls included.
    """

    run: Path
    report: Path
    target: float | None
    runs: list[SpectrumRun]
    pairs: list[Pair]
    spec: dict[str, Any]
    engine: dict[str, Any]
    seconds: float
    cpu_seconds: float

    @property
    def elrs(self) -> list[float]:
        """The effective learning rates, ascending."""
        return sorted({run.elr for run in self.runs})

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return sorted({run.seed for run in self.runs})

    @property
    def trends(self) -> list[Trend]:
        """How each quantity goes with the effective learning rate, at matched loss and at the end."""
        return trends_of(self.runs)

    def trend(self, where: str, quantity: str) -> Trend:
        """One of them.

        Args:
            where: "matched" or "end".
            quantity: An attribute of :class:`Point`.
        """
        return next(t for t in self.trends if (t.where, t.quantity) == (where, quantity))

    @property
    def barriers(self) -> Trend:
        """How the barrier between the minimum of the smallest ELR and another one goes with the other's ELR."""
        return pair_trend(self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints and ``result.json`` holds; None for what is not finite."""
        values = {
            "command": "landscape spectrum",
            "run": str(self.run),
            "report": str(self.report),
            "target": self.target,
            "trends": [asdict(trend) for trend in [*self.trends, self.barriers]],
            "runs": [asdict(run) for run in self.runs],
            "pairs": [asdict(pair) for pair in self.pairs],
            "spec": self.spec,
            "engine": self.engine,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }
        return dict(plain(values))

    @classmethod
    @vouched
    def load(cls, run: Run) -> SpectrumResult:
        """Read the result of an ended run.

        Raises:
            InputError: The run has no result yet.
        """
        stored = run.result()
        return cls(
            run=run.folder,
            report=run.folder / "report.html",
            runs=[SpectrumRun.of(row) for row in stored["runs"]],
            pairs=[Pair(**row) for row in stored["pairs"]],
            **{name: stored[name] for name in ("target", "spec", "engine", "seconds", "cpu_seconds")},
        )

    def to_frame(self) -> Any:
        """The runs as a pandas data frame, one row a run and place ("matched", "end").

        Raises:
            ImportError: pandas is not installed.
        """
        rows = [
            {"elr": run.elr, "seed": run.seed, "regime": run.regime, "where": where, **asdict(point)}
            for run in self.runs
            for where, point in (("matched", run.matched), ("end", run.end))
            if point is not None
        ]
        return frame(rows)

    def __repr__(self) -> str:
        lines = [f"SpectrumResult: {len(self.runs)} runs, {len(self.seeds)} seeds, {self.seconds:.0f} s"]
        lines += [f"  {trend}" for trend in [*self.trends, self.barriers] if trend.changes]
        lines.append(f"  page: {self.report}")
        return "\n".join(lines)
