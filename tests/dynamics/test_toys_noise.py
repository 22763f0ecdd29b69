"""The isotropic-noise model against the von Mises-Fisher law and the laws of the gas.

U, r and p within 3 %, Maxwell slopes within 2 %; beyond that, every comparison is within 4 standard errors plus the
order that the laws neglect.
"""

import json
import math

import numpy as np
import pytest

from onsphere.dynamics.free_energy import free_energy_table, temperature_interval
from onsphere.dynamics.maxwell import maxwell_residuals
from onsphere.dynamics.toys import NoiseRun, simulate_noise
from onsphere.dynamics.von_mises_fisher import vmf_energy, vmf_entropy, vmf_sample

ELR, DECAY = 0.02, 0.01
HEAT = np.array([0.005, 0.02, 0.08])
SIGMA = np.sqrt(2 * HEAT / ELR)
QUICK = {"copies": 8, "steps": 40, "burn_in": 5, "entropy_points": 16}


def arguments(protocol, dimension, elr=ELR, sigma=SIGMA):
    """Settings with the ELR ``elr``, so that T = elr sigma² / 2: a fixed lr has it at lr wd = s² / 2."""
    if protocol == "fixed_lr":
        return {"lr": elr**2 * sigma**2 * (dimension - 1) / 2 / DECAY, "weight_decay": DECAY, "sigma": sigma}
    if protocol == "fixed_elr":
        return {"elr": elr, "weight_decay": DECAY, "sigma": sigma}
    return {"elr": elr, "sigma": sigma, "radius": 2.0}


@pytest.fixture(scope="module", params=["fixed_elr", "fixed_lr", "sphere"])
def run(request):
    return simulate_noise(3, protocol=request.param, seed=1, **arguments(request.param, 3))


def close(measured, expected, error, relative):
    """Within 4 standard errors and a relative allowance for what the law neglects."""
    return (np.abs(measured - expected) < 4 * error + relative * np.abs(expected)).all()


# --- three dimensions -----------------------------------------------------------------------------------------------


def test_energy_norm_and_pressure_within_three_percent(run):
    law = run.predicted
    assert run.temperature == pytest.approx(HEAT, rel=1e-12)
    assert law.energy == pytest.approx(vmf_energy(3, HEAT), rel=1e-12)
    assert run.energy == pytest.approx(law.energy, rel=0.03)
    assert run.energy == pytest.approx(HEAT, rel=0.03)  # (d - 1) T / 2
    assert run.radius == pytest.approx(law.radius, rel=0.03)
    assert run.pressure == pytest.approx(law.pressure, rel=0.03)
    assert run.elr == pytest.approx(ELR, rel=0.03)
    # and the errors say that this is no luck
    assert (run.energy_error < 0.01 * run.energy).all()
    assert (run.radius_error < 0.001 * run.radius).all()
    assert (run.pressure_error < 0.006 * run.pressure).all()


def test_gas_law(run):
    assert np.abs(run.state.gas_law_residual).max() < 0.03
    corrected = run.pressure * run.radius**2 / 2 / run.corrected.temperature - 1
    errors = run.pressure_error / run.pressure + 2 * run.radius_error / run.radius
    step = 2 * ELR * HEAT * 2  # s²
    assert (np.abs(corrected) < 4 * errors + step).all()


def test_corrected_laws_hold_to_the_order_of_the_squared_step(run):
    law, step = run.corrected, 2 * ELR * HEAT * 2
    assert close(run.energy, law.energy, run.energy_error, 2 * step)
    assert close(run.radius, law.radius, run.radius_error, step)
    assert close(run.pressure, law.pressure, run.pressure_error, step)


