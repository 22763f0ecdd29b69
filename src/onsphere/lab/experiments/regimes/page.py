"""The page of a regime map: reads the run's readings, bins them into curves, and hands them to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onsphere import __version__
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_engine
from onsphere.lab.experiments.regimes.classify import ORTHOGONAL_STEP, Cell
from onsphere.lab.experiments.regimes.result import RegimesResult
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.population import ShardFolder
from onsphere.lab.report.regimes import write_regimes_report
from onsphere.lab.report.regimes_view import Curve, RegimesView
from onsphere.lab.store import Run

BINS = 80  # points of a curve; each is a mean over steps / 80 minibatches


def write_page(run: Run, result: RegimesResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run; its shards hold the readings.
        result: Its result.

    Returns:
        The page.
    """
    timings = read_engine(run)["timings"]
    view = RegimesView(
        title="The three regimes on the sphere",
        subtitle=subtitle(result.spec),
        curves=curves(run, result.cells),
        cells=[cell.to_dict() for cell in result.cells],
        boundaries={name: boundary.to_dict() for name, boundary in result.boundaries.items()},
        spec=result.spec,
        command=command(result.spec),
        toml=to_toml(result.spec),
        environment=run.manifest["environment"],
        engine=result.engine | {"timings (CPU s per copy and step)": timings},
        seconds=result.seconds,
        version=__version__,
        divergence_angle=ORTHOGONAL_STEP,
    )
    return write_regimes_report(view, run.folder)


def curves(run: Run, cells: list[Cell]) -> list[Curve]:
    """The course of every run, as means over bins of steps."""
    regime = {(cell.elr, cell.seed): cell.regime for cell in cells}
    found = []
    for folder in run.shard_folders():
        shard = ShardFolder(folder)
        readings = shard.readings()
        steps, evaluations = shard.evaluations()
        middles, edges = _bins(len(readings.values))
        loss, gradient = (_binned(v, edges) for v in (readings.loss, readings.effective_gradient_norm))
        for k, copy in enumerate(shard.copies()):
            if (copy.lr, copy.seed) in regime:
                found.append(
                    Curve(
                        elr=copy.lr,
                        seed=copy.seed,
                        regime=regime[copy.lr, copy.seed],
                        steps=middles,
                        loss=loss[:, k],
                        gradient_norm=gradient[:, k],
                        evaluation_steps=steps,
                        test_error=evaluations[:, k, 3],
                    )
                )
    return sorted(found, key=lambda curve: (curve.elr, curve.seed))


def subtitle(spec: dict[str, Any]) -> str:
    """What was trained on what, in a line."""
    images = f"{spec['train']} images" if spec["train"] else "all training images"
    noise = f", {100 * spec['label_noise']:g} % label noise" if spec["label_noise"] else ""
    widths = spec["widths"] or ((64, 64) if spec["model"] == "mlp" else ())
    width = spec["width"] or (32 if spec["model"] in ("convnet", "resnet18") else "")
    size = "-".join(map(str, widths)) or (f"of width {width}" if width else "")
    parts = [f"{spec['data']}, {images}{noise}", f"{spec['model']} {size}".strip(), spec["loss"]]
    return " · ".join([*parts, f"{spec['steps']} steps, batch {spec['batch_size']}"])


def command(spec: dict[str, Any]) -> str:
    """The shell command that repeats the run: the fields that differ from the defaults."""
    if spec["data"] == "arrays":
        return "onsphere.lab.map_regimes(model, arrays, **fields)  # own arrays, in Python; the fields are below"
    return to_command("regimes", RegimesSpec, spec, none={"train": "all"})


def _bins(steps: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.unique(np.linspace(0, steps, BINS + 1).round().astype(int))
    return (edges[:-1] + edges[1:] - 1) / 2, edges


def _binned(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of the finite values in each bin, [bins, K]; NaN where there are none."""
    finite = np.isfinite(values)
    sums = np.add.reduceat(np.where(finite, values, 0.0), edges[:-1], axis=0)
    counts = np.add.reduceat(finite, edges[:-1], axis=0, dtype=float)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
