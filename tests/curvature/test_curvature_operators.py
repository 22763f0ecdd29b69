import itertools

import pytest
import torch
import torch.nn.functional as F
from curvature_nets import LOSSES, NETS, batches_for, net, true_hessian
from torch import nn
from torch.func import functional_call

from onsphere.curvature import Functional, HessianOperator, hessian_operator, select_parameters


@pytest.mark.parametrize(("name", "loss", "mode"), list(itertools.product(NETS, LOSSES, ["train", "eval"])))
def test_the_product_is_that_of_the_true_hessian_over_unequal_batches(name, loss, mode):
    batches = [*batches_for(name, 1, size=16), *batches_for(name, 1, size=7, seed=2)]
    operator = hessian_operator(net(name), LOSSES[loss], batches, mode=mode)
    expected, gradient = true_hessian(net(name), LOSSES[loss], batches, mode)
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(operator.gradient(), gradient, rtol=1e-9, atol=1e-12)


def test_train_and_eval_mode_differ():
    batch = batches_for("batch_norm", 1)
    train, evaluation = (hessian_operator(net("batch_norm"), F.cross_entropy, batch, mode=m) for m in ("train", "eval"))
    assert (train.dense() - evaluation.dense()).norm() > 0.1 * evaluation.dense().norm()


@pytest.mark.parametrize("loss", LOSSES)
def test_gauss_newton_is_the_jacobian_around_the_hessian_of_the_loss(loss):
    model, (x, y) = net("layer_norm"), batches_for("layer_norm", 1)[0]
    operator = hessian_operator(model, LOSSES[loss], (x, y), kind="ggn")
    params = {n: p.detach() for n, p in model.named_parameters()}
    jacobian = torch.func.jacrev(lambda p: functional_call(model, p, (x,)))(params)
    j = torch.cat([block.reshape(x.shape[0] * 3, -1) for block in jacobian.values()], dim=1)
    bend = torch.autograd.functional.hessian(
        lambda out: LOSSES[loss](out.reshape(-1, 3), y), model(x).detach().reshape(-1)
    )
    torch.testing.assert_close(operator.dense(), j.T @ bend @ j, rtol=1e-9, atol=1e-11)


