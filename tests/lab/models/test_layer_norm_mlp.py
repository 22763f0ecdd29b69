"""The perceptron with layer norms against its formula, and its one output as the logits of two classes."""

import pytest
import torch
import torch.nn.functional as F

import onsphere
from onsphere.lab.models import MODELS, build, layer_norm_mlp


def test_it_is_the_published_network_on_32_numbers():
    model = build("layer-norm-mlp", input_shape=(32,), classes=2, seed=1).double()
    assert MODELS["layer-norm-mlp"] is layer_norm_mlp
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {"linear1.weight": (32, 32), "head.weight": (1, 32)}
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["linear1.weight"]
    assert float(model.head.weight.norm()) == pytest.approx(10, rel=1e-6)
    groups = onsphere.sphere_groups(model, torch.randn(8, 32, dtype=torch.float64))
    assert [(group["names"], group["sphere"]) for group in groups] == [(["linear1.weight"], "joint")]


def test_its_cross_entropy_is_the_logistic_loss_of_its_one_output():
    model = build("layer-norm-mlp", input_shape=(6,), classes=2, widths=(5, 4), seed=2).double()
    x = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    hidden = x
    for layer in (model.linear1, model.linear2):
        before = hidden @ layer.weight.T
        centred = before - before.mean(1, keepdim=True)
        hidden = (centred / (centred.square().mean(1, keepdim=True) + 1e-12).sqrt()).clamp(min=0)
    z = hidden @ model.head.weight[0]
    logistic = torch.log1p(torch.exp(-(2 * y - 1) * z)).mean()
    torch.testing.assert_close(model(x), torch.stack([-z / 2, z / 2], 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(F.cross_entropy(model(x), y), logistic, rtol=1e-12, atol=0)


def test_more_classes_have_an_output_each():
    model = build("layer-norm-mlp", input_shape=(1, 4, 4), classes=3)
    assert model(torch.zeros(2, 1, 4, 4)).shape == (2, 3) and not hasattr(model, "logits")
