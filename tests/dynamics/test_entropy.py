"""Entropy estimators against closed forms: uniform, von Mises-Fisher, Gaussian, and a plain re-implementation.

Means over repetitions are compared within 4 of their own standard errors; where the estimator is biased the bias
allowed is stated.
"""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from scipy.special import digamma, gammaln

from onsphere.dynamics._chords import chord_bias
from onsphere.dynamics.entropy import (
    cap_log_area,
    euclidean_entropy,
    graph_entropy,
    sphere_entropy,
    sphere_log_area,
)
from onsphere.dynamics.von_mises_fisher import vmf_energy, vmf_entropy, vmf_sample


def normals(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def axis(dimension):
    return np.eye(dimension)[0]


def mean_and_error(values):
    return np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))


# --- areas ----------------------------------------------------------------------------------------------------------


def test_area_of_the_sphere():
    assert sphere_log_area(2) == pytest.approx(math.log(2 * math.pi))
    assert sphere_log_area(3) == pytest.approx(math.log(4 * math.pi))
    assert sphere_log_area(4) == pytest.approx(math.log(2 * math.pi**2))


@pytest.mark.parametrize("dimension", [2, 3, 4, 11, 101, 3001])
@pytest.mark.parametrize("angle", [1e-9, 1e-3, 0.3, 1.2, 1.5705, 1.5711, 2.5, 3.1])
def test_cap_against_high_precision(dimension, angle):
    chord = 2 * math.sin(angle / 2)
    with mpmath.workdps(40):
        x = 1 - mpmath.mpf(chord) ** 2 / 2  # the cosine this float64 chord stands for
        near = mpmath.betainc(mpmath.mpf(dimension - 1) / 2, 0.5, 0, 1 - x**2, regularized=True) / 2
        share = float(mpmath.log(near if x >= 0 else 1 - near))
    expected = share + sphere_log_area(dimension)
    assert cap_log_area(dimension, chord) == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("dimension", [2, 3, 5, 40])
def test_cap_grows_from_nothing_to_the_sphere(dimension):
    chords = np.concatenate([np.geomspace(1e-12, 1e-2, 50), np.linspace(0.011, 2, 400)])
    logs = cap_log_area(dimension, chords)
    # at 40 dimensions the far side adds less than rounding
    assert (np.diff(logs) >= (0 if dimension == 40 else 1e-12)).all()
    assert logs[-1] == pytest.approx(sphere_log_area(dimension))
    half = cap_log_area(dimension, math.sqrt(2))
    assert half == pytest.approx(sphere_log_area(dimension) - math.log(2), abs=1e-7)


def test_caps_in_two_and_three_dimensions():
    chord = np.array([1e-8, 0.5, 1.7])
    assert np.exp(cap_log_area(2, chord)) == pytest.approx(4 * np.arcsin(chord / 2), rel=1e-12)
    assert np.exp(cap_log_area(3, chord)) == pytest.approx(np.pi * chord**2, rel=1e-12)  # Archimedes


# --- known answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [2, 3, 5, 10, 20, 300])
@pytest.mark.parametrize("neighbours", [1, 4])
def test_uniform_directions_without_bias_at_any_dimension(dimension, neighbours):
    found = [sphere_entropy(normals([dimension, s], 150, dimension), neighbours=neighbours).value for s in range(60)]
    mean, error = mean_and_error(found)
    assert abs(mean - sphere_log_area(dimension)) < 4 * error
    # In many dimensions the nearest chord says less about the mass within it. The bias of exact caps is several nats.
    assert error < (0.08 if (dimension, neighbours) == (300, 1) else 0.03)


# d, T, allowed bias: measured at N = 3000, k = 3; it grows with the dimension and falls with the temperature
@pytest.mark.parametrize(
    ("dimension", "temperature", "bias"),
    [
        (2, 1e-6, 0.02),
        (2, 0.1, 0.02),
        (3, 1e-6, 0.02),
        (3, 0.1, 0.02),
        (5, 0.01, 0.06),
        (10, 0.1, 0.06),
        (20, 0.1, 0.15),
        (20, 1.0, 0.03),
        (20, 0.001, 1.0),
    ],
)
def test_von_mises_fisher(dimension, temperature, bias):
    found = []
    for seed in range(4):
        points = vmf_sample(axis(dimension), temperature, 3000, np.random.default_rng([dimension, seed]))
        found.append(sphere_entropy(points))
    mean = np.mean([e.value for e in found])
    error = np.mean([e.error for e in found]) / 2
    assert abs(mean - vmf_entropy(dimension, temperature)) < bias + 4 * error
    assert error < 0.03


