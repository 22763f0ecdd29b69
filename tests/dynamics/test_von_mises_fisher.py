"""The von Mises-Fisher law against high precision, scipy, small-temperature expansions and its own derivatives."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from onsphere.dynamics.entropy import sphere_log_area
from onsphere.dynamics.von_mises_fisher import vmf_energy, vmf_entropy, vmf_sample

DIMENSIONS = [2, 3, 4, 7, 20, 121, 241, 242, 243, 1000, 24408]
TEMPERATURES = [1e-8, 1e-5, 1e-3, 0.02, 0.3, 1.0, 30.0, 1e4, 1e8]


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_against_high_precision(dimension):
    """To 1e-12, at every ratio of dimension to temperature; at d = 24408 the Bessel functions themselves underflow."""
    for heat in TEMPERATURES:
        if dimension > 1000 and heat < 1e-4:
            continue  # mpmath needs minutes
        with mpmath.workdps(60):
            kappa, order = 1 / mpmath.mpf(heat), mpmath.mpf(dimension) / 2 - 1
            low = mpmath.besseli(order, kappa, maxterms=10**6)
            ratio = mpmath.besseli(order + 1, kappa, maxterms=10**6) / low
            energy = float(1 - ratio)
            log_partition = mpmath.mpf(dimension) / 2 * mpmath.log(2 * mpmath.pi) - order * mpmath.log(kappa)
            entropy = float(log_partition + mpmath.log(low) - kappa * ratio)
        assert vmf_energy(dimension, heat) == pytest.approx(energy, rel=1e-12, abs=0)
        assert vmf_entropy(dimension, heat) == pytest.approx(entropy, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dimension", [2, 3, 5, 30])
@pytest.mark.parametrize("heat", [0.02, 0.5, 5.0])
def test_entropy_against_scipy(dimension, heat):
    law = stats.vonmises_fisher(np.eye(dimension)[0], 1 / heat)
    assert vmf_entropy(dimension, heat) == pytest.approx(law.entropy(), rel=1e-9)


def test_three_dimensions_in_closed_form():
    heat = np.geomspace(1e-3, 10, 30)
    assert vmf_energy(3, heat) == pytest.approx(1 - 1 / np.tanh(1 / heat) + heat, rel=1e-10)
    cold = np.array([0.05, 0.1, 0.2])
    # the correction to U = T and S = ln(2 pi e T) is exponentially small
    assert (np.abs(vmf_energy(3, cold) - cold) < 3 * np.exp(-2 / cold) + 1e-12).all()
    entropy = np.log(2 * np.pi * np.e * cold)
    assert (np.abs(vmf_entropy(3, cold) - entropy) < 3 / cold * np.exp(-2 / cold) + 1e-12).all()


@pytest.mark.parametrize("dimension", [2, 4, 10, 50])
def test_small_temperatures_to_the_stated_order(dimension):
    """U = (d-1)T/2 - (d-1)(d-3)T²/8 + O(T³) and S = (d-1)/2 ln(2 pi e T) - (d-1)(d-3)T/4 + O(T²)."""
    heat = 1e-2 / dimension * np.array([1, 0.5, 0.25])
    half = (dimension - 1) / 2
    energy = vmf_energy(dimension, heat) - half * heat
    entropy = vmf_entropy(dimension, heat) - half * np.log(2 * np.pi * np.e * heat)
    assert energy[:-1] / energy[1:] == pytest.approx(4, rel=0.02)
    assert entropy[:-1] / entropy[1:] == pytest.approx(2, rel=0.02)
    second = (dimension - 1) * (dimension - 3) / 8
    rest = energy + second * heat**2, entropy + 2 * second * heat
    assert rest[0][:-1] / rest[0][1:] == pytest.approx(8, rel=0.05)
    assert rest[1][:-1] / rest[1][1:] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("dimension", [2, 3, 17, 300])
def test_large_temperatures(dimension):
    assert vmf_entropy(dimension, 1e6) == pytest.approx(sphere_log_area(dimension), abs=1e-9)
    assert vmf_energy(dimension, 1e6) == pytest.approx(1 - 1e-6 / dimension, abs=1e-12)


@given(dimension=st.integers(2, 2000), log_heat=st.floats(-12, 3))
@settings(max_examples=80, deadline=None)
def test_first_law(dimension, log_heat):
    """dU = T dS, and both grow with T."""
    heat = math.exp(log_heat)
    step = 1e-4
    warm, cold = heat * (1 + step), heat * (1 - step)
    d_energy = vmf_energy(dimension, warm) - vmf_energy(dimension, cold)
    d_entropy = vmf_entropy(dimension, warm) - vmf_entropy(dimension, cold)
    assert d_energy > 0
    # rounding of S, which is of order d, against a difference of order 1e-4
    assert d_energy / heat == pytest.approx(d_entropy, rel=1e-6, abs=1e-12 * (dimension + 10))
    assert 0 < vmf_energy(dimension, heat) < 1
    assert vmf_entropy(dimension, heat) <= sphere_log_area(dimension) + 1e-9


@pytest.mark.parametrize("dimension", [2, 3, 5, 30, 400])
@pytest.mark.parametrize("heat", [1e-12, 1e-3, 0.1, 1.0, 50.0])
def test_samples_have_the_mean_energy_and_no_preferred_side(dimension, heat):
    mean = np.arange(1.0, dimension + 1)
    axis = mean / np.linalg.norm(mean)
    x = vmf_sample(mean, heat, 4000, np.random.default_rng([dimension, int(heat * 1000)]))
    assert np.linalg.norm(x, axis=1) == pytest.approx(1, abs=1e-14)
    # 1 - cos from the chord, which keeps its digits
    energy = ((x - axis) ** 2).sum(axis=1) / 2
    assert energy.mean() == pytest.approx(vmf_energy(dimension, heat), abs=4 * energy.std() / math.sqrt(4000))
    side = x - (x @ axis)[:, None] * axis
    spread = np.linalg.norm(side, axis=1, keepdims=True)
    mean_side = (side / spread).mean(axis=0)
    # (d - 1)-dimensional: |mean|² is chi² / (4000 (d - 1)) with d - 1 degrees of freedom
    assert (mean_side**2).sum() * 4000 < 1 + 6 * math.sqrt(2 / (dimension - 1)) + 10 / (dimension - 1)


@pytest.mark.parametrize("heat", [1e-6, 0.05, 0.5, 20.0])
def test_samples_follow_the_law_in_two_and_three_dimensions(heat):
    generator = np.random.default_rng(7)
    sink = ((vmf_sample([0, 0, 2.0], heat, 3000, generator) - [0, 0, 1]) ** 2).sum(axis=1) / 2
    assert stats.kstest(sink, lambda s: np.expm1(-s / heat) / np.expm1(-2 / heat)).pvalue > 1e-3
    x = vmf_sample([1.0, 0.0], heat, 3000, generator)
    angle = np.arctan2(x[:, 1], x[:, 0])
    assert stats.kstest(angle, stats.vonmises(kappa=1 / heat).cdf).pvalue > 1e-3


def test_samples_come_from_the_generator_alone():
    first = vmf_sample([1.0, 2.0], 0.1, 50, np.random.default_rng(3))
    assert (first == vmf_sample(torch.tensor([1.0, 2.0]), 0.1, 50, np.random.default_rng(3))).all()
    assert (first != vmf_sample([1.0, 2.0], 0.1, 50, np.random.default_rng(4))).any()


def test_shapes():
    assert isinstance(vmf_energy(3, 0.1), float)
    assert vmf_entropy(3, np.full((2, 3), 0.1)).shape == (2, 3)
    assert vmf_energy(5, torch.tensor([0.1, 0.2])).shape == (2,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vmf_energy(1, 0.1), "at least 2"),
        (lambda: vmf_energy(3.0, 0.1), "integer"),
        (lambda: vmf_energy(3, 0.0), "temperature is 0; it must be positive"),
        (lambda: vmf_entropy(3, [0.1, -1]), "temperature is -1"),
        (lambda: vmf_entropy(3, []), "empty"),
        (lambda: vmf_entropy(True, 0.1), "integer"),
        (lambda: vmf_sample([1.0], 0.1, 3, np.random.default_rng()), "direction"),
        (lambda: vmf_sample([0.0, 0.0], 0.1, 3, np.random.default_rng()), "direction"),
        (lambda: vmf_sample([1.0, 0.0], -0.1, 3, np.random.default_rng()), "temperature"),
        (lambda: vmf_sample([1.0, 0.0], 0.1, 0, np.random.default_rng()), "size is 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
