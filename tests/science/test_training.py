"""Every named network trains: on real images the loss falls by a third and more below that of a random guess."""

import math

import pytest
import torch
import torch.nn.functional as F

from onsphere.lab.data import load
from onsphere.lab.models import MODELS, build

pytestmark = pytest.mark.science

# As it is used in the papers' experiments, but narrow; (options, learning rate, steps).
RUNS = {
    "mlp": ({"widths": (32,)}, 0.05, 60),
    "layer-norm-mlp": ({"widths": (32,)}, 0.05, 60),
    "plain-mlp": ({"widths": (32,)}, 0.05, 120),
    "convnet": ({"width": 4}, 0.05, 60),
    "resnet18": ({"width": 2}, 0.05, 60),
    "vgg16": ({"width": 8}, 0.02, 450),
    "wrn28": ({"width": 2}, 0.05, 60),
}


def test_no_network_is_left_out():
    assert RUNS.keys() == MODELS.keys()


@pytest.mark.parametrize("name", [*(n for n in RUNS if n != "vgg16"), pytest.param("vgg16", marks=pytest.mark.slow)])
def test_the_loss_falls_on_real_images(name):
    options, lr, steps = RUNS[name]
    data = load("digits", train=400, label_noise=0.0)
    x, y = data.x_train, data.y_train
    if name == "vgg16":
        # Its last six convolutions would see a single pixel of an 8x8 image, and one ninth of their weights.
        x = F.interpolate(x, size=32)
    model = build(name, input_shape=tuple(x.shape[1:]), classes=10, seed=1, **options)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=3e-4)
    draws, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        rows = torch.randint(len(x), (50,), generator=draws)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) / 10 < math.log(10) * 2 / 3