def test_gauss_newton_in_train_mode_has_no_negative_direction_and_its_image_is_not_zero():
    dense = hessian_operator(net("residual"), F.cross_entropy, batches_for("residual", 2), kind="ggn").dense()
    values = torch.linalg.eigvalsh(dense)
    assert values[0] > -1e-10
    assert values[-1] > 1e-2


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_differences_of_gradients_agree_with_second_derivatives(name, sphere):
    batches = batches_for(name, 2)
    names = None if not sphere else ["0.weight"]
    exact, difference = (
        HessianOperator(Functional(net(name), F.cross_entropy, batches, names, sphere=sphere), kind=kind)
        for kind in ("hessian", "finite-difference")
    )
    v = torch.randn(exact.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = exact.product(v)
    assert (difference.product(v) - expected).norm() < 3e-3 * expected.norm()  # the step is long, for kinks
    finer = HessianOperator(
        Functional(net(name), F.cross_entropy, batches, names, sphere=sphere), kind="finite-difference", step=1e-5
    )
    assert (finer.product(v) - expected).norm() < 1e-7 * expected.norm()


@pytest.mark.parametrize("names", [["0.weight"], ["0.weight", "0.bias", "3.weight"]], ids=["one", "mixed"])
def test_the_riemannian_hessian_is_the_second_difference_along_great_circles(names):
    # layer_norm has no scale-invariant set here, so the radial term counts
    model, (x, y) = net("layer_norm"), batches_for("layer_norm", 1)[0]
    functional = Functional(model, F.cross_entropy, (x, y), names, sphere=True)
    operator = HessianOperator(functional)
    radius, position = operator.radius, operator.position
    generator = torch.Generator().manual_seed(0)

    def loss(t, direction):
        moved = radius * (torch.cos(t) * position + torch.sin(t) * direction)
        return float(functional.loss(functional.unflatten(moved), 0).detach())

    largest = 0.0
    for _ in range(5):
        v = torch.randn(operator.size, dtype=torch.float64, generator=generator)
        v = v - (v @ position) * position
        v = v / v.norm()
        h = torch.tensor(1e-3, dtype=torch.float64)
        fourth = [-1, 16, -30, 16, -1]
        second = sum(c * loss(i * h, v) for c, i in zip(fourth, range(-2, 3), strict=True)) / (12 * h**2)
        slope = (loss(h, v) - loss(-h, v)) / (2 * h)
        assert abs(v @ operator.product(v) - second) < 1e-5 * max(1, abs(second))
        assert abs(v @ operator.gradient() - slope) < 1e-5
        largest = max(largest, abs(float(v @ operator.product(v))))
        assert abs(position @ operator.product(v)) < 1e-12
    radial = abs(float(operator._first_order()[1] @ functional.flatten(functional.selected())))
    assert radial > 0.02 * largest  # leaving it out would have shown


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_scale_invariant_weights(scale):
    """H x = -grad, no radial term, and values on the unit sphere that do not depend on the norm."""
    model, batches = net("batch_norm"), batches_for("batch_norm", 2)
    functional = Functional(model, F.cross_entropy, batches, ["0.weight"])
    plain, w = HessianOperator(functional), functional.flatten(functional.selected())
    gradient = plain.gradient()
    assert (plain.product(w) + gradient).norm() < 1e-8 * gradient.norm()
    on_sphere = Functional(model, F.cross_entropy, batches, ["0.weight"], sphere=True)
    here = HessianOperator(on_sphere)
    there = HessianOperator(on_sphere, values={"0.weight": scale * model[0].weight.detach()})
    torch.testing.assert_close(there.dense(), here.dense(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(there.gradient(), here.gradient(), rtol=1e-8, atol=1e-12)
    tangent = torch.eye(w.numel(), dtype=torch.float64) - torch.outer(here.position, here.position)
    expected = here.radius**2 * tangent @ plain.dense() @ tangent
    torch.testing.assert_close(here.dense(), expected, rtol=1e-8, atol=1e-9)


def test_the_joint_sphere_is_found():
    functional = Functional(net("batch_norm"), F.cross_entropy, batches_for("batch_norm", 1), sphere=True)
    # 1.weight and 1.bias are no weights of a sphere; 3.weight is ahead of a batch norm
    assert "0.weight" in functional.names
    assert "3.weight" in functional.names
    assert "6.bias" not in functional.names


def test_an_operator_stays_at_its_weights_and_can_be_had_at_others():
    model, batch = net("layer_norm"), batches_for("layer_norm", 1)
    operator = hessian_operator(model, F.cross_entropy, batch)
    before = operator.dense()
    values = {n: 2 * p.detach() for n, p in model.named_parameters()}
    at = HessianOperator(operator.functional, values=values)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.equal(operator.dense(), before)
    torch.testing.assert_close(at.dense(), hessian_operator(model, F.cross_entropy, batch).dense())
    assert not torch.allclose(at.dense(), before)


@pytest.mark.parametrize("memory", [0, 30_000, 2**30])
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_keeping_graphs_or_not_changes_nothing(memory, kind):
    functional = Functional(net("residual"), F.cross_entropy, batches_for("residual", 3))
    operator = HessianOperator(functional, kind=kind, graph_memory=memory)
    v = torch.ones(operator.size, dtype=torch.float64)
    first, second = operator.product(v), operator.product(v)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, HessianOperator(functional, kind=kind).product(v))
    kept = len(operator._kept)
    assert kept == {0: 0, 2**30: 3}.get(memory, kept)
    assert operator.products == 2


def test_unused_parameters_and_linear_ones_have_no_curvature():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    operator = hessian_operator(Partial(), F.mse_loss, (x, torch.zeros(4, 1)))
    dense = operator.dense()
    where = operator.slices["unused.weight"]
    assert dense[where].abs().max() == 0
    assert dense[operator.slices["used.weight"]].abs().max() > 0
    for kind in ("hessian", "ggn"):
        linear = hessian_operator(Partial(), lambda out, y: out.mean(), (x, x), kind=kind)
        assert linear.dense().abs().max() == 0
        assert linear.gradient().abs().max() > 0


def test_attention_has_second_derivatives():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None]).mean((1, 2))

    x = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(0))
    assert hessian_operator(Attention(), F.mse_loss, (x, torch.zeros(4, 4))).dense().norm() > 1e-3


