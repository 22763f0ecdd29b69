"""Equilibria against simulations with random tangent gradients, and the generalised equilibrium."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere import dynamics

SIZE, COPIES = 400, 24


def simulate(optimizer, lr, decay, steps, *, momentum=0.0, betas=(0.9, 0.999), start=None, seed=0, g=1.0):
    """ρ [steps + 1, copies] and rms angles of weights under isotropic tangent gradients of effective norm g."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(COPIES, SIZE))
    x *= (start or 1.0) / np.linalg.norm(x, axis=1, keepdims=True)
    first, second = np.zeros_like(x), np.zeros_like(x)
    radii, angles = [np.linalg.norm(x, axis=1)], []
    for t in range(1, steps + 1):
        square = (x * x).sum(axis=1, keepdims=True)
        noise = generator.normal(size=x.shape)
        noise -= x * (x * noise).sum(axis=1, keepdims=True) / square
        # Of unit norm on the unit sphere; for adamw and lion only its direction counts.
        noise *= g / (np.linalg.norm(noise, axis=1, keepdims=True) * np.sqrt(square))
        before = x
        if optimizer in ("sgd", "momentum"):
            first = momentum * first + noise + decay * x
            x = x - lr * first
        elif optimizer == "adamw":
            first = betas[0] * first + (1 - betas[0]) * noise
            second = betas[1] * second + (1 - betas[1]) * noise**2
            update = first / (1 - betas[0] ** t) / (np.sqrt(second / (1 - betas[1] ** t)) + 1e-30)
            x = (1 - lr * decay) * x - lr * update
        else:
            update = np.sign(betas[0] * first + (1 - betas[0]) * noise)
            first = betas[1] * first + (1 - betas[1]) * noise
            x = (1 - lr * decay) * x - lr * update
        radii.append(np.linalg.norm(x, axis=1))
        chord = np.linalg.norm(before / radii[-2][:, None] - x / radii[-1][:, None], axis=1)
        angles.append(2 * np.arcsin(chord / 2))
    return np.array(radii), np.array(angles)


def settled(radii, angles):
    half = len(angles) // 2
    return (radii[half:] ** 4).mean(), (radii[half:] ** 2).mean(), np.sqrt((angles[half:] ** 2).mean())


def test_sgd_reaches_the_numbers_of_the_theory():
    found = dynamics.equilibrium("sgd", lr=0.1, weight_decay=0.01, gradient_norm=1.0)
    assert found.radius**4 == pytest.approx(5.0025, abs=1e-4)
    assert np.cos(found.angular_update) == pytest.approx(1 - 0.001, abs=1e-9)
    assert found.elr == pytest.approx(np.sqrt(2 * 0.001 - 0.001**2), rel=1e-12)
    fourth, _, angle = settled(*simulate("sgd", 0.1, 0.01, 2000, start=1.5))
    assert fourth == pytest.approx(found.radius**4, rel=1e-3)
    assert angle == pytest.approx(found.angular_update, rel=1e-3)


@pytest.mark.parametrize(("momentum", "lr", "decay"), [(0.9, 0.1, 0.01), (0.5, 0.1, 0.01), (0.9, 0.2, 0.1)])
def test_momentum_agrees(momentum, lr, decay):
    found = dynamics.equilibrium("momentum", lr=lr, weight_decay=decay, momentum=momentum, gradient_norm=1.0)
    fourth, _, angle = settled(*simulate("momentum", lr, decay, 1500, momentum=momentum, start=found.radius))
    assert fourth == pytest.approx(found.radius**4, rel=0.02)
    assert angle == pytest.approx(found.angular_update, rel=0.005)


@pytest.mark.parametrize(("beta1", "lr", "decay"), [(0.9, 1e-2, 0.2), (0.5, 1e-2, 0.2), (0.0, 3e-2, 0.5)])
def test_adamw_agrees(beta1, lr, decay):
    known = {"lr": lr, "weight_decay": decay, "betas": (beta1, 0.999), "parameters": SIZE}
    found = dynamics.equilibrium("adamw", **known)
    _, square, angle = settled(*simulate("adamw", lr, decay, 2400, betas=(beta1, 0.999), start=found.radius))
    assert square == pytest.approx(found.radius**2, rel=0.02)
    assert angle == pytest.approx(found.angular_update, rel=0.005)