@pytest.mark.parametrize(("dimension", "bias"), [(1, 0.02), (2, 0.02), (3, 0.04), (5, 0.08), (10, 0.06), (20, 1.1)])
def test_gaussian_in_flat_space(dimension, bias):
    found = [euclidean_entropy(normals([dimension, s], 3000, dimension)) for s in range(4)]
    mean, error = np.mean([e.value for e in found]), np.mean([e.error for e in found]) / 2
    assert abs(mean - dimension / 2 * math.log(2 * math.pi * math.e)) < bias + 4 * error
    assert error < 0.03


def test_bias_in_flat_space_shrinks_with_the_number_of_points():
    """Of order (k/N)^(2/d): at d = 19 slowly."""
    bias = {}
    for count in (200, 3200):
        for k in (1, 8):
            values = [euclidean_entropy(normals([s, count], count, 19), neighbours=k).value for s in range(4)]
            bias[count, k] = np.mean(values) - 19 / 2 * math.log(2 * math.pi * math.e)
    assert 0 < bias[3200, 1] < 0.75 * bias[200, 1]
    assert 0 < bias[3200, 8] < 0.75 * bias[200, 8]
    assert bias[200, 1] < bias[200, 8]


@pytest.mark.parametrize("dimension", [4, 12, 60, 200])
@pytest.mark.parametrize(("scale", "neighbours"), [(3.0, 1), (0.3, 8), (1e-9, 3)])
def test_von_mises_fisher_without_bias_at_few_points(dimension, scale, neighbours):
    """Caps of exact area are off by up to 20 nats here; the error allowed is 5 % of the standard deviation of ln p."""
    temperature = scale / dimension
    found = [
        sphere_entropy(
            vmf_sample(axis(dimension), temperature, 200, np.random.default_rng([s, dimension])), neighbours=neighbours
        ).value
        for s in range(10)
    ]
    mean, error = mean_and_error(found)
    assert abs(mean - vmf_entropy(dimension, temperature)) < 4 * error + 0.05 * math.sqrt(dimension / 2)


def temperature_of(dimension, cosine):
    """At which a von Mises-Fisher law has this mean cosine."""
    log = brentq(lambda t: 1 - vmf_energy(dimension, math.exp(t)) - cosine, -25, 5)
    return math.exp(log)


@pytest.mark.parametrize(
    ("dimension", "cosine"),
    [(3, 0.78), (3, 0.95), (100, 0.78), (100, 0.3), (1000, 0.78), (1000, 0.95), (3000, 0.78)],
)
def test_differences_in_any_dimension(dimension, cosine):
    """S(3T) - S(T) against the closed form; caps showed .65 to .8 of it and arcs 1.1 from d = 100 on."""
    cold = temperature_of(dimension, cosine)
    clouds = [vmf_sample(axis(dimension), t, 1000, np.random.default_rng([dimension, 1])) for t in (cold, 3 * cold)]
    exact = vmf_entropy(dimension, 3 * cold) - vmf_entropy(dimension, cold)
    estimates = [sphere_entropy(points) for points in clouds]
    noise = 4 * math.hypot(*(e.error for e in estimates))
    assert abs(estimates[1].value - estimates[0].value - exact) < 0.005 * exact + noise
    assert noise < (0.12 if dimension > 3 else 0.3) * exact or cosine == 0.3
    graphs = [graph_entropy(points) for points in clouds]
    # The graph's is a Rényi entropy with 50 neighbours: it is biased at d = 3, where neighbours are far at T large.
    assert graphs[1] - graphs[0] == pytest.approx(exact, rel=0.02 if dimension > 3 else 0.13, abs=noise)


@pytest.mark.parametrize("dimension", [3, 12, 400])
def test_entropies_where_the_law_is_no_von_mises_fisher(dimension):
    """Two narrow laws at right angles: half the samples each, ln 2 more than one of them."""
    temperature = 1e-4 / dimension
    rng = np.random.default_rng(dimension)
    sides = [vmf_sample(np.eye(dimension)[i], temperature, 500, rng) for i in (0, 1)]
    one = [sphere_entropy(side).value for side in sides]
    both = sphere_entropy(np.concatenate(sides))
    assert abs(both.value - np.mean(one) - math.log(2)) < 4 * both.error + 0.02 * dimension


def test_spread_shrinks_as_one_over_root_n():
    spread = []
    for count in (100, 1600):
        values = [
            sphere_entropy(vmf_sample(axis(3), 0.05, count, np.random.default_rng([s, count]))).value for s in range(80)
        ]
        spread.append(np.std(values))
    # 4 expected; each spread is known to 1 / sqrt(160) = 8 %
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.35)


@pytest.mark.parametrize(("dimension", "neighbours"), [(2, 1), (3, 1), (3, 3), (6, 3), (10, 5)])
def test_the_error_is_the_spread(dimension, neighbours):
    found = [
        sphere_entropy(
            vmf_sample(axis(dimension), 0.1, 300, np.random.default_rng([s, dimension])), neighbours=neighbours
        )
        for s in range(80)
    ]
    # the spread itself is known to 8 %
    assert 0.75 < np.mean([e.error for e in found]) / np.std([e.value for e in found]) < 1.45


