import doctest
import json
import math
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.dynamics.toys import _backends, pair_loss, pair_threshold, pairs, simulate_pairs, two_cycle

ALPHAS = [1.0, 2.0, 4.0]
COMPARED = ("loss", "shares", "fractions", "individual_elrs", "recorded_loss", "recorded_elrs")
needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is an optional accelerator")


def plain_descent(alphas, elr, positions, steps):
    """Projected gradient descent on x and y themselves, as one would write it down."""
    x, y = positions.T / np.linalg.norm(positions)
    for _ in range(steps):
        square = x**2 + y**2
        push = 2 * alphas * x * y / square**2
        x, y = x - elr * push * y, y + elr * push * x
        norm = math.sqrt((x**2 + y**2).sum())
        x, y = x / norm, y / norm
    return x, y


# The regimes -------------------------------------------------------------------------------------------------------


def test_a_single_pair_converges_below_its_threshold_and_cycles_above():
    run = simulate_pairs(1.0, [0.99, 1.5, 3.0, 10.0], 20_000)
    assert run.loss[0] < 1e-12
    np.testing.assert_allclose(run.loss[1:], [1 / 6, 1 / 3, 0.45], rtol=1e-9)
    np.testing.assert_allclose(run.loss[1:], two_cycle([1.5, 3.0, 10.0]).fraction, rtol=1e-9)


def test_three_pairs_converge_up_to_the_threshold_and_follow_the_formula_above():
    elrs = [0.05, 0.1, 0.135, 0.142, 0.144, 0.15, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 100.0]
    run = simulate_pairs(ALPHAS, elrs, 20_000)
    assert pair_threshold(ALPHAS) == pytest.approx(1 / 7)
    assert run.loss[:4].max() < 1e-6
    np.testing.assert_allclose(run.loss[4:7], [0.02778, 0.16667, 1.0], rtol=1e-3)
    np.testing.assert_allclose(run.loss[4:], pair_loss(ALPHAS, elrs[4:]), rtol=0.1)
    assert run.loss[-1] == pytest.approx(3.5, rel=0.01) and run.loss_at_random == 3.5


def test_twenty_random_sets_of_coefficients_follow_the_closed_form():
    c = np.array([0.3, 0.5, 0.8, 0.9, 1.05, 1.1, 1.25, 2, 3, 5, 10, 30, 100])
    starts, rng = 4, np.random.default_rng(20)
    for number in range(20):
        alphas = 10 ** rng.uniform(-1, 1, size=1 + (number * 7) % 12)
        run = simulate_pairs(alphas, np.repeat(c / alphas.sum(), starts), 20_000, seed=number)
        ratio = (run.loss / run.loss_at_random).reshape(-1, starts).mean(axis=1)
        deviation = np.abs(ratio - (1 - 1 / c))
        assert ratio[c <= 0.9].max() < 1e-6
        assert deviation[(c > 1) & (c < 1.5)].max() < 0.01
        assert deviation[c >= 2].max() < 0.09


def test_beyond_the_threshold_the_loss_rises_smoothly():
    # Half of the random level at twice the threshold, nine tenths at ten times: a crossover, no second threshold.
    c = np.geomspace(1.02, 60, 60)
    run = simulate_pairs([0.3, 1.0, 2.0, 0.7, 1.5], np.repeat(c / 5.5, 8), 6000)
    ratio = (run.loss / run.loss_at_random).reshape(-1, 8).mean(axis=1)
    assert np.diff(ratio).max() < 0.08 and np.diff(ratio).min() > -0.03
    assert np.interp([2, 10], c, ratio) == pytest.approx([0.5, 0.9], abs=0.09)


def test_above_the_threshold_the_pairs_share_one_effective_step():
    run = simulate_pairs(ALPHAS, [0.15, 0.2], 20_000)
    np.testing.assert_allclose(run.individual_elrs * run.alphas, run.elrs[:, None] * 7 * np.ones(3), rtol=0.02)
    below = simulate_pairs(ALPHAS, [0.1, 0.14], 20_000)
    assert (below.individual_elrs * below.alphas).max() < 1  # every pair ended below its own threshold


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0.1, 10), min_size=1, max_size=6),
    st.floats(0.05, 0.8),
    st.floats(1.02, 1.3),
    st.integers(0, 2**32),
)
def test_convergence_below_and_the_balanced_cycle_above(alphas, below, above, seed):
    total = sum(alphas)
    run = simulate_pairs(alphas, [below / total, above / total], 20_000, seed=seed)
    assert run.loss[0] / run.loss_at_random < 1e-6
    assert run.loss[1] / run.loss_at_random == pytest.approx(1 - 1 / above, abs=0.01)


