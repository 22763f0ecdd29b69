"""Forward passes that differentiate: right Hessians, through norms too, whose third derivatives torch has wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap

from onsphere import curvature
from onsphere.functional.norms import NormsWrittenOut, differentiates_norms
from onsphere.landscape import barrier, slice_along, train_curve
from onsphere.normalisation import BatchStatistics

X = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sin()

NORMS = {
    "none": nn.Identity,
    "layer": lambda: nn.LayerNorm(6),
    "layer without affine": lambda: nn.LayerNorm(6, elementwise_affine=False),
    "group": lambda: nn.GroupNorm(2, 6),
    "rms": lambda: nn.RMSNorm(6),
    "batch": lambda: nn.BatchNorm1d(6),
    "batch without statistics": lambda: nn.BatchNorm1d(6, track_running_stats=False),
    "batch statistics": lambda: BatchStatistics(6, 1e-5),
    "instance": lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()),
}


def layers(norm, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), NORMS[norm](), nn.Tanh(), nn.Linear(6, 1)).double()


class Physics(nn.Module):
    """u and the squared gradient of u, by torch.autograd.grad."""

    def __init__(self, norm, seed=0):
        super().__init__()
        self.net = layers(norm, seed)

    def forward(self, x):
        x = x.requires_grad_()
        u = self.net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return torch.cat([u, slope], 1)


class ByHand(Physics):
    """The same by torch.func.grad."""

    def forward(self, x):
        slope = torch.func.grad(lambda x: self.net(x).sum())(x)
        return torch.cat([self.net(x), slope], 1)


def loss_fn(output, target):
    return F.mse_loss(output[:, :1], target) + (output[:, 1:].square().sum(1) - 1).square().mean()


def central_differences(model, mode):
    """The Hessian from differences of gradients, all norms written out, in plain torch."""
    model = model.train(mode == "train")
    names = [name for name, _ in model.named_parameters()]

    def gradient(flat):
        parts = torch.split(flat, [p.numel() for p in model.parameters()])
        leaves = [
            part.reshape(p.shape).clone().requires_grad_() for part, p in zip(parts, model.parameters(), strict=True)
        ]
        buffers = {name: b.clone() for name, b in model.named_buffers()}
        with NormsWrittenOut():
            loss = loss_fn(functional_call(model, {**dict(zip(names, leaves, strict=True)), **buffers}, X.clone()), Y)
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in found])

    point = torch.cat([p.detach().flatten() for p in model.parameters()])
    steps = 1e-5 * torch.eye(len(point), dtype=torch.float64)
    return torch.stack([(gradient(point + step) - gradient(point - step)) / 2e-5 for step in steps])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_hessian_of_a_forward_pass_that_differentiates(norm, mode):
    model = Physics(norm)
    expected = central_differences(Physics(norm), mode)
    found = curvature.hessian_operator(model, loss_fn, (X, Y), mode=mode).dense()
    assert float((found - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_the_same_by_function_transforms_and_gauss_newton(norm):
    plain, other = Physics(norm), ByHand(norm)
    for kind in ("hessian", "ggn"):
        matrices = [curvature.hessian_operator(m, loss_fn, (X, Y), kind=kind).dense() for m in (plain, other)]
        assert float((matrices[0] - matrices[1]).norm() / matrices[0].norm()) < 1e-9


def test_torch_has_them_wrong():
    """When this fails, torch has mended its kernels and they need not be written out any more."""
    model = Physics("layer")
    parameters = list(model.parameters())
    loss = loss_fn(model(X.clone()), Y)
    assert differentiates_norms(loss)
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)]
    )
    rows = [
        torch.autograd.grad(g, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
        for g in gradient
    ]
    found = torch.stack([torch.cat([r.flatten() for r in row]) for row in rows])
    expected = central_differences(Physics("layer"), "train")
    assert float((found - expected).norm() / expected.norm()) > 1e-2


def test_norms_written_out_are_the_norms():
    x = torch.randn(5, 6, 7, dtype=torch.float64) * 2 + 1
    w, b = torch.randn(2, 6, dtype=torch.float64)
    mean, var = torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64) + 0.1
    calls = [
        lambda: F.layer_norm(x, (6, 7), torch.outer(w, torch.ones(7).double()), None, 1e-3),
        lambda: torch.layer_norm(x, (7,)),
        lambda: F.group_norm(x, 3, w, b, 1e-3),
        lambda: F.rms_norm(x, (7,)),
        lambda: F.batch_norm(x, None, None, w, b, training=True, eps=1e-3),
        lambda: F.batch_norm(x, mean, var, w, b, training=False),
        lambda: F.instance_norm(x, weight=w, bias=b),
        lambda: F.instance_norm(x, mean, var, w, b, use_input_stats=False),
        lambda: nn.LayerNorm(7).double()(x),
        lambda: vmap(nn.GroupNorm(2, 6).double())(x[None])[0],
    ]
    for call in calls:
        plain = call()
        with NormsWrittenOut():
            torch.testing.assert_close(call(), plain)


def test_a_loss_that_differentiates_by_its_target():
    """The target is the input: the loss takes the slope of the output by it."""
    net = layers("layer")
    x = X.clone().requires_grad_()

    def slope_loss(output, target):
        (slope,) = torch.autograd.grad(output.sum(), target, create_graph=True)
        return slope.square().sum(1).mean()

    (slope,) = torch.autograd.grad(net(x).sum(), x)
    expected = float(slope.square().sum(1).mean())
    assert curvature.hessian_operator(net, slope_loss, (x, x)).loss == pytest.approx(expected)
    assert barrier(net, net, layers("layer", 1), slope_loss, (x, x), 3, "chord").losses[0] == pytest.approx(expected)


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_landscapes_of_a_forward_pass_that_differentiates(norm):
    a, b = Physics(norm), Physics(norm, 1)
    found = barrier(a, a, b, loss_fn, (X, Y), 3, "chord", mode="train")
    for loss, model in zip(found.losses[[0, -1]], (a, b), strict=True):
        assert loss == pytest.approx(float(loss_fn(model.train()(X.clone()), Y).detach()), rel=1e-9)
    assert not X.requires_grad
    names = ["net.0.weight"]
    assert slice_along(a, a, loss_fn, (X, Y), 2, parameters=names).losses.shape == (2, 2)
    assert len(train_curve(a, a, b, loss_fn, (X, Y), 3, parameters=names).losses) == 3
    assert barrier(a, a, b, loss_fn, (X, Y), 3, "chord").losses.min() > 0
