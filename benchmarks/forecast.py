"""How far the forecast of the next jump is off: periodic runs of a small network, on seeds that nothing was fitted to.

Digits, MLP 64-32-32 in the whole space with weight decay. From halfway between two jumps (at least two periods behind)
the next one is forecast; errors are in units of the period that is being forecast. Beside it two naive forecasts from
the same
readings: the median past period, and "the ELR reaches the median ELR of past jumps at its present slope".
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onsphere.dynamics import zigzag_jumps
from onsphere.lab import data
from onsphere.lab.population import Copy, Plan, Problem, Readings, Shard, ShardFolder, run_shard
from onsphere.lab.preparation import prepare_model
from onsphere.monitor.forecast import forecast_jump

SEEDS = range(20, 30)
BURN_IN = 100
# batch size (0: full), lr, weight decay, steps
MINIBATCH = ((128, 1.0, 3e-3, 4000), (128, 0.3, 1e-2, 4000), (128, 1.0, 1e-3, 8000))
FULL_BATCH = ((0, 1.0, 3e-3, 4000), (0, 0.3, 1e-2, 4000), (0, 1.0, 1e-3, 8000))


def forecast() -> Iterator[str]:
    """Median error and the interval's coverage, full batch and minibatches, beside both naive forecasts."""
    for name, runs, bar in (("full batch", FULL_BATCH, 0.10), ("minibatch", MINIBATCH, 0.18)):
        rows = np.array([row for run in runs for row in _errors(_train(*run), run[1])])
        error, by_period, by_level = np.median(rows[:, :3], axis=0)
        inside = rows[:, 3].mean()
        met = error <= bar and error < min(by_period, by_level)
        yield (
            f"forecast of the next jump, {name}: median error / period {error:.3f}, bar <= {bar:g} and below the naive "
            f"{by_period:.3f} (past period) and {by_level:.3f} (past level)  {'met' if met else 'MISSED'}"
        )
        met = 0.7 <= inside <= 0.9
        verdict = "met" if met else "MISSED"
        yield f"    {len(rows)} jumps; the 80 % interval covers {100 * inside:.0f} %, bar 70 to 90 %  {verdict}"


def _train(batch_size: int, lr: float, weight_decay: float, steps: int) -> Readings:
    dataset = data.load("digits", seed=0, train=None if batch_size else 512, label_noise=0.0)
    problem = Problem(
        data=dataset,
        model="mlp",
        model_options={"widths": (32, 32), "head_norm": 10.0, "eps": 1e-12},
        geometry="space",
        radius=None,
        steps=steps,
        batch_size=batch_size or len(dataset.x_train),
        evaluations=1,
    )
    problem, _ = prepare_model(problem)
    copies = tuple(Copy(seed, lr, weight_decay) for seed in SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        run_shard(Shard("periods", copies), problem, Plan("vmap", len(copies)), Path(folder))
        return ShardFolder(Path(folder)).readings()


def _errors(readings: Readings, lr: float) -> Iterator[tuple[float, float, float, float]]:
    """Relative errors of the forecast and both naive ones, and whether the interval holds, for every jump."""
    for k in range(readings.values.shape[1]):
        elr, gradient = lr / readings.radius[:, k] ** 2, readings.effective_gradient_norm[:, k]
        jumps, log_elr = zigzag_jumps(elr, burn_in=BURN_IN), np.log(elr)
        for i in range(2, len(jumps) - 1):
            last, following = int(jumps[i]), int(jumps[i + 1])
            half, length = (last + following) // 2, following - last
            found = forecast_jump(elr[: half + 1], gradient[: half + 1], burn_in=BURN_IN)
            if found is None:
                continue
            by_period = max(last + np.median(np.diff(jumps[: i + 1])), half)
            back = max(5, (half - last) // 2)
            slope = max((log_elr[half] - log_elr[half - back]) / back, 1e-9)
            by_level = half + max((np.median(log_elr[jumps[: i + 1]]) - log_elr[half]) / slope, 0.0)
            off = [abs(step - following) / length for step in (found.step, by_period, by_level)]
            yield off[0], off[1], off[2], float(found.low - 0.5 <= following <= found.high + 0.5)