# The 2-cycle -------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.floats(1.01, 100))
def test_the_cycle_repeats_and_shrinks_deviations_by_its_multiplier(c):
    cycle = two_cycle(c)
    assert math.cos(2 * cycle.angle) == pytest.approx(1 / c)
    assert math.sin(cycle.angle) ** 2 == pytest.approx(cycle.fraction)

    def step(t):
        return t * (1 + t * t - 2 * c) / (1 + t * t + 2 * c * t * t)

    t, h = math.tan(cycle.angle), 1e-6
    assert step(t) == pytest.approx(-t, rel=1e-9) and step(step(t)) == pytest.approx(t, rel=1e-9)
    slope = (step(t * (1 + h)) - step(t * (1 - h))) / (2 * h * t)
    assert abs(slope) == pytest.approx(abs(cycle.multiplier), abs=1e-6)
    run = simulate_pairs(1.0, c, 1, start=[[math.sin(cycle.angle), math.cos(cycle.angle)]])
    assert run.fractions[0, 0] == pytest.approx(cycle.fraction, rel=1e-9)


# What is simulated -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=12), st.floats(0.1, 1.3), st.integers(0, 2**32))
def test_squares_follow_plain_projected_gradient_descent(alphas, c, seed):
    alphas = np.array(alphas)
    positions = np.random.default_rng(seed).normal(size=(len(alphas), 2))
    elr = c / alphas.sum()
    run = simulate_pairs(alphas, elr, 20, start=positions)
    x, y = plain_descent(alphas, elr, positions, 20)
    np.testing.assert_allclose(run.shares[0], x**2 + y**2, rtol=1e-6)
    np.testing.assert_allclose(run.fractions[0], x**2 / (x**2 + y**2), rtol=1e-6, atol=1e-12)


def test_traces_window_and_shares_fit_together():
    elrs = np.array([0.1, 0.16, 2.0])
    run = simulate_pairs(ALPHAS, elrs, 40, record_every=1, window=40)
    assert run.recorded_steps.tolist() == list(range(41))
    assert run.recorded_loss.shape == (3, 41) and run.recorded_elrs.shape == (3, 41, 3)
    np.testing.assert_allclose(run.recorded_loss[:, :-1].mean(axis=1), run.loss, rtol=1e-12)
    np.testing.assert_allclose(run.recorded_loss[:, -1], run.fractions @ run.alphas, rtol=1e-12)
    np.testing.assert_allclose((elrs[:, None, None] / run.recorded_elrs).sum(axis=2), 1, rtol=1e-12)
    np.testing.assert_allclose(elrs[:, None] / run.recorded_elrs[:, -1], run.shares, rtol=1e-12)
    np.testing.assert_allclose((1 / run.individual_elrs).sum(axis=1), 1 / elrs, rtol=1e-12)
    half = simulate_pairs(ALPHAS, elrs, 40, record_every=15)
    assert half.window == 20 and half.recorded_steps.tolist() == [0, 15, 30]
    np.testing.assert_array_equal(half.recorded_loss, run.recorded_loss[:, [0, 15, 30]])
    np.testing.assert_allclose(run.recorded_loss[:, 20:40].mean(axis=1), half.loss, rtol=1e-12)


def test_a_run_depends_on_its_place_and_the_seed_alone():
    long = simulate_pairs(ALPHAS, [0.1, 0.2, 0.2, 1.0], 300, seed=5)
    short = simulate_pairs(ALPHAS, [0.1], 300, seed=5)
    np.testing.assert_array_equal(long.shares[:1], short.shares)
    np.testing.assert_array_equal(long.loss[:1], short.loss)
    assert long.loss[1] != long.loss[2]  # the same ELR from another start
    assert simulate_pairs(ALPHAS, [0.2], 300, seed=6).loss[0] != simulate_pairs(ALPHAS, [0.2], 300, seed=5).loss[0]


def test_random_starts_are_uniform_on_the_sphere():
    start = simulate_pairs(ALPHAS, np.full(4000, 1e-3), 1, record_every=1)
    assert start.recorded_loss[:, 0].mean() == pytest.approx(3.5, abs=0.05)
    np.testing.assert_allclose((1e-3 / start.recorded_elrs[:, 0]).mean(axis=0), 1 / 3, atol=0.01)


