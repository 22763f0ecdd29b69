"""Temperatures, norms, pressures, free energies and Maxwell relations, against exact recurrences and exact states."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onsphere.dynamics.free_energy import GasState, free_energy_table, gas_state, temperature_interval
from onsphere.dynamics.maxwell import maxwell_residuals
from onsphere.dynamics.thermodynamics import (
    growth_pressure,
    pressure,
    stationary_radius,
    temperature,
    total_entropy,
)
from onsphere.dynamics.von_mises_fisher import vmf_energy, vmf_entropy

positive = st.floats(1e-4, 1e4)
dimensions = st.integers(2, 10**6)


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_at_one_point():
    """d = 3, sigma = 1: the numbers of the ideal-gas paper's toy."""
    trace = 2.0
    assert temperature("fixed_elr", dimension=3, noise_trace=trace, elr=0.01) == pytest.approx(0.005)
    assert temperature("sphere", dimension=3, noise_trace=trace, elr=0.01) == pytest.approx(0.005)
    assert stationary_radius("fixed_elr", noise_trace=trace, elr=0.01, weight_decay=0.03) == pytest.approx(3**-0.5)
    heat = temperature("fixed_lr", dimension=3, noise_trace=trace, lr=0.03, weight_decay=0.01)
    assert heat == pytest.approx(math.sqrt(0.03 * 0.01 / 4))
    assert stationary_radius("fixed_lr", noise_trace=trace, lr=0.03, weight_decay=0.01) == pytest.approx(3**0.25)
    assert pressure(3, 0.005, 2.0) == pytest.approx(0.0025)


@given(d=dimensions, trace=positive, gradient=st.floats(0, 100), rate=positive, decay=positive)
@settings(max_examples=100, deadline=None)
def test_gas_law_in_every_protocol(d, trace, gradient, rate, decay):
    common = {"noise_trace": trace, "gradient_norm": gradient}
    if rate**2 * (trace + gradient**2) < 1:
        heat = temperature("fixed_elr", dimension=d, elr=rate, **common)
        r = stationary_radius("fixed_elr", elr=rate, weight_decay=decay, **common)
        assert decay * r**2 / 2 == pytest.approx((d - 1) * heat / 2, rel=1e-12)
        assert pressure(d, heat, r) == pytest.approx(decay, rel=1e-12)  # held at r the sphere presses as hard
        assert temperature("sphere", dimension=d, elr=rate, **common) == heat
    assume(rate * decay < 1)
    heat = temperature("fixed_lr", dimension=d, lr=rate, weight_decay=decay, **common)
    r = stationary_radius("fixed_lr", lr=rate, weight_decay=decay, **common)
    assert decay * r**2 / 2 == pytest.approx((d - 1) * heat / 2, rel=1e-12)
    # at its own norm a fixed lr is the fixed ELR lr / r²
    assert temperature("fixed_elr", dimension=d, elr=rate / r**2, **common) == pytest.approx(heat, rel=1e-12)


