"""No false alarm on ordinary runs, and periods where there are some: real training, read as the monitor reads it."""

from pathlib import Path

import numpy as np
import pytest

from onsphere.dynamics import zigzag_jumps
from onsphere.lab import data
from onsphere.lab.population import Copy, Plan, Problem, Shard, ShardFolder, run_shard
from onsphere.lab.preparation import prepare_model
from onsphere.monitor.findings import BURN_IN, diagnose, forecast_of, jumps_of
from onsphere.monitor.history import GroupHistory

pytestmark = pytest.mark.science
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def histories(folder, copies, steps, *, every=1, batch_size=128, name="digits", widths=(32, 32), **options):
    """Every copy's readings as the group history of a monitor."""
    dataset = data.load(name, seed=0, label_noise=0.0, **({"train": None} | options))
    problem = Problem(
        data=dataset,
        model="mlp",
        model_options={"widths": widths, "head_norm": 10.0, "eps": 1e-12},
        geometry="space",
        radius=None,
        steps=steps,
        batch_size=batch_size or len(dataset.x_train),
        evaluations=1,
    )
    problem, _ = prepare_model(problem)
    assert run_shard(Shard("x", tuple(copies)), problem, Plan("vmap", len(copies)), folder)
    readings = ShardFolder(folder).readings()
    found = []
    for k, copy in enumerate(copies):
        norm2, g2, inner = (readings.moment(m)[:, k].sum(-1) for m in ("norm2", "gradient2", "inner"))
        step = copy.lr * np.sqrt(g2 / norm2)
        found.append(
            GroupHistory(
                name="sphere",
                parameters=3072,
                invariant=True,
                optimizer="SGD",
                steps=np.arange(steps)[::every],
                norm=np.sqrt(norm2)[::every],
                gradient_norm=np.sqrt(g2)[::every],
                effective_step=step[::every],
                angular_update=np.arctan2(step, 1 - copy.lr * copy.weight_decay)[::every],
                noether_residual=(np.abs(inner) / np.sqrt(norm2 * g2))[::every],
                lr=np.full(steps, copy.lr)[::every],
                weight_decay=np.full(steps, copy.weight_decay)[::every],
            )
        )
    return found


@pytest.mark.parametrize("every", [1, 10])
def test_twenty_periodic_runs_all_show_jumps_with_their_period(tmp_path, every):
    seeds = range(10)
    mini = histories(tmp_path / "mini", [Copy(s, 1.0, 3e-3) for s in seeds], 4000)
    full = histories(tmp_path / "full", [Copy(s, 1.0, 3e-3) for s in seeds], 3000, batch_size=0, train=512)
    runs = [*mini, *full]
    assert len(runs) == 20
    for run in runs:
        seen = GroupHistory(**{**vars(run), **{n: getattr(run, n)[::every] for n in ARRAYS}})
        jumps = [f for f in diagnose([seen]) if f.kind == "jump"]
        assert len(jumps) == 1 and "jumps every" in jumps[0].message and "weight decay" in jumps[0].message
        truth = np.median(np.diff(zigzag_jumps(1 / run.norm**2, burn_in=BURN_IN)))
        assert jumps[0].evidence["period"] == pytest.approx(truth, rel=0.15)
        before, last = jumps[0].evidence["steps"][-2:]
        late = np.searchsorted(seen.steps, before + 0.75 * (last - before))
        coming = forecast_of(GroupHistory(**{**vars(seen), **{n: getattr(seen, n)[:late] for n in ARRAYS}}))
        assert coming is not None and coming.low <= coming.step <= coming.high


ARRAYS = (
    *("steps", "norm", "gradient_norm", "effective_step", "angular_update", "noether_residual", "lr", "weight_decay"),
)


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="the data set is not installed")
def test_twenty_ordinary_runs_give_no_jump(tmp_path):
    """Without weight decay, and at equilibrium on data that the network cannot fit."""
    free = histories(tmp_path / "free", [Copy(s, lr) for s in range(5) for lr in (0.1, 1.0)], 3000)
    splits = ((1.0, 3e-3), (0.3, 1e-2))
    settled = histories(
        tmp_path / "settled",
        [Copy(s, lr, wd) for s in range(5) for lr, wd in splits],
        3500,
        name="fashion-mnist",
        train=2000,
        pool=4,
        widths=(48, 48),
    )
    runs = [*free, *settled]
    assert len(runs) == 20
    for run in runs:
        assert len(jumps_of(run)) == 0
        kinds = {finding.kind for finding in diagnose([run])}
        assert not kinds & {"jump", "jump expected", "invariance", "non-finite", "lr"}
    for run in settled:
        (found,) = [f for f in diagnose([run]) if f.kind == "equilibrium"]
        evidence = found.evidence
        assert evidence["angular_update"] == pytest.approx(evidence["predicted_angular_update"], rel=0.05)
        assert evidence["norm"] == pytest.approx(evidence["predicted_norm"], rel=0.05)
        assert "at equilibrium" in found.message