@pytest.mark.parametrize(("betas", "lr", "decay"), [((0.9, 0.99), 1e-2, 0.2), ((0.95, 0.98), 3e-3, 1.0)])
def test_lion_agrees(betas, lr, decay):
    known = {"lr": lr, "weight_decay": decay, "betas": betas, "parameters": SIZE}
    found = dynamics.equilibrium("lion", **known)
    _, square, angle = settled(*simulate("lion", lr, decay, 3000, betas=betas, start=found.radius))
    assert square == pytest.approx(found.radius**2, rel=0.02)
    assert angle == pytest.approx(found.angular_update, rel=0.01)


def test_leading_orders_are_those_of_the_papers():
    """The relative distance to the leading-order formulas shrinks in proportion to lr * weight_decay."""
    formulas = {
        "sgd": ({"gradient_norm": 1.0}, lambda p: (0.1**2 / (2 * p)) ** 0.25, 2.0),
        "momentum": ({"gradient_norm": 1.0, "momentum": 0.9}, lambda p: (0.1**2 / (2 * p * 0.1)) ** 0.25, 2.0 / 1.9),
        "adamw": ({"parameters": 50}, lambda p: np.sqrt(0.1**2 * 50 / (2 * p)), 2.0 * 0.1 / 1.9),
    }
    for name, (known, radius, rate) in formulas.items():
        errors = []
        for product in (1e-2, 1e-3, 1e-4):
            found = dynamics.equilibrium(name, lr=0.1, weight_decay=product / 0.1, **known)
            errors.append((found.radius / radius(product) - 1, found.angular_update / np.sqrt(rate * product) - 1))
        for coarse, fine in itertools.pairwise(errors):
            np.testing.assert_allclose(np.divide(fine, coarse), 0.1, rtol=0.2, err_msg=name)


def test_sgd_momentum_zero_and_adamw_without_memory_are_special_cases():
    known = {"lr": 0.3, "weight_decay": 0.2, "gradient_norm": 2.0}
    sgd = dynamics.equilibrium("sgd", **known)
    ball = dynamics.equilibrium("momentum", momentum=0.0, **known)
    assert ball.to_dict() == pytest.approx(sgd.to_dict(), rel=1e-12)
    adam = dynamics.equilibrium("adamw", lr=0.3, weight_decay=0.2, betas=(0.0, 0.9))
    assert np.cos(adam.angular_update) == pytest.approx(1 - 0.06, rel=1e-12)
    assert adam.radius is None and adam.elr is None


def test_gradients_measured_elsewhere_and_noise_enter_as_they_should():
    unit = dynamics.equilibrium("sgd", lr=0.1, weight_decay=0.01, gradient_norm=3.0)
    there = dynamics.equilibrium("sgd", lr=0.1, weight_decay=0.01, gradient_norm=0.6, radius=5.0)
    noisy = dynamics.equilibrium("sgd", lr=0.1, weight_decay=0.01, gradient_norm=2.0, noise_trace=5.0)
    assert there == unit
    assert noisy.radius == pytest.approx(unit.radius, rel=1e-14)
    grid = dynamics.equilibrium("sgd", lr=[0.1, 0.2], weight_decay=[[0.01], [0.02], [0.03]], gradient_norm=1.0)
    assert grid.radius.shape == grid.angular_update.shape == grid.relaxation_steps.shape == (3, 2)


@given(lr=st.floats(1e-3, 1), product=st.floats(1e-5, 0.4), g=st.floats(0.01, 100))
@settings(max_examples=40)
def test_the_sgd_equilibrium_is_the_fixed_point_of_the_step(lr, product, g):
    found = dynamics.equilibrium("sgd", lr=lr, weight_decay=product / lr, gradient_norm=g)
    step = dynamics.sgd_step(found.radius, g / found.radius, lr, product / lr)
    assert step.radius == pytest.approx(found.radius, rel=1e-12)
    assert step.angle == pytest.approx(found.angular_update, rel=1e-9)
    assert step.elr == pytest.approx(found.elr, rel=1e-12)


