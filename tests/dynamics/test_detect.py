import doctest
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.dynamics import detect
from onsphere.dynamics.detect import DROP, ZigzagDetector, zigzag_jumps

# On a grid that keeps clear of the drops, so that rounding in exp and log decides nothing.
LOGS = st.lists(st.integers(-200, 200).map(lambda whole: whole / 64), min_size=1, max_size=60)
DROPS = st.sampled_from([0.05, DROP, 0.99])


def test_a_peak_is_a_jump_once_the_elr_has_dropped_by_a_fifth():
    assert math.isclose(math.exp(DROP), 1.25)
    climb = np.geomspace(1, 3, 20)
    assert zigzag_jumps([*climb, 3 / 1.24]).tolist() == []
    assert zigzag_jumps([*climb, 3 / 1.26]).tolist() == [19]
    assert zigzag_jumps([*climb, 2.9, 2.8, 2.7, 2.6, 2.5, 2.3]).tolist() == [19]  # a drop may take several steps
    assert zigzag_jumps([*climb, 3 / 1.26], drop=math.log(1.3)).tolist() == []


def test_noise_smaller_than_the_drop_makes_no_jumps():
    rng = np.random.default_rng(0)
    sawtooth = np.tile(np.geomspace(1, 2.5, 200), 10) * np.exp(rng.uniform(-0.05, 0.05, 2000))
    found = zigzag_jumps(sawtooth)
    assert len(found) == 9  # the tenth has not dropped yet
    assert np.abs(found - np.arange(199, 1999, 200)).max() < 25


def test_one_long_fall_is_one_jump():
    trace = [1.0, 2.0, *(2.0 * 0.7 ** np.arange(1, 9)), 0.2]
    assert zigzag_jumps(trace).tolist() == [1]


def test_a_trace_that_begins_with_a_fall_begins_with_no_jump():
    assert zigzag_jumps([4.0, 2.0, 1.0, 2.0, 1.0]).tolist() == [3]
    assert zigzag_jumps([1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0], burn_in=2).tolist() == [5]  # 4.0 is the first counted
    assert zigzag_jumps([1.0, 2.0], burn_in=5).tolist() == []


def test_the_last_peak_is_pending_until_it_drops():
    detector = ZigzagDetector()
    assert detector.pending is None
    assert detector.extend([1.0, 2.0]) == [] and detector.pending == 1
    assert detector.push(3.0) is None and detector.pending == 2
    assert detector.push(2.9) is None and detector.pending == 2
    assert detector.push(1.0) == 2 and detector.pending is None
    assert detector.push(2.0) is None and detector.pending == 5
    assert (detector.peaks, detector.troughs, detector.count) == ([2], [4], 6)


def characterise(logs, peaks, troughs, drop):
    """What makes a list of turns the zigzag of a trace, checked on the trace itself."""
    turns = sorted([(at, "peak") for at in peaks] + [(at, "trough") for at in troughs])
    assert all(a[1] != b[1] for a, b in pairwise(turns))
    for (a, kind), (b, _) in pairwise(turns):
        piece = logs[a : b + 1] if kind == "trough" else -logs[a : b + 1]
        assert piece[-1] - piece[0] > drop  # far enough from turn to turn,
        assert piece.min() == piece[0] and piece.max() == piece[-1]  # which are the extremes,
        assert (np.maximum.accumulate(piece) - piece).max() <= drop  # with no turn between


@settings(max_examples=200, deadline=None)
@given(LOGS, DROPS)
def test_turns_alternate_and_are_the_extremes_between_their_neighbours(values, drop):
    logs = np.array(values)
    detector = ZigzagDetector(drop=drop)
    found = detector.extend_log(values)
    assert found == detector.peaks
    characterise(logs, detector.peaks, detector.troughs, drop)
    if detector.peaks:  # the last peak did drop
        last = detector.peaks[-1]
        assert logs[last] - logs[last:].min() > drop
    if detector.troughs and detector.pending is not None:  # and since the last trough nothing dropped so far
        rest = logs[detector.troughs[-1] :]
        assert (np.maximum.accumulate(rest) - rest).max() <= drop
        assert logs[detector.pending] == rest.max()


@settings(max_examples=100, deadline=None)
@given(LOGS, DROPS, st.integers(0, 60), st.integers(0, 5))
def test_feeding_piece_by_piece_finds_the_same(values, drop, cut, burn_in):
    elr = np.exp(values)
    whole = zigzag_jumps(elr, drop=drop, burn_in=burn_in).tolist()
    pieces = ZigzagDetector(drop=drop, burn_in=burn_in)
    first = pieces.extend_log(np.log(elr[:cut]).tolist())
    rest = [pieces.push(value) for value in elr[cut:].tolist()]
    assert first + [at for at in rest if at is not None] == pieces.peaks == whole
    assert pieces.count == len(values)


@settings(max_examples=50, deadline=None)
@given(LOGS, st.integers(-8, 8))
def test_the_unit_of_the_elr_does_not_matter(values, power):
    elr = np.exp(values)
    assert zigzag_jumps(elr).tolist() == zigzag_jumps(elr * 2.0**power).tolist()


def test_jumps_come_as_an_integer_array_also_when_there_is_none():
    assert zigzag_jumps([1.0]).dtype == np.int64 and zigzag_jumps([1.0]).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zigzag_jumps([]), "elr is empty"),
        (lambda: zigzag_jumps([1.0, 0.0]), "elr is 0; it must be positive"),
        (lambda: zigzag_jumps([1.0, math.nan]), "elr holds nan"),
        (lambda: zigzag_jumps([[1.0, 2.0]]), r"elr has shape \(1, 2\)"),
        (lambda: zigzag_jumps([1.0], drop=0.0), "drop is 0.0"),
        (lambda: zigzag_jumps([1.0], drop=math.inf), "drop is inf"),
        (lambda: zigzag_jumps([1.0], burn_in=-1), "burn_in is -1"),
        (lambda: ZigzagDetector(burn_in=1.5), "burn_in is 1.5"),
        (lambda: ZigzagDetector().push(-1.0), "ELR 0 is -1.0"),
        (lambda: ZigzagDetector().push(math.inf), "ELR 0 is inf"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples_of_the_docstrings():
    assert doctest.testmod(detect).failed == 0
    assert doctest.testmod(detect).attempted >= 3