@given(
    n=st.integers(1, 30),
    elr=st.floats(0.01, 0.9),
    sigma=positive,
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_discrete_correction_is_exact_for_quadratic_losses(n, elr, sigma, seed):
    """x <- (1 - elr h) x + elr sigma xi: variance elr sigma² / (2h - elr h²), at any curvatures below 2 / elr."""
    h = np.random.default_rng(seed).uniform(0.01, 1.9 / elr, n)
    variance = elr * sigma**2 / (2 * h - elr * h**2)
    energy, gradient = (h * variance).sum() / 2, math.sqrt((h**2 * variance).sum())
    heat = temperature("sphere", dimension=n + 1, noise_trace=n * sigma**2, elr=elr, gradient_norm=gradient)
    assert energy == pytest.approx(n * heat / 2, rel=1e-9)
    plain = temperature("sphere", dimension=n + 1, noise_trace=n * sigma**2, elr=elr)
    assert plain < heat
    # and without it the error is first order: the relative excess is about elr times the mean curvature / 2
    assert (heat / plain - 1) >= elr * h.mean() / 2 * (1 - 1e-9)


def fixed_point(protocol, rate, decay, moment):
    """The exact fixed point of r²: r⁴ = lr m / (2 wd - lr wd²); (1 - u)² + s² = 1 with u = elr r² wd."""
    if protocol == "fixed_lr":
        square = math.sqrt(rate * moment / (2 * decay - rate * decay**2))
        after = (1 - rate * decay) ** 2 * square + rate**2 * moment / square
    else:
        square = (1 - math.sqrt(1 - rate**2 * moment)) / (rate * decay)
        after = square * ((1 - rate * square * decay) ** 2 + rate**2 * moment)
    assert after == pytest.approx(square, rel=1e-12)  # it is one
    return math.sqrt(square)


@pytest.mark.parametrize(("protocol", "name"), [("fixed_elr", "elr"), ("fixed_lr", "lr")])
def test_norm_to_the_stated_order(protocol, name):
    """Relative error s² / 8 at a fixed ELR, lr wd / 8 at a fixed lr."""
    moment, decay = 2.5, 0.1
    error = []
    for rate in (0.02, 0.01, 0.005):
        small = rate**2 * moment if protocol == "fixed_elr" else rate * decay
        law = stationary_radius(protocol, noise_trace=2.25, gradient_norm=0.5, weight_decay=decay, **{name: rate})
        error.append((fixed_point(protocol, rate, decay, moment) / law - 1) / small)
    assert error == pytest.approx([1 / 8] * 3, rel=0.01)


def test_fluctuating_gradients_lower_the_norm_as_stated():
    """At a fixed ELR by v s² / 4 below the 1 + s² / 8 of steady ones; v = 2 / k for the square of k normals."""
    rng, elr, decay = np.random.default_rng(0), 0.07, 0.1
    for k in (1, 2):
        law = stationary_radius("fixed_elr", noise_trace=2.0, elr=elr, weight_decay=decay)
        square, total = np.full(20_000, law**2), 0.0
        for step in range(1500):
            steps = elr**2 * 2.0 * rng.chisquare(k, square.size) / k
            square *= (1 - elr * square * decay) ** 2 + steps
            total += square.mean() if step >= 500 else 0.0
        excess = (math.sqrt(total / 1000) / law - 1) / (elr**2 * 2.0)
        assert excess == pytest.approx(1 / 8 - (2 / k) / 4, abs=0.03)


@given(r=positive, elr=st.floats(1e-3, 10), s=st.floats(1e-3, 0.3))
@settings(max_examples=60, deadline=None)
def test_measured_pressure_to_the_stated_order(r, elr, s):
    """From a step of angle s: s² / (2 elr r²) up to a relative -s² / 4."""
    measured = growth_pressure(r, r * math.sqrt(1 + s**2), elr)
    assert measured / (s**2 / (2 * elr * r**2)) == pytest.approx(1 - s**2 / 4, abs=s**4 / 8 + 1e-9)


def test_entropy_at_a_norm():
    assert total_entropy(4, -1.0, 1.0) == -1.0
    assert total_entropy(4, -1.0, math.e) == pytest.approx(2.0)


def test_broadcasting_and_torch():
    heat = temperature("fixed_elr", dimension=3, noise_trace=torch.tensor([1.0, 2.0]), elr=[[0.1], [0.2], [0.3]])
    assert heat.shape == (3, 2)
    assert isinstance(pressure(3, 1, 1), float)


# --- states ---------------------------------------------------------------------------------------------------------


def exact_states(dimension, heat, force):
    """The isotropic-noise model's states at given temperatures and pressures."""
    heat, force = np.broadcast_arrays(np.asarray(heat, float), np.asarray(force, float))
    r = np.sqrt(heat * (dimension - 1) / force)
    entropy = total_entropy(dimension, vmf_entropy(dimension, heat), r)
    return GasState(dimension, heat, force, r**2 / 2, vmf_energy(dimension, heat), entropy)


@given(
    d=dimensions,
    heat=positive,
    force=positive,
    volume=positive,
    energy=st.floats(-10, 10),
    entropy=st.floats(-1e3, 1e3),
)
@settings(max_examples=50, deadline=None)
def test_legendre_relations(d, heat, force, volume, energy, entropy):
    state = GasState(d, heat, force, volume, energy, entropy)
    assert state.helmholtz == pytest.approx(energy - heat * entropy, abs=1e-12 * (abs(energy) + abs(heat * entropy)))
    # The difference keeps the rounding of the largest term in it, and the terms may nearly cancel.
    scale = abs(energy) + abs(heat * entropy) + force * volume
    assert state.gibbs - state.helmholtz == pytest.approx(force * volume, abs=1e-12 * scale)
    assert state.radius**2 / 2 == pytest.approx(volume)
    work = (d - 1) * heat / 2
    assert (1 + state.gas_law_residual) * work == pytest.approx(force * volume, abs=1e-12 * (work + force * volume))


@pytest.mark.parametrize("dimension", [2, 3, 40])
def test_free_energy_derivatives(dimension):
    """dF/dT = -S and dF/dV = -p; dG/dT = -S and dG/dp = V, by central differences on exact states."""
    heat, force, h = 0.07, 0.3, 1e-4

    def at(t, p):
        return exact_states(dimension, t, p)

    base = at(heat, force)

    def at_volume(t, v):
        return at(t, (dimension - 1) * t / (2 * v))

    warm, cold = at_volume(heat * (1 + h), base.volume), at_volume(heat * (1 - h), base.volume)
    assert (warm.helmholtz - cold.helmholtz) / (2 * h * heat) == pytest.approx(-base.entropy, rel=1e-6, abs=1e-6)
    wide, tight = at_volume(heat, base.volume * (1 + h)), at_volume(heat, base.volume * (1 - h))
    assert (wide.helmholtz - tight.helmholtz) / (2 * h * base.volume) == pytest.approx(-force, rel=1e-6)
    warm, cold = at(heat * (1 + h), force), at(heat * (1 - h), force)
    assert (warm.gibbs - cold.gibbs) / (2 * h * heat) == pytest.approx(-base.entropy, rel=1e-6, abs=1e-6)
    hard, soft = at(heat, force * (1 + h)), at(heat, force * (1 - h))
    assert (hard.gibbs - soft.gibbs) / (2 * h * force) == pytest.approx(base.volume, rel=1e-6)


@given(d=st.integers(2, 500), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_every_state_minimises_its_own_free_energy(d, seed):
    rng = np.random.default_rng(seed)
    state = exact_states(d, np.exp(rng.uniform(-6, 1, 12)), np.exp(rng.uniform(-6, 3, 12)))
    table = free_energy_table(state)
    assert (table.argmin(axis=1) == np.arange(12)).all()
    assert table.diagonal() == pytest.approx(state.gibbs)
    on_sphere = GasState(d, state.temperature, 0.0, 0.5, state.energy, vmf_entropy(d, state.temperature))
    held = free_energy_table(on_sphere, fixed_volume=True)
    assert (held.argmin(axis=1) == np.arange(12)).all()
    assert held.diagonal() == pytest.approx(on_sphere.helmholtz)


def test_state_from_measurements():
    common = {"dimension": 3, "noise_trace": 2.0, "energy": [0.006, 0.012], "sphere_entropy": [-2.0, -1.5]}
    state = gas_state("fixed_elr", elr=[0.01, 0.02], weight_decay=0.03, radius=[0.58, 0.82], **common)
    assert state.temperature == pytest.approx([0.005, 0.01])
    assert state.pressure == pytest.approx([0.03, 0.03])
    assert state.entropy == pytest.approx(np.array([-2, -1.5]) + 2 * np.log([0.58, 0.82]))
    assert state.gas_law_residual == pytest.approx(0.03 * np.array([0.58, 0.82]) ** 2 / [0.01, 0.02] - 1)
    held = gas_state("sphere", elr=0.01, radius=2.0, measured_pressure=0.0026, **common)
    assert held.gas_law_residual == pytest.approx([0.04, 0.04])
    assert gas_state("sphere", elr=0.01, radius=2.0, **common).gas_law_residual == pytest.approx([0, 0], abs=1e-12)
    plain = gas_state("fixed_lr", lr=0.03, weight_decay=0.01, radius=1.3, gradient_norm=0.5, **common)
    assert plain.temperature == pytest.approx([math.sqrt(0.03 * 0.01 * 2.25 / 2) / 2] * 2)


def test_states_read_well():
    state = exact_states(3, [0.1, 0.2], 0.5)
    values = state.to_dict()
    assert values["dimension"] == 3
    assert values["gas_law_residual"] == pytest.approx([0, 0], abs=1e-12)
    assert isinstance(values["gibbs"], list)
    assert repr(state).startswith("GasState(dimension=3, T=[0.1 0.2], p=[0.5 0.5]")
    assert repr(GasState(3, 0.1, 0.5, 1.0, 0.1, -2.0)) == "GasState(dimension=3, T=0.1, p=0.5, V=1, U=0.1, S=-2)"


# --- temperatures from measured points ------------------------------------------------------------------------------


@given(
    points=st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=1, max_size=12),
    heat=st.floats(1e-3, 50),
)
@settings(max_examples=150, deadline=None)
def test_interval_holds_exactly_the_minimising_temperatures(points, heat):
    u, s = np.array(points, float).T
    interval = temperature_interval(u, s)
    free = u - heat * s
    least = free <= free.min() + 1e-9 * (1 + np.abs(free).max())
    inside = (interval.low <= heat * (1 + 1e-6)) & (heat * (1 - 1e-6) <= interval.high)
    assert (inside <= least | np.isclose(free, free.min(), atol=1e-3)).all()
    assert (least <= inside).all()
    assert (interval.exists == (interval.low <= interval.high)).all()


def test_interval_of_exact_states_holds_their_temperature():
    heat = np.geomspace(0.01, 1, 20)
    interval = temperature_interval(vmf_energy(10, heat), vmf_entropy(10, heat) + 123.4)
    assert ((interval.low < heat) & (heat < interval.high)).all()
    assert interval.high[:-1] == pytest.approx(interval.low[1:])  # neighbours share their boundary
    assert (interval.low[0], interval.high[-1]) == (0.0, math.inf)


def test_interval_by_hand():
    interval = temperature_interval([0.0, 1.0, 5.0, 4.0], [0.0, 1.0, 2.0, 2.0])
    assert interval.low.tolist()[:2] == [0.0, 1.0]
    assert interval.high.tolist()[:2] == [1.0, 3.0]
    assert interval.exists.tolist() == [True, True, False, True]
    assert interval.to_dict()["exists"] == [True, True, False, True]
    alone = temperature_interval([1.0], [2.0])
    assert (alone.low[0], alone.high[0]) == (0.0, math.inf)


# --- Maxwell --------------------------------------------------------------------------------------------------------


def grid(*axes):
    return (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))