@pytest.mark.parametrize("product", [1e-3, 1e-2, 0.1, 0.4])
def test_relaxation_is_that_of_the_recurrence(product):
    """A small distance from equilibrium shrinks by e in relaxation_steps; 4 lr wd a step when that is small."""
    lr, decay = 0.1, product / 0.1
    found = dynamics.equilibrium("sgd", lr=lr, weight_decay=decay, gradient_norm=1.0)
    radius, distances = found.radius * (1 + 1e-6), []
    for _ in range(4):
        distances.append(abs(radius**4 - found.radius**4))
        radius = dynamics.sgd_step(radius, 1 / radius, lr, decay).radius
    rate = -np.log(distances[3] / distances[0]) / 3
    assert 1 / found.relaxation_steps == pytest.approx(rate, rel=1e-3)
    if product == 1e-3:
        assert rate == pytest.approx(4 * product, rel=0.01)


@pytest.mark.parametrize(("start", "tolerance"), [(6.0, 0.01), (3.0, 0.05), (1.2, 0.01)])
def test_time_to_equilibrium(start, tolerance):
    known = {"lr": 0.1, "weight_decay": 0.01, "gradient_norm": 1.0}
    target = dynamics.equilibrium("sgd", **known).radius
    radius, steps = start, 0
    while abs(radius / target - 1) > tolerance:
        radius, steps = dynamics.sgd_step(radius, 1 / radius, 0.1, 0.01).radius, steps + 1
    assert dynamics.steps_to_equilibrium(start, tolerance=tolerance, **known) == pytest.approx(steps, rel=0.02, abs=2)
    assert dynamics.steps_to_equilibrium(target * 1.001, tolerance=tolerance, **known) == 0


def test_time_to_equilibrium_of_momentum_and_adamw():
    ball = {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.9, "gradient_norm": 1.0}
    target = dynamics.equilibrium("momentum", **ball).radius
    radii, _ = simulate("momentum", 0.02, 0.01, 900, momentum=0.9, start=2 * target)
    mean = (radii**4).mean(axis=1) ** 0.25
    arrived = int(np.argmax(mean < 1.05 * target))
    assert dynamics.steps_to_equilibrium(2 * target, "momentum", tolerance=0.05, **ball) == pytest.approx(
        arrived, rel=0.1
    )
    # The second moment must forget faster than the norm changes.
    adam = {"lr": 1e-2, "weight_decay": 0.1, "parameters": SIZE, "betas": (0.9, 0.98)}
    target = dynamics.equilibrium("adamw", **adam).radius
    radii, _ = simulate("adamw", 1e-2, 0.1, 2200, betas=(0.9, 0.98), start=2 * target)
    arrived = int(np.argmax(np.sqrt((radii**2).mean(axis=1)) < 1.05 * target))
    assert dynamics.steps_to_equilibrium(2 * target, "adamw", tolerance=0.05, **adam) == pytest.approx(arrived, rel=0.1)


# -- generalised equilibrium -----------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), lr=st.floats(1e-3, 1), product=st.floats(0, 0.5), steps=st.integers(1, 200))
@settings(max_examples=50)
def test_the_window_identity_is_exact(seed, lr, product, steps):
    g = np.random.default_rng(seed).lognormal(size=steps)
    run = dynamics.elr_schedule(np.full(steps, lr), product / lr, radius=1.7, effective_gradient_norm=g)
    s = dynamics.effective_step(run.radius[:-1], g / run.radius[:-1], lr)
    residual = dynamics.averaged_law_residual(run.radius, s, lr, product / lr)
    assert abs(residual) < 1e-9
    found = dynamics.generalised_equilibrium(s, lr, product / lr)
    assert found.drift * steps == pytest.approx(2 * np.log(run.radius[-1] / run.radius[0]), abs=1e-9)
    assert found.jumpiness >= -1e-9


