"""Findings on made-up readings: what is said, and that nothing is said without a reason."""

import numpy as np
import pytest

from onsphere.monitor.findings import diagnose, forecast_of, jumps_of
from onsphere.monitor.forecast import forecast_jump
from onsphere.monitor.history import GroupHistory


def made(norm, *, g=1.0, lr=0.1, wd=0.01, **other):
    steps = len(norm)
    fill = lambda x: np.full(steps, x) if np.ndim(x) == 0 else np.asarray(x, dtype=float)  # noqa: E731
    g, lr = fill(g), fill(lr)
    values = {
        "name": "sphere",
        "parameters": 100,
        "invariant": True,
        "optimizer": "SGD",
        "steps": np.arange(steps),
        "norm": np.asarray(norm, dtype=float),
        "gradient_norm": g,
        "effective_step": lr * g / norm,
        "angular_update": np.arctan(lr * g / norm),
        "noether_residual": np.full(steps, 1e-7),
        "lr": lr,
        "weight_decay": fill(wd),
    }
    return GroupHistory(**(values | other))


def saw(period=100, count=8, depth=1.0, rate=None):
    """Norms of a run that jumps every ``period`` steps."""
    t = np.arange(period * count) % period
    return np.exp(-depth / 2 * t / period)


def kinds(history):
    return [finding.kind for finding in diagnose([history])]


def test_a_saw_tooth_is_periodic_and_the_next_tooth_is_forecast():
    norm = saw()[:-30]
    found = {f.kind: f for f in diagnose([made(norm)])}
    jump = found["jump"]
    assert jump.severity == "warning" and jump.evidence["period"] == 100
    assert "jumps every ~100 steps (lr·wd = 0.001)" in jump.message and "fixed ELR" in str(jump)
    coming = forecast_of(made(norm))
    assert coming.low <= 800 <= coming.high and abs(coming.step - 800) < 20
    assert coming.period == 100 and coming.last == 699
    late = {f.kind for f in diagnose([made(saw()[:-2])])}
    assert "jump expected" in late
    assert forecast_jump(1 / norm[:150] ** 2, np.ones(150)) is None


def test_what_is_no_jump():
    decays, grows = np.exp(-np.arange(600) / 400), np.exp(np.arange(600) / 400)
    assert len(jumps_of(made(decays))) == len(jumps_of(made(grows))) == 0
    # an lr schedule moves the ELR, not the weights
    stepped = np.where(np.arange(600) % 200 < 100, 0.1, 0.01)
    assert "jump" not in kinds(made(np.ones(600), lr=stepped))
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=2000))
    assert len(jumps_of(made(noise))) == 0


def test_held_norms_are_not_judged_by_weight_decay():
    assert kinds(made(np.ones(300))) == []
    assert forecast_of(made(np.ones(300))) is None


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_the_way_to_equilibrium_is_told(optimizer):
    norm = 3 + np.exp(-np.arange(300) / 300)
    other = {"optimizer": optimizer, "betas": (0.9, 0.999) if optimizer == "AdamW" else None}
    (found,) = [f for f in diagnose([made(norm, g=1 / norm, **other)]) if f.kind == "equilibrium"]
    assert "on its way to equilibrium" in found.message and found.evidence["steps_to_equilibrium"] > 0
    assert found.evidence["predicted_norm"] == pytest.approx(1.4955 if optimizer == "SGD" else 22.36, rel=0.01)


def test_layers_invariance_lr_and_numbers():
    angles = {f"layer{i}": np.full(300, 0.01) for i in range(5)} | {"fast": np.full(300, 0.1)}
    (found,) = [f for f in diagnose([made(np.ones(300), tensors=angles)]) if f.kind == "rotation"]
    assert "fast (10x) turns faster than the rest" in found.message
    found = diagnose([made(np.ones(300), noether_residual=np.full(300, 0.3))])
    assert found[0].kind == "invariance" and found[0].severity == "alarm" and "sphere_groups" in found[0].message
    assert kinds(made(np.ones(300), noether_residual=np.full(300, 1e-3))) == ["invariance"]
    assert kinds(made(np.ones(300), noether_residual=np.full(300, 0.3), invariant=False)) == []
    assert kinds(made(np.ones(300), lr=0.0)) == ["lr"]
    broken = np.ones(300)
    broken[250:] = np.nan
    found = diagnose([made(broken)])[0]
    assert found.kind == "non-finite" and found.evidence == {"group": "sphere", "readings": 50, "first_step": 250}
    assert diagnose([made(np.full(300, np.nan))])[0].kind == "non-finite"
    assert diagnose([made(np.ones(0))]) == []


def test_a_schedule_is_seen_as_the_elr_sees_it():
    norm = np.exp(-np.arange(300) / 200)
    found = {f.kind: f for f in diagnose([made(norm, lr=np.linspace(1, 0.5, 300))])}
    assert "the lr fell to 50 %" in found["schedule"].message and found["schedule"].evidence["elr_factor"] > 5


def test_series_must_match():
    with pytest.raises(ValueError, match="series of one length"):
        forecast_jump(np.ones(4), np.ones(3))
