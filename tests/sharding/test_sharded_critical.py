"""Critical sharpness of sharded weights is that of one process; the weights come back."""

import pytest
import torch
from networks import data, network, spread, whole
from processes import run_on
from torch.nn import functional

from onsphere.curvature import critical_sharpness

pytestmark = pytest.mark.slow


def measured(name, how):
    model = network(name, torch.float64)
    model, (number, shares) = (model, (0, 1)) if how is None else spread(model, how)
    xs, ys = data(torch.float64, 1)
    x, y = (t[0].chunk(shares)[number] for t in (xs, ys))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    update = {n: p.detach() - before[n] for n, p in model.named_parameters()}
    weights = whole(model)
    found = critical_sharpness(
        model, functional.cross_entropy, (x, y), update=update, lr=0.05, forward=lambda net, inputs: net(inputs)
    )
    assert all(torch.equal(value, weights[n]) for n, value in whole(model).items())
    return found


@pytest.mark.parametrize(("name", "how"), [("layer norm", "fsdp"), ("transformer", "tp"), ("layer norm", "ddp")])
def test_it_is_that_of_one_process(name, how):
    expected = measured(name, None)
    for found in run_on(2, measured, name, how):
        assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-9)
        assert found.forward_passes == expected.forward_passes
        assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert 0 < expected.factor < 1e6
