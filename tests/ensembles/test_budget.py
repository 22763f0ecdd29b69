"""Sizes on the meta device, the width that fits a budget, splits and their rounding errors."""

import pytest
import torch
from torch import nn

from onsphere.ensembles import BudgetError, size_of, splits, width_for
from onsphere.lab.models import convnet, mlp, wrn28


def perceptron(width):
    return nn.Sequential(nn.Linear(49, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def test_sizes():
    found = size_of(perceptron, 7)
    parameters = 49 * 7 + 7 + 2 * 7 + 7 * 10 + 10
    assert (found.width, found.parameters) == (7, parameters)
    assert found.bytes == 4 * (parameters + 2 * 7) + 8  # running statistics, and the number of batches as int64
    assert size_of(lambda w: perceptron(w).half(), 7).bytes < found.bytes
    assert found.to_dict() == {"width": 7, "parameters": found.parameters, "bytes": found.bytes}


def test_measuring_changes_no_random_state_and_builds_what_the_meta_device_cannot():
    def reads_values(width):
        layer = nn.Linear(width, 2)
        return layer if float(layer.weight.sum()) > -1e9 else None

    state = torch.get_rng_state()
    assert size_of(reads_values, 3).parameters == 8
    assert torch.equal(torch.get_rng_state(), state)


def test_published_networks():
    assert width_for(36_755_940, lambda k: wrn28((3, 32, 32), 100, width=k)).width == 160
    found = splits(36_755_940, lambda k: wrn28((3, 32, 32), 100, width=k), [16])[0]
    assert (found.members, found.width, found.parameters) == (16, 40, 2_315_460)
    assert found.rounding_error == pytest.approx(0.0079, abs=1e-4)


@pytest.mark.parametrize(
    "factory",
    [
        perceptron,
        lambda w: mlp((1, 7, 7), 10, widths=(w, w)),
        lambda w: convnet((1, 8, 8), 10, width=w),
    ],
    ids=["own", "mlp", "convnet"],
)
@pytest.mark.parametrize("unit", ["parameters", "bytes"])
def test_the_nearest_width_is_found(factory, unit):
    sizes = [getattr(size_of(factory, w), unit) for w in range(1, 12)]
    for budget in (sizes[0], 0.4 * sizes[6] + 0.6 * sizes[7], 0.6 * sizes[6] + 0.4 * sizes[7], sizes[8]):
        nearest = min(range(11), key=lambda i: abs(sizes[i] - budget)) + 1
        below = max(i for i in range(11) if sizes[i] <= budget) + 1
        assert width_for(budget, factory, unit=unit).width == nearest
        assert width_for(budget, factory, unit=unit, at_most=True).width == below


def test_splits_show_their_rounding_error():
    found = splits(16_000, perceptron, [1, 2, 4, 8])
    assert [s.members for s in found] == [1, 2, 4, 8]
    for s in found:
        assert s.parameters == size_of(perceptron, s.width).parameters
        assert s.total_parameters == s.members * s.parameters
        assert s.rounding_error == pytest.approx(s.total_parameters / 16_000 - 1)
        assert abs(s.total_parameters - 16_000) <= s.members * 62 / 2  # a unit of width has 62 parameters
    assert "8 x width 32, 1,994 parameters each, 15,952 in all (-0.30 % of 16,000 parameters)" in repr(found[3])
    assert all(s.rounding_error <= 0 for s in splits(16_000, perceptron, [1, 2, 4, 8], at_most=True))
    inbytes = splits(16_000, perceptron, [4], unit="bytes")[0]
    assert inbytes.rounding_error == pytest.approx(inbytes.total_bytes / 16_000 - 1)
    assert inbytes.to_dict()["total_bytes"] == inbytes.total_bytes
    assert splits(16e3, perceptron, [1]) == found[:1]


def test_only_allowed_widths():
    assert [s.width for s in splits(16_000, perceptron, [1, 2, 4], widths=[64, 16, 128])] == [128, 128, 64]
    assert width_for(10**9, perceptron, widths=[8, 16]).width == 16


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: splits(71, perceptron, [1]),
            BudgetError,
            "too small for 1 members: .* of width 1, has 72 .* not even",
        ),
        (lambda: splits(300, perceptron, [1, 2, 8]), BudgetError, "too small for 8 members.* at most 4 fit"),
        (lambda: width_for(71, perceptron), BudgetError, "a budget of 71 parameters is too small"),
        (lambda: splits(1000, lambda w: perceptron(3), [1]), BudgetError, "they must grow with the width"),
        (lambda: splits(1000.5, perceptron), ValueError, "budget is 1000.5; it must be a whole number"),
        (lambda: splits(1000, perceptron, []), ValueError, "members is empty"),
        (lambda: splits(1000, perceptron, [1.5]), ValueError, "every number of members is 1.5"),
        (lambda: splits(1000, perceptron, widths=[8, 11.3]), ValueError, "every width is 11.3; it must be a whole"),
        (lambda: splits(1000, perceptron, widths=[]), ValueError, "widths is empty"),
        (lambda: splits(1000, perceptron, unit="bits"), ValueError, "unit is 'bits'"),
        (lambda: width_for(-3, perceptron), ValueError, "budget is -3; it must be a positive number"),
        (lambda: size_of(perceptron, 8.5), ValueError, "width is 8.5; it must be a whole number of at least 1"),
        (lambda: size_of(perceptron, 0), ValueError, "width is 0"),
        (lambda: size_of(lambda w: w, 3), TypeError, r"factory\(3\) returns a int"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
