"""Trains cells for the science checks: a grid of effective learning rates times seeds, straight through shards."""

from pathlib import Path

import numpy as np

from onsphere.lab import data
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.population import Copy, Plan, Problem, Shard, ShardFolder, run_shard
from onsphere.lab.preparation import prepare_model

SEEDS = range(5)
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def train_cells(folder, elrs, *, widths, data_name="digits", head_norm=10.0, loss="cross-entropy", **options):
    """Cells of every effective learning rate and seed, one shard for each effective learning rate."""
    training = {name: options.pop(name) for name in ("steps", "batch_size")}
    dataset = data.load(data_name, seed=0, **options)
    model_options = {"widths": widths, "head_norm": head_norm, "eps": 1e-12}
    problem = Problem(data=dataset, model="mlp", model_options=model_options, loss=loss, evaluations=10, **training)
    problem, notes = prepare_model(problem)
    assert not notes
    copies = [Copy(seed, elr) for elr in elrs for seed in SEEDS]
    cells: list[Cell] = []
    for i in range(0, len(copies), 30):
        shard = Shard(f"{i}", tuple(copies[i : i + 30]))
        assert run_shard(shard, problem, Plan("vmap", 30), folder / shard.name)
        cells += read_cells(ShardFolder(folder / shard.name), 0)
    return cells


def at(cells, elr):
    """The five seeds' cells at one effective learning rate."""
    found = [c for c in cells if c.elr == elr]
    assert len(found) == len(SEEDS)
    return found


def relative_loss(cell):
    return cell.loss / cell.loss_at_init


def violations(cells):
    """For each seed, how many cells stand out of order: fewest to remove until the labels rise with the ELR."""
    rank = {"convergence": 0, "chaotic_equilibrium": 1, "divergence": 2}
    counts = []
    for seed in SEEDS:
        labels = [rank[c.regime] for c in sorted(cells, key=lambda c: c.elr) if c.seed == seed]
        longest = [1] * len(labels)
        for i in range(len(labels)):
            longest[i] = 1 + max((longest[j] for j in range(i) if labels[j] <= labels[i]), default=0)
        counts.append(len(labels) - max(longest))
    return counts


def divergence_brackets(cells):
    """Each seed's last cell below and first cell in divergence."""
    brackets = []
    for seed in SEEDS:
        own = sorted((c for c in cells if c.seed == seed), key=lambda c: c.elr)
        low = max(c.elr for c in own if c.regime != "divergence")
        high = min(c.elr for c in own if c.regime == "divergence")
        brackets.append((low, high))
    return brackets


def check_divergence(cells):
    """The 2|3 cell is the same for every seed and where every cross-entropy set-up has it."""
    brackets = divergence_brackets(cells)
    assert len(set(brackets)) == 1, f"the 2|3 cell differs between seeds: {brackets}"
    low, high = brackets[0]
    assert low >= 4e-2
    assert high <= 4e-1


def check_grid(cells):
    """What holds on every cross-entropy set-up with a multilayer perceptron."""
    assert max(violations(cells)) <= 1
    check_divergence(cells)
    assert all(c.finite and np.isfinite(c.loss) for c in cells)
    assert {c.regime for c in cells} == {"convergence", "chaotic_equilibrium", "divergence"}
