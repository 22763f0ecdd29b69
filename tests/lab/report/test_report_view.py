from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onsphere.lab.report.regimes_view import Curve, RegimesView, Region


def with_boundary(view: RegimesView, name: str, **fields: Any) -> RegimesView:
    return replace(view, boundaries={**view.boundaries, name: {**view.boundaries[name], **fields}})


def test_resolved_boundaries_give_three_regions_and_no_gap(view: RegimesView) -> None:
    left, right = view.elr_range
    convergence, divergence = view.boundary("convergence"), view.boundary("divergence")
    assert view.regions() == [
        Region("convergence", left, convergence.low),
        Region("chaotic_equilibrium", convergence.high, divergence.low),
        Region("divergence", divergence.high, right),
    ]
    assert view.gaps() == []
    assert len(view.brackets()) == 2


def test_a_tentative_bracket_vouches_for_neither_side(view: RegimesView) -> None:
    tentative = with_boundary(view, "convergence", low=3e-4, high=3e-3, resolved=False, reason="slow")
    divergence = tentative.boundary("divergence")
    assert [region.regime for region in tentative.regions()] == ["divergence"]
    assert tentative.gaps() == [(tentative.elr_range[0], divergence.low)]


def test_a_map_that_ends_too_early_keeps_the_side_it_has_seen(view: RegimesView) -> None:
    short = with_boundary(view, "divergence", low=0.1, high=None, resolved=False, reason="raise the grid")
    assert [region.regime for region in short.regions()] == ["convergence", "chaotic_equilibrium"]
    assert short.regions()[1].right == 0.1
    assert short.gaps() == [(0.1, short.elr_range[1])]


def test_without_interpolation_one_end_proves_no_convergence(view: RegimesView) -> None:
    everything_falls = with_boundary(view, "convergence", low=1e-2, high=None, resolved=False, reason="slow")
    assert everything_falls.regions()[0] == Region("convergence", view.elr_range[0], 1e-2)
    slow = replace(everything_falls, cells=[{**cell, "train_error": 0.2} for cell in view.cells])
    assert [region.regime for region in slow.regions()] == ["divergence"]


def test_nothing_known_nothing_shaded(view: RegimesView) -> None:
    blank: dict[str, Any] = {"low": None, "high": None, "resolved": False, "reason": "one ELR", "per_seed": []}
    unknown = replace(view, boundaries={"convergence": blank, "divergence": blank})
    assert unknown.regions() == [] and unknown.brackets() == []
    assert unknown.gaps() == [unknown.elr_range]


def test_one_bracket_for_both_boundaries_leaves_no_middle(view: RegimesView) -> None:
    same = {"low": 1e-2, "high": 2e-2}
    jump = with_boundary(with_boundary(view, "convergence", **same), "divergence", **same)
    assert [region.regime for region in jump.regions()] == ["convergence", "divergence"]
    assert len(jump.brackets()) == 1


def test_medians_leave_out_elrs_few_seeds_tried_and_values_that_are_not_finite(view: RegimesView) -> None:
    lone = {**view.cells[0], "elr": 0.5, "loss": 9.0}
    broken = [{**cell, "loss": np.nan} if cell["elr"] == 1.0 else cell for cell in view.cells]
    elrs, medians = replace(view, cells=[*broken, lone]).median_over_seeds("loss")
    assert 0.5 not in elrs and 1.0 not in elrs and len(elrs) == len(medians)
    at = [cell["loss"] for cell in view.cells if cell["elr"] == elrs[0]]
    assert medians[0] == pytest.approx(np.median(at))
    _, relative = view.median_over_seeds("loss_at_init", relative_to="loss_at_init")
    np.testing.assert_allclose(relative, 1)


def test_short_reprs(view: RegimesView) -> None:
    assert repr(view).startswith("RegimesView('Three regimes")
    assert repr(view.curves[0]) == "Curve(elr=0.0001, seed=0, regime='convergence', points=60)"


def test_a_single_elr_still_has_an_axis(make_view: Callable[..., RegimesView]) -> None:
    view = make_view()
    one = replace(view, cells=[view.cells[0]])
    low, high = one.elr_range
    assert low < view.cells[0]["elr"] < high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": []}, "0 cells and 80 curves"),
        ({"cells": [{"elr": 1.0}]}, r"cells\[0\] lacks seed, regime"),
        ({"boundaries": {"convergence": {}}}, "give both 'convergence' and 'divergence'"),
        ({"boundaries": {"convergence": {}, "divergence": {}}}, r"boundaries\['convergence'\] lacks low, high"),
    ],
)
def test_incomplete_views_are_refused(view: RegimesView, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(view, **change)


def test_bad_cells_and_curves_are_refused(view: RegimesView) -> None:
    with pytest.raises(ValueError, match="regime is 'chaos'; allowed are convergence, chaotic_equilibrium"):
        replace(view, cells=[{**view.cells[0], "regime": "chaos"}])
    with pytest.raises(ValueError, match="elr is -1"):
        replace(view.curves[0], elr=-1)
    with pytest.raises(ValueError, match=r"loss has shape \(2,\), steps \(60,\)"):
        replace(view.curves[0], loss=np.ones(2))
    assert isinstance(replace(view.curves[0], seed=4), Curve)