def test_tiny_caps_keep_their_digits():
    """At T = 1e-20 neighbours are 1e-12 apart: cosines in float64 would see one point."""
    points = vmf_sample(axis(3), 1e-20, 4000, np.random.default_rng(0))
    estimate = sphere_entropy(points)
    assert estimate.value == pytest.approx(math.log(2 * math.pi * math.e * 1e-20), abs=4 * estimate.error + 0.02)


# --- against a plain implementation ---------------------------------------------------------------------------------


def plain_estimate(points, neighbours, log_volume, dimension):
    distances = np.sort(cdist(points, points), axis=1)[:, 1:]
    n = len(points)
    return digamma(n) - digamma(neighbours) + np.mean(log_volume(distances[:, neighbours - 1], dimension))


def ball(radius, dimension):
    return dimension * np.log(radius) + dimension / 2 * math.log(math.pi) - gammaln(dimension / 2 + 1)


@pytest.mark.parametrize("dimension", [1, 3, 10, 11, 40])  # both sides of the tree's limit
@pytest.mark.parametrize("neighbours", [1, 7])
def test_all_distances_by_hand(dimension, neighbours):
    points = normals(dimension, 700, dimension)
    value = euclidean_entropy(points, neighbours=neighbours).value
    assert value == pytest.approx(plain_estimate(points, neighbours, ball, dimension), rel=1e-10)
    if dimension > 1:
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        by_hand = plain_estimate(unit, neighbours, lambda c, d: ball(c, d - 1), dimension)
        if dimension == 3:
            assert by_hand == pytest.approx(plain_estimate(unit, neighbours, lambda c, d: cap_log_area(d, c), 3))
        found = sphere_entropy(points, neighbours=neighbours).value
        assert found == pytest.approx(by_hand - chord_bias(unit, neighbours), rel=1e-10)


@pytest.mark.parametrize("dimension", [3, 12])
def test_error_is_the_jackknife_by_hand(dimension):
    points, k = normals(dimension, 60, dimension), 2
    estimate = euclidean_entropy(points, neighbours=k)
    without = [plain_estimate(np.delete(points, j, 0), k, ball, dimension) for j in range(60)]
    jackknife = 59 / 60 * np.sum((without - np.mean(without)) ** 2)
    terms = ball(np.sort(cdist(points, points), axis=1)[:, k], dimension)
    single = max(terms.var() - (math.pi**2 / 6 - 1), 0) / 60
    assert estimate.error == pytest.approx(math.sqrt((jackknife + single) / 2), rel=1e-9)


def test_few_points_and_close_pairs_in_many_dimensions():
    points = normals(0, 5, 20)
    assert math.isfinite(euclidean_entropy(points, neighbours=3).value)
    close = np.concatenate([normals(1, 50, 20), normals(1, 50, 20) + 1e-9 * normals(2, 50, 20)])
    by_hand = plain_estimate(close, 1, ball, 20)
    assert euclidean_entropy(close, neighbours=1).value == pytest.approx(by_hand, rel=1e-6)


# --- properties -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6), dimension=st.integers(2, 14))
@settings(max_examples=25, deadline=None)
def test_scales_and_rotations(seed, scale, dimension):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((60, dimension)) + 1
    rotation, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    flat = euclidean_entropy(points).value
    assert euclidean_entropy(scale * points).value == pytest.approx(flat + dimension * math.log(scale), abs=1e-8)
    assert euclidean_entropy(points @ rotation).value == pytest.approx(flat, abs=1e-8)
    round_one = sphere_entropy(points).value
    lengths = rng.uniform(0.1, 10, (60, 1)) * scale
    assert sphere_entropy(lengths * points @ rotation).value == pytest.approx(round_one, abs=1e-7)
    graph = graph_entropy(points, neighbours=5, gamma=0.5)
    assert graph_entropy(lengths * points @ rotation, neighbours=5, gamma=0.5) == pytest.approx(graph, abs=1e-7)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_order_of_points_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((40, 4))
    first, second = sphere_entropy(points), sphere_entropy(rng.permutation(points))
    assert second.value == pytest.approx(first.value, abs=1e-12)
    assert second.error == pytest.approx(first.error, rel=1e-9)


def test_torch_tensors_and_float32():
    points = normals(3, 200, 4)
    assert sphere_entropy(torch.tensor(points)) == sphere_entropy(points)
    assert sphere_entropy(torch.tensor(points).float()).value == pytest.approx(sphere_entropy(points).value, abs=1e-5)


