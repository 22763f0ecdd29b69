"""What ``--plan`` says beside what the run then takes: four small real runs, each planned and made in one call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import line
from onsphere.lab.registry import ENTRIES

#: Experiments with fields under which training is most of the work.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "map of an mlp, 30 copies a call": ("regimes", {"workers": 2}),
    "map of a ConvNet of width 4": (
        "regimes",
        {"model": "convnet", "width": 4, "steps": 150, "elrs": 6, "seeds": 1, "refine": 1, "workers": 2},
    ),
    "periods, learning rates by decays": ("periods", {"steps": 6000, "workers": 1}),
    "three set-ups of training": ("landscape conventional", {"steps": 4000, "workers": 1}),
}


def four() -> Iterator[str]:
    """Planned time, processor time and disk over what was measured; the first is to be within 25 %."""
    for name, (command, fields) in RUNS.items():
        experiment = next(entry for entry in ENTRIES if entry.command == command).experiment
        plan = experiment.plan(**fields)
        with TemporaryDirectory() as folder:
            result = experiment.start(out=Path(folder) / "run", **fields)
            disk = sum(path.stat().st_size for path in (Path(folder) / "run" / "shards").rglob("*") if path.is_file())
        ratio = plan.seconds / result.seconds
        yield line(
            f"plan / run, {name} ({result.seconds:.0f} s)", (max(ratio, 1 / ratio), ratio, ratio), 1.25, at_most=True
        )
        yield f"    processor time {plan.processor_seconds / result.cpu_seconds:.3g}, disk {plan.disk_bytes / disk:.3g}"