def test_entropy(run):
    d_log_heat = run.corrected.temperature / run.temperature - 1
    assert close(run.entropy, run.corrected.entropy, run.entropy_error + 0.005, 0)
    assert run.entropy_error.max() < 0.03
    assert (d_log_heat < 0.02).all()
    limit = np.log(2 * np.pi * np.e * HEAT)
    assert close(run.sphere_entropy[:2], limit[:2], run.entropy_error[:2], 0.01)
    assert run.entropy == pytest.approx(run.sphere_entropy + 2 * np.log(run.radius), abs=0.01)


def test_each_setting_minimises_its_own_free_energy(run):
    fixed = run.protocol == "sphere"
    assert (free_energy_table(run.state, fixed_volume=fixed).argmin(axis=1) == np.arange(3)).all()
    interval = temperature_interval(run.energy, run.sphere_entropy)
    assert ((interval.low < HEAT) & (interval.high > HEAT)).all()


def test_what_is_held_fixed(run):
    if run.protocol == "sphere":
        assert (run.radius == 2).all()
        assert (run.weight_decay == 0).all()
        assert (run.radius_error == 0).all()
        assert run.lr == pytest.approx(ELR * 4)
    else:
        assert (run.weight_decay == DECAY).all()
        assert (run.pressure == DECAY).all()
        assert (run.pressure_error == 0).all()
        assert run.lr / run.elr == pytest.approx(run.radius**2, rel=0.005)


# --- another dimension ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["fixed_elr", "fixed_lr", "sphere"])
def test_ten_dimensions(protocol):
    heat = np.array([0.003, 0.02])
    found = simulate_noise(10, protocol=protocol, seed=2, **arguments(protocol, 10, sigma=np.sqrt(2 * heat / ELR)))
    law, step = found.corrected, 2 * ELR * heat * 9
    assert found.energy == pytest.approx(vmf_energy(10, heat), rel=0.03)
    assert found.radius == pytest.approx(found.predicted.radius, rel=0.03)
    assert found.pressure == pytest.approx(found.predicted.pressure, rel=0.03)
    assert close(found.energy, law.energy, found.energy_error, 2 * step)
    assert close(found.radius, law.radius, found.radius_error, step)
    assert close(found.pressure, law.pressure, found.pressure_error, step)
    # 0.06: the estimator's bias at d = 10 and 4096 points
    assert close(found.entropy, law.entropy, found.entropy_error + 0.06 / 4, 0)


def test_two_dimensions():
    found = simulate_noise(2, protocol="sphere", elr=ELR, sigma=SIGMA, seed=3)
    assert close(found.energy, found.corrected.energy, found.energy_error, 0.005)
    assert close(found.entropy, found.corrected.entropy, found.entropy_error + 0.005, 0)


# --- orders ---------------------------------------------------------------------------------------------------------


def test_energy_is_off_by_half_the_elr_and_the_correction_removes_it():
    """Relative excess elr / 2 + O(elr²) over the law; over the corrected law 20 times less at these small steps."""
    elr = np.array([0.4, 0.2, 0.1])
    found = simulate_noise(5, protocol="sphere", elr=elr, sigma=0.05, copies=2000, steps=1500, seed=4)
    excess = found.energy / found.predicted.energy - 1
    error = found.energy_error / found.energy
    assert (error < 0.003).all()
    # a quadratic loss has exactly elr / (2 - elr)
    assert (np.abs(excess - elr / (2 - elr)) < 4 * error + 0.001).all()
    assert (np.abs(found.energy / found.corrected.energy - 1) < 4 * error + 0.001).all()
    assert excess[0] / excess[2] == pytest.approx(4 * 1.9 / 1.6, rel=0.2)


@pytest.mark.parametrize(("protocol", "name"), [("sphere", "pressure"), ("fixed_elr", "radius")])
def test_pressure_and_norm_keep_only_the_squared_step(protocol, name):
    """Their error over the corrected law is s² times a constant of order one: s² = 0.16, 0.04."""
    elr = np.array([0.2, 0.1])
    found = simulate_noise(
        3, protocol=protocol, copies=2000, steps=4000, seed=5, **arguments(protocol, 3, elr, math.sqrt(2.0))
    )
    relative = getattr(found, name) / getattr(found.corrected, name) - 1
    error = getattr(found, f"{name}_error") / getattr(found, name)
    assert (np.abs(relative) < elr**2 * 4).all()
    assert (np.abs(relative) > 10 * error).all()
    assert relative[0] / relative[1] == pytest.approx(4, rel=0.3)