def test_reads_well():
    estimate = sphere_entropy(normals(3, 200, 4))
    assert estimate.to_dict().keys() == {"value", "error", "points", "dimension", "neighbours"}
    assert (estimate.points, estimate.dimension, estimate.neighbours) == (200, 3, 3)
    assert repr(estimate).startswith("EntropyEstimate: ")


# --- graph lengths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("neighbours", "allowed"), [(1, 0.05), (5, 0.05), (50, 0.05)])
def test_graph_of_uniform_directions(neighbours, allowed):
    """Every Rényi entropy of the uniform law is the log of the area."""
    found = [graph_entropy(normals(s, 3000, 3), neighbours=neighbours, absolute=True) for s in range(3)]
    assert np.mean(found) == pytest.approx(sphere_log_area(3), abs=allowed)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_graph_finds_the_renyi_entropy(gamma):
    """Of order a = 1 - gamma/D: ln(integral of p^a) / (1 - a), with ln p = -(S + (L - U) / T) for von Mises-Fisher."""
    heat, order = 0.1, 1 - gamma / 2

    def log_partition(t):  # ln of the integral of exp(-L / t)
        return vmf_entropy(3, t) - vmf_energy(3, t) / t

    expected = (log_partition(heat / order) - order * log_partition(heat)) / (1 - order)
    points = [vmf_sample(axis(3), heat, 3000, np.random.default_rng(s)) for s in range(3)]
    found = [graph_entropy(x, neighbours=5, gamma=gamma, absolute=True) for x in points]
    assert np.mean(found) == pytest.approx(expected, abs=0.08)
    assert expected - vmf_entropy(3, heat) > 0.1  # so that it is not the Shannon entropy that was found


def test_graph_formula_by_hand_and_differences():
    points = vmf_sample(axis(5), 0.01, 400, np.random.default_rng(0))
    cosines = points @ points.T
    chords = np.sort(np.sqrt(np.clip(2 - 2 * cosines, 0, 4)), axis=1)[:, 1:11]
    expected = 4 * (np.log(chords.sum()) - 3 / 4 * np.log(400))
    assert graph_entropy(points, neighbours=10) == pytest.approx(expected, rel=1e-6)
    colder = [graph_entropy(vmf_sample(axis(5), t, 1000, np.random.default_rng(1))) for t in (0.001, 0.004)]
    # where the law is nearly flat, a quarter of the temperature halves every distance
    assert colder[1] - colder[0] == pytest.approx(4 * math.log(2), abs=0.1)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sphere_entropy([]), "empty"),
        (lambda: sphere_entropy(np.ones(5)), r"shape \(5,\)"),
        (lambda: sphere_entropy(normals(0, 9, 1)), "d >= 2"),
        (lambda: sphere_entropy(normals(0, 4, 3)), "needs at least 5"),
        (lambda: sphere_entropy(normals(0, 2, 3), neighbours=1), "needs at least 3"),
        (lambda: sphere_entropy(normals(0, 9, 3), neighbours=0), "positive integer"),
        (lambda: sphere_entropy(normals(0, 9, 3), neighbours=1.5), "positive integer"),
        (lambda: sphere_entropy(normals(0, 9, 3) * np.nan), "finite"),
        (lambda: sphere_entropy(np.vstack([normals(0, 9, 3), np.zeros(3)])), "row 9 of points is zero"),
        (lambda: euclidean_entropy(np.vstack([normals(0, 9, 3)] * 2), neighbours=1), "18 points coincide"),
        (lambda: sphere_entropy(np.vstack([normals(0, 9, 3)] * 4), neighbours=3), "36 points coincide"),
        (lambda: sphere_entropy(np.vstack([normals(0, 9, 13)] * 4), neighbours=3), "36 points coincide"),
        (lambda: sphere_entropy(np.ones((9, 3))), "9 points coincide"),
        (lambda: graph_entropy(np.ones((9, 3)), neighbours=2), "no length"),
        (lambda: graph_entropy(normals(0, 60, 2)), "between 0 and d - 1 = 1"),
        (lambda: graph_entropy(normals(0, 60, 3), gamma=0.0), "gamma is 0"),
        (lambda: graph_entropy(normals(0, 51, 3)), "needs at least 52"),
        (lambda: cap_log_area(1, 0.5), "at least 2"),
        (lambda: cap_log_area(3, 0.0), r"outside \(0, 2\]"),
        (lambda: cap_log_area(3, 2.1), r"outside \(0, 2\]"),
        (lambda: sphere_log_area(2.0), "integer"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_repeated_points_are_fine_below_k():
    pairs = np.vstack([normals(0, 50, 3)] * 2)
    assert math.isfinite(sphere_entropy(pairs, neighbours=2).value)
    assert math.isfinite(graph_entropy(pairs, neighbours=3))
    many = np.vstack([normals(0, 50, 15)] * 2)
    assert math.isfinite(sphere_entropy(many, neighbours=2).value)