def test_inputs_by_position_and_by_name_and_float32():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, a, b):
            return self.layer(a + b)

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 2, generator=generator)
    y = torch.zeros(4, 1)
    first = hessian_operator(Two(), F.mse_loss, [((a, b), y)])
    second = hessian_operator(Two(), F.mse_loss, [({"a": a, "b": b}, y)])
    assert first.dtype == torch.float32
    assert first.product(torch.ones(3)).dtype == torch.float32
    torch.testing.assert_close(first.dense(), second.dense())
    inputs = torch.cat([a + b, torch.ones(4, 1)], 1).double()
    torch.testing.assert_close(first.dense(), 2 * inputs.T @ inputs / 4, rtol=1e-5, atol=1e-6)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class Once(nn.Linear):
    def forward(self, x):
        return _Once.apply(super().forward(x))


def test_a_model_without_second_derivatives_is_told_what_to_use():
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch, model = (x, torch.zeros(4, 1).double()), Once(2, 1).double()
    with pytest.raises(RuntimeError, match="kind='finite-difference'"):
        hessian_operator(model, F.mse_loss, batch).dense()
    cube = nn.Linear(2, 1).double()
    cube.load_state_dict(model.state_dict())
    expected = hessian_operator(cube, lambda out, y: F.mse_loss(out**3, y), batch).dense()
    found = hessian_operator(model, F.mse_loss, batch, kind="finite-difference").dense()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# -- selection ---------------------------------------------------------------------------------------------


def test_selection_by_name_pattern_tensor_and_group():
    model = net("batch_norm")
    assert select_parameters(model) == tuple(n for n, _ in model.named_parameters())
    assert select_parameters(model, "3.weight") == ("3.weight",)
    assert select_parameters(model, ["6.*", "0.weight"]) == ("0.weight", "6.weight", "6.bias")
    assert select_parameters(model, [model[3].weight, "6.bias"]) == ("3.weight", "6.bias")
    assert select_parameters(model, {"params": [model[0].weight], "names": ["x"]}) == ("0.weight",)
    assert select_parameters(model, model.parameters()) == select_parameters(model)
    model[0].weight.requires_grad_(False)
    assert "0.weight" not in select_parameters(model)
    assert select_parameters(model, "0.weight") == ("0.weight",)
    assert "0.weight" not in select_parameters(model, "*.weight")


def test_tied_parameters_count_once_under_either_name():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False)).double()
    model[2].weight = model[0].weight
    assert select_parameters(model, "2.weight") == select_parameters(model) == ("0.weight",)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, _ = true_hessian(model, F.mse_loss, [(x, x)], "eval")
    torch.testing.assert_close(hessian_operator(model, F.mse_loss, (x, x)).dense(), expected)


@pytest.mark.parametrize(
    ("wanted", "error", "match"),
    [
        ([], ValueError, "empty"),
        ("0.wieght", ValueError, "did you mean 0.weight"),
        (["nothing.*"], ValueError, "there are 0.weight"),
        (torch.zeros(2), ValueError, "not a parameter of the model"),
        ([3], TypeError, "name, a pattern or a tensor"),
        (3, TypeError, "must be None"),
        ({"lr": 1}, ValueError, "'params'"),
    ],
)
def test_a_wrong_selection_is_refused(wanted, error, match):
    with pytest.raises(error, match=match):
        select_parameters(net("batch_norm"), wanted)


def test_nothing_trainable_is_refused():
    model = net("batch_norm").requires_grad_(False)
    with pytest.raises(ValueError, match="none of the model's"):
        select_parameters(model)
    with pytest.raises(ValueError, match="only frozen ones match"):
        select_parameters(model, "0.*")
