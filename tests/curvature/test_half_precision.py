"""What is computed in half precision, wherever that is, has no error bounds; finite differences count their step."""

import math

import pytest
import torch
import torch.nn.functional as F
from curvature_nets import true_hessian
from torch import nn

from onsphere.curvature import (
    SharpnessTracker,
    gradient_noise,
    hessian_operator,
    spectral_density,
    top_eigenvalues,
    trace,
)


def batch(size=32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 8, generator=generator), torch.randint(3, (size,), generator=generator)


class Net(nn.Module):
    def __init__(self, norm=True, activation=nn.GELU):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(8, 12), nn.LayerNorm(12, elementwise_affine=False) if norm else nn.Identity()
        self.activation, self.head = activation(), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.activation(self.norm(self.first(x))))


class Autocast(Net):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


class OneCast(Net):
    """One activation in float16, weights and the rest in float32."""

    def forward(self, x):
        return self.head(self.activation(self.norm(self.first(x)).half().float()))


class Mixed(Net):
    """The head alone in bfloat16."""

    def __init__(self):
        super().__init__()
        self.head.bfloat16()

    def forward(self, x):
        return self.head(self.activation(self.norm(self.first(x))).bfloat16()).float()


class HalfStored(Net):
    """Weights stored in half precision and cast before they are used: their gradients are rounded."""

    def __init__(self):
        super().__init__()
        self.half()

    def forward(self, x):
        h = self.activation(self.norm(F.linear(x, self.first.weight.float(), self.first.bias.float())))
        return F.linear(h, self.head.weight.float(), self.head.bias.float())


class LossCasts:
    def __call__(self, output, target):
        return F.cross_entropy(output.bfloat16(), target)


def casts(name):
    x, y = batch()
    if name in ("bfloat16", "float16"):
        dtype = getattr(torch, name)
        return Net().to(dtype), F.cross_entropy, (x.to(dtype), y)
    if name == "loss":
        return Net(), LossCasts(), (x, y)
    return (
        {"autocast": Autocast, "one cast": OneCast, "mixed": Mixed, "stored": HalfStored}[name](),
        F.cross_entropy,
        (x, y),
    )


@pytest.mark.parametrize("name", ["bfloat16", "float16", "autocast", "one cast", "mixed", "stored", "loss"])
@pytest.mark.parametrize("sphere", [False, True])
def test_no_value_of_half_precision_products_counts_as_converged(name, sphere):
    model, loss, pair = casts(name)
    found = top_eigenvalues(model, loss, pair, 2, ["first.*"], sphere, max_products=30)
    assert found.converged == (False, False)
    assert found.errors == (math.inf, math.inf)
    assert "16" in found.coarse and f"no error bounds: products in {found.coarse}" in repr(found)
    assert "±" not in repr(found)
    assert found.to_dict()["errors"] == [None, None] and found.to_dict()["coarse"] == found.coarse


@pytest.mark.parametrize("name", ["bfloat16", "autocast", "one cast"])
def test_estimates_in_half_precision_have_no_standard_error(name):
    model, loss, pair = casts(name)
    found = trace(model, loss, pair, probes=4, groups="parameters")
    assert math.isnan(found.standard_error) and all(math.isnan(g.standard_error) for g in found.groups.values())
    assert "±" not in repr(found) and "no standard error: products in" in repr(found)
    density = spectral_density(model, loss, pair, probes=2, steps=4)
    assert math.isnan(density.moment(1).standard_error) and "no standard errors" in repr(density)
    noise = gradient_noise(model, loss, [pair, pair, pair])
    assert math.isnan(noise.noise_trace_error) and math.isnan(noise.mean_gradient_norm_error)
    assert "±" not in repr(noise) and "gradients in" in repr(noise)


