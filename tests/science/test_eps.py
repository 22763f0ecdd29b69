"""How much batch norm's eps breaks scale invariance on the unit sphere: why the laboratory uses 1e-12."""

import pytest
import torch

from onsphere.lab import data, models
from onsphere.spheres import Sphere


def change_when_rescaled(eps, dtype=torch.float64, factor=100.0, widths=(32, 32)):
    """Relative change of the outputs on 256 digits when all weights, of joint norm 1, are multiplied by a factor."""
    digits = data.load("digits", train=256)
    net = models.build("mlp", input_shape=digits.input_shape, classes=10, widths=widths, eps=eps).to(dtype)
    weights = [p for p in net.parameters() if p.requires_grad]
    x = digits.x_train.to(dtype)
    outputs = []
    with torch.no_grad():
        for radius in (1.0, factor):
            Sphere(weights).project_(radius)
            outputs.append(net(x))
    return float((outputs[1] - outputs[0]).norm() / outputs[0].norm())


def test_eps_1e_12_is_invariant_in_float64_and_to_rounding_in_float32():
    assert change_when_rescaled(1e-12) < 1e-8
    assert change_when_rescaled(1e-12, torch.float32) < 1e-5


def test_the_usual_eps_is_not_and_the_break_is_linear_in_eps():
    usual = change_when_rescaled(1e-5)
    assert usual > 5e-4
    assert 500 < usual / change_when_rescaled(1e-8) < 2000


@pytest.mark.parametrize("widths", [(256, 256), (64, 64, 64, 64)])
def test_wider_and_deeper_networks_are_broken_more(widths):
    assert change_when_rescaled(1e-5, widths=widths) > change_when_rescaled(1e-5)
    assert change_when_rescaled(1e-12, widths=widths) < 1e-8