def test_a_converged_pair_grows_again_once_it_is_unstable():
    run = simulate_pairs(1.0, 1.5, 4000, start=[[1e-95, 1.0]])
    assert run.loss[0] == pytest.approx(1 / 6)
    floored = simulate_pairs(1.0, 0.9, 20_000, start=[[0.0, 1.0]])
    assert 0 < floored.fractions[0, 0] <= 1e-199  # never exactly zero, never a slow subnormal number
    assert simulate_pairs(1.0, 1.5, 4000, start=[[0.0, 1.0]]).loss[0] == pytest.approx(1 / 6)


def test_only_the_direction_of_a_start_matters():
    start = np.random.default_rng(0).normal(size=(2, 3, 2))
    one, other = (simulate_pairs(ALPHAS, [0.1, 0.3], 50, start=start * 2.0**power) for power in (0, 600))
    np.testing.assert_array_equal(one.shares, other.shares)
    assert one.seed is None
    same = simulate_pairs(ALPHAS, [0.1, 0.3], 50, start=start[0])
    np.testing.assert_array_equal(same.shares[0], one.shares[0])


def test_extreme_elrs_stay_finite():
    run = simulate_pairs([1.0, 1e-8], [1e-30, 1e-3, 1e12, 9e29], 2000)
    for name in ("loss", "shares", "fractions", "individual_elrs"):
        assert np.isfinite(getattr(run, name)).all()
    np.testing.assert_allclose(run.shares.sum(axis=1), 1)


# Backends ----------------------------------------------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize(("pairs_", "runs"), [(1, 1), (3, 2), (12, 1), (12, 3), (5, 64), (5, 65), (2, 200), (9, 2000)])
def test_numba_gives_the_bits_of_numpy(pairs_, runs):
    rng = np.random.default_rng(pairs_ * runs)
    alphas = rng.uniform(0.1, 5, pairs_)
    elrs = 10 ** rng.uniform(-1, 2, runs) / alphas.sum()
    plain = simulate_pairs(alphas, elrs, 300, record_every=37, backend="numpy")
    compiled = simulate_pairs(alphas, elrs, 300, record_every=37, backend="numba")
    assert (plain.backend, compiled.backend) == ("numpy", "numba")
    for name in COMPARED:
        np.testing.assert_array_equal(getattr(plain, name), getattr(compiled, name), err_msg=name)


def test_blocks_of_runs_do_not_change_the_numbers(monkeypatch):
    elrs = np.geomspace(0.01, 10, 129)  # one more than two blocks of 64
    whole = simulate_pairs(ALPHAS, elrs, 200, backend="numpy")
    monkeypatch.setattr("onsphere.dynamics.toys._kernels._CACHED", 1)
    np.testing.assert_array_equal(simulate_pairs(ALPHAS, elrs, 200, backend="numpy").shares, whole.shares)


def test_auto_takes_numba_for_long_runs_where_it_is_installed(monkeypatch):
    assert _backends.choose("auto", steps=1000, pairs=10) == "numpy"
    monkeypatch.setattr(_backends, "find_spec", lambda name: object())
    assert _backends.choose("auto", steps=10**7, pairs=10) == "numba"
    monkeypatch.setattr(_backends, "find_spec", lambda name: None)
    assert _backends.choose("auto", steps=10**7, pairs=10) == "numpy"
    with pytest.raises(ImportError, match=r"pip install onsphere\[fast\]"):
        simulate_pairs(ALPHAS, 0.1, 10, backend="numba")