@given(d=st.integers(2, 1000), curve=st.floats(-3, 3), noise_trace=positive)
@settings(max_examples=40, deadline=None)
def test_maxwell_holds_for_the_gas(d, curve, noise_trace):
    """Whatever quadratic in ln T the entropy of the directions is."""
    first, second = grid(np.geomspace(1e-5, 1e-3, 4), np.geomspace(1e-4, 1e-2, 4))
    trace = noise_trace / noise_trace  # the trace moves r, not the slopes
    for protocol, names in {
        "fixed_elr": ("elr", "weight_decay"),
        "fixed_lr": ("lr", "weight_decay"),
        "sphere": ("elr", "radius"),
    }.items():
        hyper = {names[0]: first, names[1]: second}
        decay = {"weight_decay": second} if protocol == "fixed_lr" else {}
        heat = np.log(temperature(protocol, dimension=d, noise_trace=trace, **{names[0]: first}, **decay))
        r = second if protocol == "sphere" else stationary_radius(protocol, noise_trace=noise_trace, **hyper)
        entropy = total_entropy(d, curve * heat**2 + heat, r)
        test = maxwell_residuals(protocol, dimension=d, entropy=entropy, **hyper)
        assert test.slope == pytest.approx(test.expected, rel=1e-6)
        assert test.residual == pytest.approx(0, abs=1e-6 * d)
        expected = {"fixed_elr": -(d - 1) / 2, "fixed_lr": (d - 1) / 2, "sphere": d - 1}[protocol]
        assert test.expected == expected


