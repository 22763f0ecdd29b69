"""Which stretches of the axis a map vouches for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onsphere.lab.experiments.regimes.classify import Boundary
from onsphere.lab.experiments.regimes.result import Region, brackets, elr_range, gaps, regions
from synthetic_map import Map, synthetic_map


@pytest.fixture(scope="module")
def regimes() -> Map:
    return synthetic_map()


def regions_of(one: Map) -> list[Region]:
    return regions(one.result.cells, one.result.boundaries)


def gaps_of(one: Map) -> list[tuple[float, float]]:
    return gaps(one.result.cells, one.result.boundaries)


def test_resolved_boundaries_give_three_regions_and_no_gap(regimes: Map) -> None:
    left, right = elr_range(regimes.result.cells)
    convergence, divergence = regimes.result.boundaries["convergence"], regimes.result.boundaries["divergence"]
    assert regions_of(regimes) == [
        Region("convergence", left, convergence.low),
        Region("chaotic_equilibrium", convergence.high, divergence.low),
        Region("divergence", divergence.high, right),
    ]
    assert gaps_of(regimes) == []
    assert len(brackets(regimes.result.boundaries)) == 2


def test_a_tentative_bracket_vouches_for_neither_side(regimes: Map) -> None:
    tentative = regimes.bounded("convergence", low=3e-4, high=3e-3, resolved=False, reason="slow")
    assert [region.regime for region in regions_of(tentative)] == ["divergence"]
    low = tentative.result.boundaries["divergence"].low
    assert gaps_of(tentative) == [(elr_range(tentative.result.cells)[0], low)]


def test_a_map_that_ends_too_early_keeps_the_side_it_has_seen(regimes: Map) -> None:
    short = regimes.bounded("divergence", low=0.1, high=None, resolved=False, reason="raise the grid")
    assert [region.regime for region in regions_of(short)] == ["convergence", "chaotic_equilibrium"]
    assert regions_of(short)[1].right == 0.1
    assert gaps_of(short) == [(0.1, elr_range(short.result.cells)[1])]


def test_without_interpolation_one_end_proves_no_convergence(regimes: Map) -> None:
    everything_falls = regimes.bounded("convergence", low=1e-2, high=None, resolved=False, reason="slow")
    assert regions_of(everything_falls)[0] == Region("convergence", elr_range(regimes.result.cells)[0], 1e-2)
    slow = everything_falls.but(cells=[replace(cell, train_error=0.2) for cell in regimes.result.cells])
    assert [region.regime for region in regions_of(slow)] == ["divergence"]


def test_nothing_known_nothing_shaded(regimes: Map) -> None:
    blank = Boundary(None, None, False, "one ELR")
    unknown = regimes.but(boundaries={"convergence": blank, "divergence": blank})
    assert regions_of(unknown) == [] and brackets(unknown.result.boundaries) == []
    assert gaps_of(unknown) == [elr_range(unknown.result.cells)]


def test_one_bracket_for_both_boundaries_leaves_no_middle(regimes: Map) -> None:
    jump = regimes.bounded("convergence", low=1e-2, high=2e-2).bounded("divergence", low=1e-2, high=2e-2)
    assert [region.regime for region in regions_of(jump)] == ["convergence", "divergence"]
    assert len(brackets(jump.result.boundaries)) == 1


def test_a_single_elr_still_has_an_axis(regimes: Map) -> None:
    low, high = elr_range(regimes.result.cells[:1])
    assert low < regimes.result.cells[0].elr < high