@needs_numba
def test_compiled_loops_work_where_nothing_can_be_cached(monkeypatch):
    import numba

    jit = numba.njit

    def without_a_cache(function, *, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return jit(function, **options)

    monkeypatch.setattr(numba, "njit", without_a_cache)
    loops = _backends._compiled.__wrapped__("decay")
    squares, totals, fractions = np.full((2, 1), 0.5), np.empty((2, 1)), np.empty((2, 1))
    loops(squares, np.array([0.9]), np.zeros(1), totals, fractions)
    assert totals[0, 0] == 1.0 and fractions[0, 0] == 0.5


def test_importing_the_toys_does_not_import_numba():
    code = "import sys; from onsphere.dynamics import toys, detect; toys.simulate_pairs(1.0, 1.5, 10)"
    code += "; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Results and refusals ----------------------------------------------------------------------------------------------


def test_results_are_plain_values_for_json():
    run = simulate_pairs(ALPHAS, [0.1, 0.2], 100, record_every=50)
    found = json.loads(json.dumps(run.to_dict(), allow_nan=False))
    assert list(found["rows"][0]) == ["elr", "loss", "predicted_loss", "loss_at_random"]
    assert found["rows"][1]["predicted_loss"] == pytest.approx(1.0)
    assert found["recorded_steps"] == [0, 50, 100] and len(found["shares"][0]) == 3
    assert simulate_pairs(ALPHAS, 0.1, 100).to_dict()["recorded_loss"] is None
    assert repr(run).splitlines()[0] == "PairsRun: 3 pairs, 2 runs of 100 steps, threshold 0.1429, loss at random 3.5"
    assert "and 4 more" in repr(simulate_pairs(ALPHAS, np.full(10, 0.1), 10))
    assert two_cycle(2.0).to_dict()["fraction"] == 0.25


def test_frame_has_a_row_a_run_or_says_what_to_install():
    run = simulate_pairs(ALPHAS, [0.1, 0.2], 100)
    if find_spec("pandas") is None:
        with pytest.raises(ImportError, match="pip install pandas"):
            run.to_frame()
    else:
        frame = run.to_frame()
        assert len(frame) == 2 and frame["share_2"].tolist() == run.shares[:, 2].tolist()


def test_laws_take_arrays_and_tensors():
    torch = pytest.importorskip("torch")
    found = pair_loss(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([[0.1, 0.2]]))
    np.testing.assert_allclose(found, [[0, 1]], rtol=1e-6, atol=1e-12)
    assert isinstance(pair_loss(ALPHAS, 0.2), float)
    assert two_cycle([2.0, 4.0]).multiplier.tolist() == [0.5, 0.875]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate_pairs([], 0.1), "alphas is empty"),
        (lambda: simulate_pairs([1.0, 0.0], 0.1), "alphas is 0; it must be positive"),
        (lambda: simulate_pairs([[1.0]], 0.1), r"alphas has shape \(1, 1\)"),
        (lambda: simulate_pairs([1.0, 1e40], 0.1), "alphas reach from 1 to 1e"),
        (lambda: simulate_pairs(ALPHAS, []), "elrs is empty"),
        (lambda: simulate_pairs(ALPHAS, [0.1, -0.2]), "elrs is -0.2; it must be positive"),
        (lambda: simulate_pairs(ALPHAS, [[0.1]]), r"elrs has shape \(1, 1\)"),
        (lambda: simulate_pairs(ALPHAS, 1e30), r"elrs \* sum\(alphas\) reaches 7e\+30"),
        (lambda: simulate_pairs(ALPHAS, 0.1, 0), "steps is 0; it must be a whole number of at least 1"),
        (lambda: simulate_pairs(ALPHAS, 0.1, 1.5), "steps is 1.5"),
        (lambda: simulate_pairs(ALPHAS, 0.1, 10, window=11), "window is 11; it must be a whole number from 1 to 10"),
        (lambda: simulate_pairs(ALPHAS, 0.1, 10, record_every=-1), "record_every is -1"),
        (lambda: simulate_pairs(ALPHAS, 0.1, 10, seed=-1), "seed is -1"),
        (
            lambda: simulate_pairs(ALPHAS, 0.1, 10, backend="jax"),
            "backend is 'jax'; it must be one of auto, numpy, numba",
        ),
        (lambda: simulate_pairs(ALPHAS, 0.1, 10, start=[[1.0, 1.0]]), r"start has shape \(1, 2\)"),
        (lambda: simulate_pairs([1, 1], 0.1, 10, start=[[1, 1], [0, 0]]), r"a pair \(0, 0\)"),
        (lambda: simulate_pairs([1, 1], 0.1, 10, start=[[1, 1], [0, 1e-40]]), "less than 1e-60"),
        (lambda: two_cycle(1.0), "c is 1; a 2-cycle needs"),
        (lambda: two_cycle([]), "c is empty"),
        (lambda: pair_threshold(-1.0), "alphas is -1"),
        (lambda: pair_loss(ALPHAS, 0.0), "elrs is 0"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples_of_the_docstrings():
    assert doctest.testmod(pairs, optionflags=doctest.ELLIPSIS).failed == 0