# --- Maxwell --------------------------------------------------------------------------------------------------------


def test_maxwell_at_a_fixed_elr():
    elr, decay = (a.ravel() for a in np.meshgrid([0.02, 0.06], np.geomspace(1e-4, 1, 6)))
    found = simulate_noise(3, protocol="fixed_elr", elr=elr, weight_decay=decay, seed=6)
    test = maxwell_residuals(
        "fixed_elr", dimension=3, entropy=found.entropy, elr=elr, weight_decay=decay, entropy_error=found.entropy_error
    )
    assert test.expected == -1
    assert test.slope == pytest.approx(-1, abs=0.02)
    assert test.error < 0.005


def test_maxwell_at_a_fixed_lr():
    product, ratio = (a.ravel() for a in np.meshgrid([4e-4, 3.6e-3], np.geomspace(1e-2, 1e6, 6)))
    lr, decay = np.sqrt(product * ratio), np.sqrt(product / ratio)
    found = simulate_noise(3, protocol="fixed_lr", lr=lr, weight_decay=decay, seed=7)
    test = maxwell_residuals(
        "fixed_lr", dimension=3, entropy=found.entropy, lr=lr, weight_decay=decay, entropy_error=found.entropy_error
    )
    assert test.expected == 1
    assert test.slope == pytest.approx(1, abs=0.02)
    assert test.error < 0.005


def test_maxwell_on_spheres():
    radius = np.geomspace(0.01, 100, 6)
    found = simulate_noise(4, protocol="sphere", elr=0.05, radius=radius, seed=8)
    test = maxwell_residuals("sphere", dimension=4, entropy=found.entropy, elr=0.05, radius=radius)
    assert test.slope == pytest.approx(3, rel=0.02)
    assert found.pressure * radius**2 == pytest.approx(3 * found.temperature, rel=0.03)


# --- the simulation itself ------------------------------------------------------------------------------------------


