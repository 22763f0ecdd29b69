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


def test_a_jump_that_does_not_come_when_foreseen_is_overdue():
    norm = np.concatenate([saw(), np.exp(-np.arange(180) / 200)])  # it climbs past where the others jumped
    found = {f.kind: f for f in diagnose([made(norm)])}
    assert "a jump is overdue: the ELR is past where the forecast puts it" in found["jump expected"].message
    assert "0-0" not in found["jump"].message and "the next is overdue" in found["jump"].message


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


@pytest.mark.parametrize("end", [0.0, 0.2])
def test_a_schedule_is_judged_from_its_peak_to_where_it_still_moves(end):
    lr = np.concatenate([np.linspace(0, 1, 50), np.linspace(1, end, 250)])
    (found,) = [f for f in diagnose([made(np.exp(-np.arange(300) / 300), lr=lr, wd=0.0)]) if f.kind == "schedule"]
    assert "since the peak of the lr at step 49" in found.message and found.evidence["since"] == 49
    assert found.evidence["elr_factor"] / found.evidence["lr_factor"] == pytest.approx(np.exp(2 * 249 / 300), rel=0.02)
    assert kinds(made(np.exp(-np.arange(300) / 300), lr=np.linspace(0, 1, 300), wd=0.0)) == []  # it still rises


def growing(balance, noise=0.0, steps=4000):
    """A norm that moves by so much in a relaxation time, and noise that remembers as long."""
    relaxation, generator, level = 250.0, np.random.default_rng(0), np.zeros(steps)
    for t in range(1, steps):
        level[t] = level[t - 1] * (1 - 1 / relaxation) + noise * np.sqrt(2 / relaxation) * generator.normal()
    norm = 3 * np.exp(balance * np.arange(steps) / relaxation + level)
    (found,) = [f for f in diagnose([made(norm, g=1 / norm, wd=0.01)]) if f.kind == "equilibrium"]
    assert found.evidence["relaxation_steps"] == pytest.approx(relaxation, rel=0.01)
    return found


@pytest.mark.parametrize("balance, settled", [(1e-3, True), (0.03, True), (-0.03, True), (0.12, False), (-0.12, False)])
def test_a_norm_is_settled_by_how_it_moves_not_by_where_it_is(balance, settled):
    found = growing(balance)
    assert ("at equilibrium, decay and growth balance" in found.message) == settled
    assert found.evidence["balance"] == pytest.approx(balance, rel=0.01)
    assert settled or ("grows on its way" if balance > 0 else "shrinks on its way") in found.message
    assert (found.evidence["steps_to_equilibrium"] == 0) == settled


def test_noise_is_told_from_drift_up_to_a_point():
    assert "at equilibrium" in growing(0.0, noise=0.03).message.split(";")[0]
    assert "on its way" in growing(0.3, noise=0.03).message


def test_what_many_groups_have_to_say_is_said_once():
    broken = np.ones(300)
    broken[250:] = np.nan
    earlier = np.where(np.arange(300) >= 200, np.nan, 1.0)
    several = [made(broken, name=f"sphere {i}", title=f"layers.{i}.q") for i in range(1, 5)]
    first = made(earlier, name="sphere", title="layers.0.q")
    (found,) = [f for f in diagnose([*several, first]) if f.kind == "non-finite"]
    assert found.message.startswith("layers.0.q and 4 other groups: 100 of 300 readings are not finite, the first at ")
    assert set(found.evidence["groups"]) == {"sphere"} | {f"sphere {i}" for i in range(1, 5)}
    assert len([f for f in diagnose(several[:3]) if f.kind == "non-finite"]) == 3
    loose = [made(np.ones(300), name=f"s{i}", noether_residual=np.full(300, 0.1 * (i + 1))) for i in range(5)]
    (found,) = diagnose(loose)
    assert found.message.startswith("s4 and 4 other groups: not scale-invariant (Noether residual 0.5")
    assert [f.kind for f in diagnose([made(np.ones(300), name=f"s{i}", lr=0.0) for i in range(5)])] == ["lr"]


def test_missing_and_tiny_gradients():
    angles = {"a": np.full(300, 0.01), "b": np.zeros(300)}
    (found,) = diagnose([made(np.ones(300), tensors=angles, frozen=("b",))])
    assert found.kind == "no gradient" and found.evidence == {"tensors": ["b"]}
    (found,) = diagnose([made(np.ones(300), tensors=angles, frozen=("b",), noether_residual=np.full(300, 0.3))])
    assert found.kind == "invariance" and found.severity == "info"
    adam = {"optimizer": "AdamW", "betas": (0.9, 0.999), "wd": 0.0}
    assert kinds(made(np.ones(300), g=0.9, eps=0.1, **adam)) == ["eps"]  # 100 numbers: 0.09 each
    assert kinds(made(np.ones(300), g=1.1, eps=0.1, **adam)) == kinds(made(np.ones(300), g=0.9, **adam)) == []


def test_low_precision_is_no_blur_and_no_jump_off_a_sphere():
    blurred = np.full(300, 1e-3)
    assert kinds(made(np.ones(300), noether_residual=blurred)) == ["invariance"]
    assert kinds(made(np.ones(300), noether_residual=blurred, resolution=2.0**-7)) == []
    rounded = 1 + 1e-3 * np.sin(np.arange(300))
    held = {"noether_residual": np.full(300, 0.3), "resolution": 2.0**-7}
    assert kinds(made(rounded, held=True, **held)) == ["spheres by choice"]
    assert "invariance" in kinds(made(rounded, held=False, **held))
    assert "invariance" in kinds(made(1 + 0.02 * np.sin(np.arange(300)), held=True, **held))


def test_series_must_match():
    with pytest.raises(ValueError, match="series of one length"):
        forecast_jump(np.ones(4), np.ones(3))
