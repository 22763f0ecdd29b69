"""One step: the laws against real steps of SGD on scale-invariant losses, toys and a batch-norm network."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onsphere import dynamics

LR = st.floats(1e-6, 10)
PRODUCT = st.floats(0, 0.9)  # lr * weight_decay
SEED = st.integers(0, 2**31)


def scale_invariant_loss(x):
    """Smooth, not symmetric, on the direction alone."""
    unit = x / x.norm()
    return (unit[0] * unit[1] + (3 * unit).sin().sum() + unit[2] ** 3).squeeze()


def gradient(x, loss=scale_invariant_loss):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x), x)[0]


@given(lr=LR, product=PRODUCT, seed=SEED, size=st.integers(3, 40), scale=st.floats(1e-3, 1e3))
def test_norm_angle_direction_and_elr_are_exact(lr, product, seed, size, scale):
    x = scale * torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    decay = product / lr
    g = gradient(x)
    after = (1 - lr * decay) * x - lr * g
    step = dynamics.sgd_step(float(x.norm()), float(g.norm()), lr, decay)
    assert step.radius == pytest.approx(float(after.norm()), rel=1e-12)
    assert step.elr == pytest.approx(lr / float(after.norm()) ** 2, rel=1e-12)
    before, ended = x / x.norm(), after / after.norm()
    chord = 2 * float(torch.atan2((before - ended).norm(), (before + ended).norm()))
    assert step.angle == pytest.approx(chord, rel=1e-10, abs=1e-14)
    # The same direction by one step on the unit sphere at ELR / (1 - lr * decay).
    on_sphere = before - dynamics.sphere_elr(float(x.norm()), lr, decay) * gradient(before)
    torch.testing.assert_close(on_sphere / on_sphere.norm(), ended, rtol=0, atol=1e-12)
    # The recurrence of the ELR alone.
    s = dynamics.effective_step(float(x.norm()), float(g.norm()), lr)
    elr = dynamics.effective_elr(float(x.norm()), lr)
    assert dynamics.elr_after(elr, s, lr, decay) == pytest.approx(step.elr, rel=1e-12)


@pytest.mark.parametrize(("dtype", "eps", "tolerance"), [(torch.float64, 1e-200, 1e-12), (torch.float32, 1e-30, 1e-5)])
def test_a_batch_norm_network_obeys_them(dtype, eps, tolerance):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, eps, affine=False), nn.Tanh(), nn.Linear(8, 3, bias=False)]
    model = nn.Sequential(*layers).to(dtype)
    inputs, labels = torch.randn(32, 6, dtype=dtype), torch.arange(32) % 3
    weight, lr, decay = model[0].weight, 0.3, 0.05
    optimizer = torch.optim.SGD([weight], lr=lr, weight_decay=decay)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        (g,) = torch.autograd.grad(loss, weight)
        before = weight.detach().double().clone()
        weight.grad = g
        step = dynamics.sgd_step(before.norm(), g.double().norm(), lr, decay)
        optimizer.step()
        after = weight.detach().double()
        assert step.radius == pytest.approx(float(after.norm()), rel=tolerance)
        cosine = float((before * after).sum() / before.norm() / after.norm())
        assert np.cos(step.angle) == pytest.approx(cosine, abs=tolerance)
        assert abs(float((before * g.double()).sum())) < tolerance * float(before.norm() * g.double().norm())


@given(seed=SEED, size=st.integers(2, 30), scale=st.floats(1e-6, 1e3))
def test_any_update_obeys_the_general_identity(seed, size, scale):
    generator = np.random.default_rng(seed)
    x, update = generator.normal(size=size), scale * generator.normal(size=size)
    radius = np.linalg.norm(x)
    step = dynamics.update_step(radius, x @ update / radius, np.linalg.norm(update), lr=0.5)
    after = x + update
    assert step.radius == pytest.approx(np.linalg.norm(after), rel=1e-10)
    unit, ended = x / radius, after / np.linalg.norm(after)
    angle = 2 * np.arctan2(np.linalg.norm(unit - ended), np.linalg.norm(unit + ended))
    assert step.angle == pytest.approx(angle, rel=1e-6, abs=1e-9)
    assert step.elr == pytest.approx(0.5 / (after @ after), rel=1e-10)


def test_the_general_identity_gives_the_sgd_step():
    radius, g, lr, decay = 2.0, 0.7, 0.3, 0.1
    size = np.hypot(lr * g, lr * decay * radius)
    step, general = (
        dynamics.sgd_step(radius, g, lr, decay),
        dynamics.update_step(radius, -lr * decay * radius, size, lr),
    )
    assert general.radius == pytest.approx(step.radius, rel=1e-14)
    assert general.angle == pytest.approx(step.angle, rel=1e-12)


def test_groups_add_up():
    radii, lr = np.array([0.5, 2.0, 1.3]), 0.1
    elrs = dynamics.effective_elr(radii, lr)
    total = dynamics.effective_elr(np.linalg.norm(radii), lr)
    assert dynamics.total_elr(elrs) == pytest.approx(total, rel=1e-15)
    np.testing.assert_allclose(dynamics.group_elrs(total, radii**2 / (radii @ radii)), elrs, rtol=1e-15)


def test_shares_move_as_a_joint_sphere_does():
    """Two groups, each scale-invariant, trained by projected SGD on their joint sphere."""
    generator = torch.Generator().manual_seed(1)
    groups = [torch.randn(5, dtype=torch.float64, generator=generator) for _ in range(2)]
    norm = torch.cat(groups).norm()
    groups, elr = [g / norm for g in groups], 0.2
    for _ in range(10):
        gradients = [gradient(x, lambda y, k=k: (1 + 3 * k) * scale_invariant_loss(y)) for k, x in enumerate(groups)]
        radii = np.array([float(x.norm()) for x in groups])
        steps = elr * np.array([float(g.norm()) for g in gradients]) / radii
        predicted = dynamics.shares_after(radii**2, steps)
        groups = [x - elr * g for x, g in zip(groups, gradients, strict=True)]
        norm = torch.cat(groups).norm()
        groups = [x / norm for x in groups]
        np.testing.assert_allclose([float(x.norm()) ** 2 for x in groups], predicted, rtol=1e-12)
    np.testing.assert_allclose(dynamics.shares_after([0.2, 0.8], [0.3, 0.3]), [0.2, 0.8], rtol=1e-15)


def test_arrays_broadcast_and_tensors_are_taken():
    step = dynamics.sgd_step(torch.tensor([1.0, 2.0]), torch.ones(3, 1), lr=0.1)
    assert step.radius.shape == step.angle.shape == (3, 2) and step.elr.shape == (3, 2)
    assert isinstance(dynamics.sgd_step(1.0, torch.tensor(0.5, dtype=torch.bfloat16), 0.1).radius, float)
    assert dynamics.sgd_step(1, 1, 1).to_dict().keys() == {"radius", "angle", "elr"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynamics.sgd_step(1, 1, 0), "lr is 0; it must be positive"),
        (lambda: dynamics.sgd_step(1, 1, -0.1), "lr is -0.1"),
        (lambda: dynamics.sgd_step(1, 1, 0.1, 10), "weight_decay is 10 at lr 0.1; it must be below 1 / lr = 10"),
        (lambda: dynamics.sgd_step(1, 1, 0.1, -1), "weight_decay is -1"),
        (lambda: dynamics.sgd_step([], 1, 0.1), "radius is empty"),
        (lambda: dynamics.sgd_step(0, 1, 0.1), "radius is 0"),
        (lambda: dynamics.sgd_step(1, float("nan"), 0.1), "gradient_norm holds nan"),
        (lambda: dynamics.sgd_step(1, "big", 0.1), "gradient_norm is 'big'"),
        (lambda: dynamics.sgd_step(1, 1 + 2j, 0.1), "must be a real number"),
        (lambda: dynamics.sgd_step(True, 1, 0.1), "must be a real number"),
        (lambda: dynamics.update_step(1, 2, 1), "radial is larger than update_norm"),
        (lambda: dynamics.update_step(1, -1, 1), "to zero"),
        (lambda: dynamics.total_elr([]), "elrs is empty"),
        (lambda: dynamics.group_elrs(1, [0.2, 0.2]), "shares sum to 0.4"),
        (lambda: dynamics.shares_after([0.5, 0.5], [-1, 0]), "effective_steps is -1"),
        (lambda: dynamics.elr_after(0, 1, 0.1), "elr is 0"),
    ],
)
def test_impossible_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()
