"""Rescaling partners: their norm product is what no rescaling changes, their imbalance what it moves."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from onsphere import Monitor, find_symmetries
from onsphere.monitor.partners import check_partners, partners_title


class Product(nn.Module):
    """A matrix, its partner, and a gain that enters twice: exponents other than one."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.up = nn.Parameter(torch.randn(5, 3, generator=generator))
        self.down = nn.Parameter(torch.randn(2, 5, generator=generator))
        self.gain = nn.Parameter(torch.rand(2, generator=generator) + 0.5)

    def forward(self, x):
        return (torch.relu(x @ self.up.T) @ self.down.T) * self.gain**2


def watch(model, exponents, rescale=None):
    """Two readings, between them a rescaling by hand."""
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    monitor = Monitor(optimizer, every=1, model=model)
    monitor._bound = check_partners([exponents], [name for name, _ in model.named_parameters()])
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            for name, c in exponents.items():
                model.get_parameter(name).mul_((rescale or 1.0) ** c)
    return monitor.readings("partners")


@pytest.mark.parametrize("exponents", [{"up": 1, "down": -1}, {"up": 2, "gain": -1}, {"up": 1, "down": 1, "gain": -1}])
@pytest.mark.parametrize("by", [3.0, 0.2])
def test_a_rescaling_keeps_the_product_and_moves_the_imbalance(exponents, by):
    model = Product()
    x = torch.ones(1, 3)
    before, read = model(x), watch(model, exponents, by)
    assert list(read["step"]) == [0, 1] and set(read["group"]) == {" ~ ".join(exponents)}
    assert read["norm_product"][1] == pytest.approx(read["norm_product"][0], rel=1e-6)
    assert read["imbalance"][1] - read["imbalance"][0] == pytest.approx(2 * math.log(by), rel=1e-5)
    if "down" in exponents and "gain" not in exponents:
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_of_two_tensors_it_is_product_and_log_ratio_of_the_norms():
    model = Product()
    up, down = (float(p.detach().norm()) for p in (model.up, model.down))
    read = watch(model, {"up": 1, "down": -1})
    np.testing.assert_allclose(read["norm_product"], up * down, rtol=1e-6)
    np.testing.assert_allclose(read["imbalance"], math.log(up / down), rtol=1e-5)


def test_exponents_of_any_size_are_taken_to_their_own_scale():
    model = Product()
    up, gain = (float(p.detach().norm()) for p in (model.up, model.gain))
    read = watch(model, {"up": 2, "gain": -1})
    np.testing.assert_allclose(read["norm_product"], math.sqrt(up) * gain, rtol=1e-6)
    np.testing.assert_allclose(read["imbalance"], math.log(math.sqrt(up) / gain), rtol=1e-5)


def test_partners_come_from_symmetries_and_two_optimisers_share_them():
    model = Product()
    found = find_symmetries(model, torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    assert found.rescalings
    several = [torch.optim.SGD([model.up], 0.1), torch.optim.AdamW([model.down, model.gain], 0.1)]
    monitor = Monitor(several, every=1, model=model, symmetries=found)
    for step in range(4):
        for optimizer in several:
            optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        for optimizer in several[: 1 if step == 2 else 2]:
            optimizer.step()
    read = monitor.readings("partners")
    assert set(read["group"]) == {partners_title(one) for one in found.rescalings}
    assert np.isfinite(read["imbalance"]).all() and (read["norm_product"] > 0).all()
    assert {"norm_product", "imbalance"} <= set(monitor.to_frame("partners").columns)
    title = partners_title(found.rescalings[0])
    assert set(monitor.readings("partners", title)["group"]) == {title} and f"{title}: norm product" in monitor.report()


def test_partners_that_are_not_read_are_refused_and_without_symmetries_there_are_none():
    model = Product()
    found = find_symmetries(model, torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(ValueError, match="is not read: give model="):
        Monitor(torch.optim.SGD(model.parameters(), 0.1), symmetries=found)
    monitor = Monitor(torch.optim.SGD(model.parameters(), 0.1))
    assert len(monitor.readings("partners")["step"]) == 0
    with pytest.raises(ValueError, match='"group", "tensor" or "partners"'):
        monitor.readings("pairs")


def test_rescalings_of_one_sign_are_no_partners():
    assert check_partners([{"a": 1, "b": 2}, {"a": 1, "b": -2}], ["a", "b"]) == [{"a": 1.0, "b": -2.0}]