def test_maxwell_on_exact_states_needs_little_freedom():
    """The entropy of the directions is no polynomial; across a decade of T degree 2 leaves 1e-4 of the slope."""
    heat, decay = grid(np.geomspace(0.01, 0.1, 5), np.geomspace(1e-3, 1e-1, 5))
    state = exact_states(10, heat, decay)
    test = maxwell_residuals("fixed_elr", dimension=10, entropy=state.entropy, elr=heat, weight_decay=decay)
    assert abs(test.relative_residual) < 1e-4
    # a temperature at a time: no freedom needed
    one = maxwell_residuals("fixed_elr", dimension=10, entropy=state.entropy[:5], elr=0.01, weight_decay=decay[:5])
    assert abs(one.relative_residual) < 1e-9


@pytest.mark.parametrize("known", [True, False])
def test_slope_error_is_the_spread(known):
    rng = np.random.default_rng(0)
    elr, decay = grid(np.geomspace(1e-3, 1e-1, 3), np.geomspace(1e-3, 1e-1, 4))
    tests = [
        maxwell_residuals(
            "fixed_elr",
            dimension=3,
            entropy=np.log(elr) - np.log(decay) + 0.1 * rng.standard_normal(12),
            elr=elr,
            weight_decay=decay,
            entropy_error=0.1 if known else None,
        )
        for _ in range(300)
    ]
    slopes = np.array([t.slope for t in tests])
    spread = slopes.std()
    assert slopes.mean() == pytest.approx(-1, abs=4 * spread / math.sqrt(300))
    # the spread is known to 4 %
    assert np.sqrt(np.mean([t.error**2 for t in tests])) == pytest.approx(spread, rel=0.16)


