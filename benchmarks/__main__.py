"""``python -m benchmarks [NAME ...]``: print measured ratios; one core, process CPU time, medians."""

from __future__ import annotations

import platform
import sys

import torch

from benchmarks import (
    curvature,
    ensembles,
    executors,
    kept,
    listing,
    monitor,
    optimizer,
    plans,
    population,
    sharded,
    spectra,
    symmetry,
    toys,
)

BENCHMARKS = {
    "mlp": population.mlp,
    "convnet": population.convnet,
    "telemetry": population.telemetry,
    "optimizer": optimizer.step,
    "kept": kept.steps,
    "sharded": sharded.steps,
    "workers": population.workers,
    "plans": plans.four,
    "listing": listing.thousand,
    "executors": executors.shards,
    "toys": toys.pairs,
    "symmetry": symmetry.everything,
    "monitor": monitor.overhead,
    "curvature": curvature.top,
    "spectra": spectra.survey,
    "ensembles": ensembles.everything,
}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"unknown benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread")
    print("ratio: median (range over rounds)")
    for name in names or BENCHMARKS:
        for row in BENCHMARKS[name]():
            print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