def test_float32_and_float64_are_what_they_were():
    x, y = batch()
    for model, pair in ((Net(), (x, y)), (Net().double(), (x.double(), y))):
        found = top_eigenvalues(model, F.cross_entropy, pair)
        assert found.coarse is None and found.converged == (True,) and "±" in repr(found)
        assert found.errors[0] <= 1e-3 * found.values[0]
        assert trace(model, F.cross_entropy, pair, probes=4).standard_error > 0
        assert spectral_density(model, F.cross_entropy, pair, probes=2, steps=4).moment(1).standard_error > 0
    # Inputs may have been rounded before: the function of the weights is exact.
    assert top_eigenvalues(Net(), F.cross_entropy, (x.bfloat16().float(), y)).coarse is None


def test_matrix_products_that_torch_was_told_to_round(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    found = top_eigenvalues(Net(), F.cross_entropy, batch())
    assert found.converged == (False,) and "set_float32_matmul_precision" in found.coarse
    x, y = batch()
    assert top_eigenvalues(Net().double(), F.cross_entropy, (x.double(), y)).coarse is None


def test_a_tolerance_below_the_precision_is_not_reached():
    found = top_eigenvalues(Net(), F.cross_entropy, batch(), tolerance=1e-8)
    assert found.converged == (False,)
    assert found.products < 100  # more of them would not help
    truth = float(torch.linalg.eigvalsh(dense(Net()))[-1])
    assert abs(found.values[0] - truth) <= found.errors[0] < 1e-4 * truth


def dense(model, loss=F.cross_entropy):
    x, y = batch()
    return true_hessian(model.double(), loss, [(x.double(), y)], "train")[0]


def test_a_tracker_in_half_precision():
    model, loss, pair = casts("bfloat16")
    tracker = SharpnessTracker(loss, pair, max_products=20)
    assert [tracker(model).converged for _ in range(2)] == [(False,), (False,)]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.ReLU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_of_finite_differences_has_their_step_in_it(activation, dtype):
    x, y = batch()
    for norm in (True, False):
        truth = float(torch.linalg.eigvalsh(dense(Net(norm, activation)))[-1])
        model, pair = Net(norm, activation).to(dtype), (x.to(dtype), y)
        found = top_eigenvalues(model, F.cross_entropy, pair, kind="finite-difference", max_products=40)
        assert abs(found.values[0] - truth) <= found.errors[0]
        if found.converged[0]:
            assert abs(found.values[0] - truth) <= 1e-3 * truth


@pytest.mark.parametrize("step", [0.02, 0.1, 0.3])
def test_long_steps_show(step):
    """Of a function with a large fourth derivative: truncation is all there is, and Lanczos sees nothing of it."""

    class Powers(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64))

        def forward(self, x):
            return (self.w**6).sum() + x * 0

    x = torch.zeros(4, dtype=torch.float64)
    from onsphere.curvature import Functional, HessianOperator, operator_eigenvalues

    functional = Functional(Powers(), lambda out, y: out.mean(), (x, x))
    found = operator_eigenvalues(HessianOperator(functional, kind="finite-difference", step=step))
    assert abs(found.values[0] - 30) > 1e-3 * 30 * (step > 0.05)
    assert abs(found.values[0] - 30) <= found.errors[0]
    assert found.converged == (found.errors[0] <= 1e-3 * found.values[0],)


def test_the_trace_by_finite_differences_counts_the_step():
    x, y = batch()
    truth = float(dense(Net(True, nn.Tanh)).trace())
    model = Net(True, nn.Tanh).double()
    pair = (x.double(), y)
    exact = trace(model, F.cross_entropy, pair, probes=60)
    by_steps = trace(model, F.cross_entropy, pair, probes=60, kind="finite-difference", groups="parameters")
    assert by_steps.value == pytest.approx(exact.value, rel=1e-3)
    assert by_steps.standard_error >= exact.standard_error * 0.999
    assert abs(by_steps.value - truth) < 5 * by_steps.standard_error
    assert by_steps.products == exact.products + 8
    density = spectral_density(model, F.cross_entropy, pair, kind="finite-difference", probes=2, steps=5)
    assert math.isnan(density.count().standard_error) and "differences of gradients" in repr(density)


def test_a_symmetric_operator_has_no_step():
    operator = hessian_operator(Net(), F.cross_entropy, batch())
    assert float(operator.step_error(torch.ones(operator.size)).abs().max()) == 0