def by_hand(protocol, lr, elr, decay, sigma, radius, steps, seed, copies):
    """The weights themselves, not directions and norms; the same random numbers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, copies))
    x *= radius / np.linalg.norm(x, axis=0)
    mu = np.array([[1.0], [0], [0]])
    for _ in range(steps):
        noise = sigma * rng.standard_normal((3, copies), dtype=np.float32).astype(float)
        r = np.linalg.norm(x, axis=0)
        unit = x / r
        g = mu + noise
        g = (g - (unit * g).sum(axis=0) * unit) / r
        rate = lr if protocol == "fixed_lr" else elr * r**2
        x = x - rate * g - rate * decay * x
        if protocol == "sphere":
            x *= radius / np.linalg.norm(x, axis=0)
    return x


@pytest.mark.parametrize("protocol", ["fixed_elr", "fixed_lr", "sphere"])
def test_steps_are_the_protocols(protocol):
    """Directions and norms after 200 steps, against SGD on the weights, to rounding."""
    hyper = {
        "fixed_elr": {"elr": 0.05, "weight_decay": 0.3},
        "fixed_lr": {"lr": 0.05, "weight_decay": 0.3},
        "sphere": {"elr": 0.05},
    }[protocol]
    found = simulate_noise(
        3, protocol=protocol, sigma=0.7, radius=1.5, copies=6, burn_in=199, steps=1, sample_every=1, entropy_points=6,
        neighbours=1, seed=9, **hyper,
    )  # fmt: skip
    x = by_hand(protocol, hyper.get("lr"), hyper.get("elr"), hyper.get("weight_decay", 0.0), 0.7, 1.5, 200, 9, copies=6)
    r = np.linalg.norm(x, axis=0)
    assert found.points[0] == pytest.approx((x / r).T, abs=1e-11)
    assert found.radius[0] == pytest.approx(math.sqrt((r**2).mean()), rel=1e-11)
    assert found.energy[0] == pytest.approx(1 + (x / r)[0].mean(), abs=1e-11)
    assert found.energy_error[0] == pytest.approx((x / r)[0].std(ddof=1) / math.sqrt(6), rel=1e-8)


def test_directions_follow_the_von_mises_fisher_law():
    found = simulate_noise(3, protocol="sphere", elr=0.01, sigma=4.0, entropy_points=6000, seed=10)
    assert found.temperature[0] == pytest.approx(0.08)
    drawn = vmf_sample([-1.0, 0, 0], 0.08, 6000, np.random.default_rng(0))
    share = np.linspace(0.05, 0.95, 10)
    # quantiles of the loss: exponential, standard error of the largest 5 %
    assert np.quantile(found.points[0, :, 0], share) == pytest.approx(np.quantile(drawn[:, 0], share), abs=0.02)
    # the other coordinates are symmetric and alike
    side = found.points[0, :, 1:]
    assert side.mean(axis=0) == pytest.approx(0, abs=4 * side.std() / math.sqrt(6000))
    assert side.std(axis=0) == pytest.approx(side.std(), rel=0.05)


def test_norm_is_found_from_anywhere():
    """Starting 5 times too large or too small makes no difference after enough steps."""
    settings = {"lr": 0.1, "weight_decay": 0.03, "sigma": 1.0, "copies": 64, "burn_in": 4000, "steps": 2000}
    law = simulate_noise(3, protocol="fixed_lr", **QUICK | settings).predicted.radius
    found = simulate_noise(3, protocol="fixed_lr", radius=law * [5, 0.2], **settings)
    assert found.radius == pytest.approx(np.repeat(law, 2), rel=0.02)


def test_errors_are_the_spread_over_seeds():
    runs = [
        simulate_noise(
            3, protocol="fixed_elr", elr=0.1, weight_decay=0.1, copies=40, steps=400, entropy_points=400, seed=s
        )
        for s in range(40)
    ]
    for name in ("energy", "radius"):
        values = np.array([getattr(r, name)[0] for r in runs])
        errors = np.array([getattr(r, f"{name}_error")[0] for r in runs])
        # 40 runs know the spread to 11 %
        assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.4)


def test_same_seed_same_numbers_whatever_else_happens():
    first = simulate_noise(3, protocol="sphere", elr=[0.1, 0.2], **QUICK)
    np.random.default_rng().random(10)
    second = simulate_noise(3, protocol="sphere", elr=[0.1, 0.2], **QUICK)
    assert (first.points == second.points).all()
    assert (first.energy == second.energy).all()
    third = simulate_noise(3, protocol="sphere", elr=[0.1, 0.2], **QUICK | {"seed": 1})
    assert (first.energy != third.energy).all()


def test_settings_broadcast():
    found = simulate_noise(4, protocol="fixed_elr", elr=[[0.1], [0.2]], weight_decay=[0.1, 0.2, 0.3], **QUICK)
    assert found.elr == pytest.approx([0.1] * 3 + [0.2] * 3)
    assert found.weight_decay == pytest.approx([0.1, 0.2, 0.3] * 2)
    for name in ("energy", "energy_error", "radius", "pressure", "entropy", "temperature", "lr", "sigma"):
        assert getattr(found, name).shape == (6,)
    assert found.points.shape == (6, 16, 4)
    assert np.linalg.norm(found.points, axis=2) == pytest.approx(1)


def test_a_run_reads_well():
    found = simulate_noise(3, protocol="fixed_lr", lr=0.1, weight_decay=[0.1, 0.2], **QUICK)
    assert isinstance(found, NoiseRun)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["protocol"] == "fixed_lr"
    assert "points" not in values
    assert len(values["energy"]) == len(values["predicted"]["energy"]) == 2
    lines = repr(found).splitlines()
    assert lines[0] == "NoiseRun: fixed_lr, d=3, 8 copies, 5 + 40 steps"
    assert len(lines) == 4


def test_a_run_as_a_frame():
    pytest.importorskip("pandas")
    frame = simulate_noise(3, protocol="fixed_lr", lr=0.1, weight_decay=[0.1, 0.2], **QUICK).to_frame()
    assert len(frame) == 2
    assert {"protocol", "weight_decay", "energy", "energy_error", "predicted_energy"} <= set(frame.columns)


def test_entropy_of_predicted_states():
    found = simulate_noise(3, protocol="sphere", elr=0.1, radius=3.0, **QUICK)
    heat = found.temperature
    assert found.predicted.entropy == pytest.approx(vmf_entropy(3, heat) + 2 * math.log(3))
    assert found.predicted.pressure == pytest.approx(2 * heat / 9)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "ball", "elr": 0.1}, "fixed_elr, fixed_lr, sphere"),
        ({"protocol": "sphere"}, "elr is missing"),
        ({"protocol": "sphere", "elr": 0.0}, "elr is 0"),
        ({"protocol": "sphere", "elr": []}, "empty"),
        ({"protocol": "sphere", "elr": 0.1, "sigma": 0.0}, "sigma is 0"),
        ({"protocol": "sphere", "elr": 0.1, "radius": -1.0}, "radius is -1"),
        ({"protocol": "sphere", "elr": 0.1, "weight_decay": 0.1}, "weight_decay is given"),
        ({"protocol": "sphere", "elr": 0.1, "lr": 0.1}, "lr is given"),
        ({"protocol": "sphere", "elr": [0.1, 0.2], "sigma": [1, 2, 3]}, "do not broadcast"),
        ({"protocol": "sphere", "elr": 1e-7, "burn_in": None, "steps": None}, "give burn_in and steps"),
        ({"protocol": "sphere", "elr": 0.1, "copies": 1}, "copies is 1"),
        ({"protocol": "sphere", "elr": 0.1, "steps": 1}, "steps is 1"),
        ({"protocol": "sphere", "elr": 0.1, "burn_in": -1}, "burn_in is -1"),
        ({"protocol": "sphere", "elr": 0.1, "sample_every": 0}, "sample_every is 0"),
        ({"protocol": "sphere", "elr": 0.1, "entropy_points": 4}, "entropy_points is 4"),
        ({"protocol": "sphere", "elr": 0.1, "neighbours": 0}, "neighbours is 0"),
        ({"protocol": "sphere", "elr": 0.1, "seed": -1}, "seed is -1"),
        ({"protocol": "fixed_elr", "elr": 0.1}, "weight_decay is missing"),
        ({"protocol": "fixed_elr", "elr": 0.1, "weight_decay": 0.0}, "weight_decay is 0"),
        ({"protocol": "fixed_elr", "elr": 0.1, "weight_decay": 0.1, "sigma": 8.0}, "must be below 1"),
        ({"protocol": "fixed_elr", "elr": 0.1, "weight_decay": 0.1, "radius": 10.0}, "smaller radius"),
        ({"protocol": "fixed_lr", "lr": 0.1, "weight_decay": 10.0}, r"below 1 / lr"),
        ({"protocol": "fixed_lr", "elr": 0.1, "weight_decay": 0.1}, "elr is given"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_noise(3, **QUICK | arguments)


def test_one_dimension_is_no_sphere():
    with pytest.raises(ValueError, match="at least 2"):
        simulate_noise(1, protocol="sphere", elr=0.1)


def test_a_norm_that_runs_away_is_reported():
    with pytest.raises(ValueError, match="small angles per step"):
        simulate_noise(3, protocol="fixed_elr", elr=1.0, sigma=0.5, weight_decay=0.1, **QUICK | {"burn_in": 5000})