def test_equilibrium_is_the_case_without_drift_and_jumps():
    s = dynamics.equilibrium("sgd", lr=0.1, weight_decay=0.01, gradient_norm=1.0).elr
    calm = dynamics.generalised_equilibrium(np.full(100, s), 0.1, 0.01)
    assert calm.drift == pytest.approx(0, abs=1e-15) and calm.jumpiness == pytest.approx(0, abs=1e-9)
    assert calm.mean_square_step == pytest.approx(calm.balance, rel=1e-12)
    wild = dynamics.generalised_equilibrium([0.0] * 99 + [2.0], 0.1, 0.01)
    assert wild.jumpiness > 5


@given(seed=st.integers(0, 2**31), lr=st.floats(0.01, 1), product=st.floats(1e-3, 0.1), spread=st.floats(0, 1))
@settings(max_examples=30)
def test_the_norm_band_holds(seed, lr, product, spread):
    """Gradients anywhere in [ℓ, L], with ℓ/L from the smallest that the bound allows to one."""
    decay, high = product / lr, 2.0
    least = np.tan(dynamics.equilibrium("sgd", lr=lr, weight_decay=decay).angular_update)
    low = high * (least * 1.0001 + spread * (1 - least * 1.0001))
    band = dynamics.norm_band(low, high, lr, decay)
    assert band.guaranteed
    generator = np.random.default_rng(seed)
    steps = int(10 / product)
    g = np.where(generator.random(steps) < 0.5, low, high) if seed % 2 else generator.uniform(low, high, steps)
    radius = dynamics.elr_schedule(np.full(steps, lr), decay, radius=3.0, effective_gradient_norm=g).radius
    tail = radius[int(6 / product) :]
    assert tail.min() >= band.low * (1 - 1e-3) and tail.max() <= band.high * (1 + 1e-3)
    assert not dynamics.norm_band(0.5 * least * high, high, lr, decay).guaranteed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynamics.equilibrium("adam", lr=1, weight_decay=0.1), "optimizer is 'adam'; it must be one of sgd"),
        (lambda: dynamics.equilibrium(lr=0, weight_decay=0.1), "lr is 0"),
        (lambda: dynamics.equilibrium(lr=1, weight_decay=0), "weight_decay is 0; it must be positive"),
        (lambda: dynamics.equilibrium(lr=1, weight_decay=1), "below 1 / lr"),
        (lambda: dynamics.equilibrium(lr=1, weight_decay=0.1, gradient_norm=[]), "gradient_norm is empty"),
        (lambda: dynamics.equilibrium(lr=1, weight_decay=0.1, momentum=0.9), "use optimizer 'momentum'"),
        (lambda: dynamics.equilibrium("momentum", lr=1, weight_decay=0.1), "needs momentum"),
        (lambda: dynamics.equilibrium("momentum", lr=1, weight_decay=0.1, momentum=1), "momentum is 1"),
        (lambda: dynamics.equilibrium("adamw", lr=1, weight_decay=0.1, betas=(1, 0.9)), r"betas\[0\] is 1"),
        (lambda: dynamics.equilibrium("adamw", lr=1, weight_decay=0.1, betas=(0.9,)), "two numbers"),
        (lambda: dynamics.equilibrium("adamw", lr=1, weight_decay=0.1, gradient_norm=1), "leave it out"),
        (lambda: dynamics.equilibrium("lion", lr=1, weight_decay=0.1, parameters=2.5), "positive whole number"),
        (lambda: dynamics.steps_to_equilibrium(1, lr=1, weight_decay=0.1), "give gradient_norm"),
        (lambda: dynamics.steps_to_equilibrium(1, "adamw", lr=1, weight_decay=0.1), "give parameters"),
        (lambda: dynamics.steps_to_equilibrium(1, lr=1, weight_decay=0.1, gradient_norm=1, tolerance=1), "tolerance"),
        (lambda: dynamics.norm_band(2, 1, 0.1, 0.1), "must not exceed"),
        (lambda: dynamics.generalised_equilibrium([], 0.1, 0.1), "effective_steps is empty"),
        (lambda: dynamics.averaged_law_residual([1, 2], [1, 2], 0.1, 0.1), "2 radii for 2 effective_steps"),
        (lambda: dynamics.intrinsic_lr(1, 2), "below 1 / lr"),
    ],
)
def test_impossible_equilibria_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
