"""A synthetic map of the three regimes like a real one: 12 ELRs x 5 seeds and each seed's refinements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onsphere.lab.report.regimes import Curve, RegimesView

END_OF_CONVERGENCE, ONSET_OF_DIVERGENCE, LOSS_AT_INIT = 4.2e-3, 0.125, 4.3


def _regime(elr: float, seed: int) -> str:
    if elr < END_OF_CONVERGENCE * (1 + 0.06 * (seed - 2)):
        return "convergence"
    return "chaotic_equilibrium" if elr < ONSET_OF_DIVERGENCE * (1 + 0.04 * (seed - 2)) else "divergence"


def _run(elr: float, seed: int, round_: int) -> tuple[Curve, dict[str, Any]]:
    rng = np.random.default_rng([seed, round(-1e4 * np.log10(elr)) % 2**31])
    regime = _regime(elr, seed)
    steps = np.linspace(25, 2500, 60)
    evaluation_steps = np.linspace(0, 2500, 26)
    noise = rng.normal(size=60)
    if regime == "convergence":
        loss = LOSS_AT_INIT / (1 + (elr / 1e-4) ** 0.7 * steps / 45) ** 1.25 * np.exp(0.06 * noise)
        norm = 9 * (loss / LOSS_AT_INIT) ** 0.55 * (elr / 1e-4) ** -0.22 * np.exp(0.05 * noise)
        error = 0.24 - 0.012 * np.log10(elr / 1e-4) + 0.65 * np.exp(-evaluation_steps * elr**0.4 / 12)
    elif regime == "chaotic_equilibrium":
        level = 0.5 * (elr / 0.06) ** 0.75
        loss = LOSS_AT_INIT * (level + (1 - level) * np.exp(-steps / 90)) * np.exp(0.16 * noise)
        norm = 11 * (loss / LOSS_AT_INIT) ** 0.2 * np.exp(0.09 * rng.normal(size=60))
        error = 0.2 + 0.55 * (elr / 0.12) ** 0.8 + 0.5 * np.exp(-evaluation_steps / 120)
    else:
        loss = LOSS_AT_INIT * (1.1 + 0.1 * np.log10(elr / 0.1)) * np.exp(0.04 * noise)
        norm = 40 * (elr / 0.1) ** 3.5 * np.exp(0.1 * noise) + 10
        error = np.full(26, 0.89)
    error = np.clip(error + 0.012 * rng.normal(size=26), 0, 1)
    angle = float(np.arctan(elr * norm[-15:].mean()))
    if regime == "divergence":
        angle = 1.45 + 0.02 * rng.random()
    trend = float(loss[-15:].mean() / loss[-30:-15].mean())
    cell = {
        "elr": elr,
        "seed": seed,
        "regime": regime,
        "reason": f"angular update {angle:.3g} rad, trend {trend:.2f}",
        "loss": float(loss[-15:].mean()),
        "loss_at_init": LOSS_AT_INIT * (1 + 0.01 * seed),
        "train_error": {
            "convergence": 0.0,
            "chaotic_equilibrium": 0.3 * (elr / 0.03) ** 0.6,
            "divergence": 0.88,
        }[regime],
        "test_error": float(error[-1]),
        "angular_update": angle,
        "trend": trend,
        "gradient_norm": float(norm[-15:].mean()),
        "finite": True,
        "round": round_,
    }
    return Curve(elr, seed, regime, steps, loss, norm, evaluation_steps, error), cell


def build_view(seeds: int = 5, elrs: int = 12, refine: int = 2) -> RegimesView:
    grid = [float(elr) for elr in np.geomspace(1e-4, 1.0, elrs)]
    runs = [_run(elr, seed, 0) for seed in range(seeds) for elr in grid]
    per_seed: dict[str, list[dict[str, Any]]] = {"convergence": [], "divergence": []}
    for seed in range(seeds):
        for name, inside in (
            ("convergence", lambda regime: regime == "convergence"),
            ("divergence", lambda regime: regime != "divergence"),
        ):
            low = max(elr for elr in grid if inside(_regime(elr, seed)))
            high = min(elr for elr in grid if elr > low)
            for round_ in range(1, refine + 1):
                middle = float(np.sqrt(low * high))
                runs.append(_run(middle, seed, round_))
                low, high = (middle, high) if inside(_regime(middle, seed)) else (low, middle)
            per_seed[name].append({"seed": seed, "low": low, "high": high})
    boundaries = {
        name: {
            "low": min(entry["low"] for entry in entries),
            "high": max(entry["high"] for entry in entries),
            "resolved": True,
            "reason": "every seed has runs on both sides, and runs below reach a training error under 1 %",
            "per_seed": entries,
        }
        for name, entries in per_seed.items()
    }
    return RegimesView(
        title="Three regimes of training on the sphere",
        subtitle="digits, 500 images, 25 % label noise · MLP 64-64 · cross-entropy",
        curves=[curve for curve, _ in runs],
        cells=[cell for _, cell in runs],
        boundaries=boundaries,
        spec={"data": "digits", "train": 500, "label_noise": 0.25, "elrs": elrs, "seeds": seeds},
        command=f"onsphere regimes --data digits --train 500 --label-noise .25 --elrs {elrs} --seeds {seeds}",
        toml=f'data = "digits"\ntrain = 500\nlabel_noise = 0.25\nelrs = {elrs}\nseeds = {seeds}\n',
        environment={"python": "3.11.9", "torch": "2.13.0", "processor": "x86-64", "cores": 2},
        engine={"mode": "vmap", "chunk": 30, "compiled": True, "workers": 2},
        seconds=41.7,
        version="0.1.0",
    )


@pytest.fixture(scope="session")
def view() -> RegimesView:
    return build_view()


@pytest.fixture(scope="session")
def make_view() -> Callable[..., RegimesView]:
    return build_view