def test_precise_runs_weigh_more():
    decay = np.geomspace(1e-3, 1e-1, 6)
    entropy = -np.log(decay)
    entropy[0] += 5
    error = np.full(6, 0.01)
    error[0] = 100
    test = maxwell_residuals(
        "fixed_elr", dimension=3, entropy=entropy, elr=0.01, weight_decay=decay, entropy_error=error
    )
    assert test.slope == pytest.approx(-1, abs=1e-3)
    assert test.points == 6
    assert repr(test).startswith("MaxwellTest: dS/dln wd = -1.00")
    assert test.to_dict()["residual"] == test.residual


# --- refusals -------------------------------------------------------------------------------------------------------

MAXWELL = {"dimension": 3, "entropy": np.arange(6.0)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: temperature("warm", dimension=3, noise_trace=1, elr=0.1), "fixed_elr, fixed_lr, sphere"),
        (lambda: temperature("sphere", dimension=1, noise_trace=1, elr=0.1), "at least 2"),
        (lambda: temperature("sphere", dimension=3, noise_trace=0, elr=0.1), "noise_trace is 0"),
        (lambda: temperature("sphere", dimension=3, noise_trace=1, elr=-0.1), "elr is -0.1"),
        (lambda: temperature("sphere", dimension=3, noise_trace=1), "elr is missing"),
        (lambda: temperature("sphere", dimension=3, noise_trace=1, elr=0.1, lr=0.1), "lr is given"),
        (lambda: temperature("fixed_elr", dimension=3, noise_trace=[], elr=0.1), "empty"),
        (lambda: temperature("fixed_elr", dimension=3, noise_trace=1, elr=0.1, gradient_norm=-1), "negative"),
        (lambda: temperature("fixed_lr", dimension=3, noise_trace=1, lr=0.1), "weight_decay is missing"),
        (lambda: temperature("fixed_lr", dimension=3, noise_trace=1, lr=0.1, weight_decay=10), "below 1 / lr = 10"),
        (lambda: temperature("fixed_lr", dimension=3, noise_trace=1, lr=0.1, weight_decay=0), "weight_decay is 0"),
        (lambda: temperature("fixed_lr", dimension=3, noise_trace=1, lr=0.1, weight_decay=1, elr=1), "elr is given"),
        (lambda: stationary_radius("sphere", noise_trace=1, elr=0.1), "chosen"),
        (lambda: stationary_radius("fixed_elr", noise_trace=1, elr=1.0, weight_decay=0.1), "must be below 1"),
        (lambda: stationary_radius("fixed_elr", noise_trace=1, elr=0.1), "weight_decay is missing"),
        (lambda: stationary_radius("fixed_lr", noise_trace=1, lr=0, weight_decay=0.1), "lr is 0"),
        (lambda: pressure(3, 0, 1), "temperature is 0"),
        (lambda: pressure(3, 1, [1, -1]), "radius is -1"),
        (lambda: growth_pressure(1, 0, 1), "grown_radius is 0"),
        (lambda: total_entropy(3, math.nan, 1), "finite"),
        (
            lambda: gas_state(
                "sphere", dimension=3, noise_trace=1, energy=1, sphere_entropy=0, radius=1, elr=1, weight_decay=1
            ),
            "weight_decay is given",
        ),
        (
            lambda: gas_state("fixed_elr", dimension=3, noise_trace=1, energy=1, sphere_entropy=0, radius=1, elr=1),
            "weight_decay is missing",
        ),
        (lambda: temperature_interval([], []), "empty"),
        (lambda: temperature_interval([1, 2], [1]), "one length"),
        (lambda: temperature_interval(1.0, 1.0), "vectors"),
        (lambda: maxwell_residuals("fixed_elr", elr=0.1, weight_decay=0.1, **MAXWELL), "must vary"),
        (
            # temperature and decay move together
            lambda: maxwell_residuals(
                "fixed_elr", elr=np.geomspace(1, 2, 6), weight_decay=np.geomspace(1, 2, 6), **MAXWELL
            ),
            "grid of both",
        ),
        (lambda: maxwell_residuals("fixed_elr", elr=0.1, weight_decay=[0.1, 0.2], **MAXWELL), "broadcast"),
        (lambda: maxwell_residuals("fixed_elr", elr=0.1, weight_decay=0.0, **MAXWELL), "weight_decay is 0"),
        (lambda: maxwell_residuals("fixed_elr", elr=0.1, **MAXWELL), "weight_decay is missing"),
        (lambda: maxwell_residuals("sphere", elr=0.1, weight_decay=0.1, **MAXWELL), "weight_decay is given"),
        (lambda: maxwell_residuals("sphere", elr=0.1, **MAXWELL), "radius is missing"),
        (lambda: maxwell_residuals("fixed_lr", lr=0.1, weight_decay=11, **MAXWELL), "1 / lr"),
        (lambda: maxwell_residuals("fixed_lr", lr=0.1, weight_decay=[0.1] * 6, degree=-1, **MAXWELL), "degree"),
        (
            lambda: maxwell_residuals("fixed_elr", dimension=3, entropy=[1, 2], elr=0.1, weight_decay=[0.1, 0.2]),
            "too few",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
