"""Batch statistics against torch and float64 under every transform; norm layers found and re-estimated."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from onsphere.normalisation import (
    NORM_LAYERS,
    BatchStatistics,
    is_norm,
    norm_layers,
    reestimate_batch_statistics,
    without_running_statistics,
)

# torch's own forward-mode rules still use torch.jit.script when they are first loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

SHAPES = [(7, 3), (600, 3), (5, 3, 4), (4, 3, 2, 5), (3, 2, 2, 3, 2)]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def formula(x: torch.Tensor, eps: float) -> torch.Tensor:
    dims = [0, *range(2, x.dim())]
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(var + eps)


def innermost_channels(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("arrange", [torch.Tensor.contiguous, innermost_channels])
@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-3])
def test_it_computes_the_formula(shape, arrange, eps):
    x = arrange(random(*shape) * 2 + 1)
    torch.testing.assert_close(BatchStatistics(shape[1], eps)(x), formula(x, eps))


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] < 100])
@pytest.mark.parametrize("arrange", [torch.Tensor.contiguous, innermost_channels])
@pytest.mark.parametrize("eps", [0.0, 1e-2])  # eps 0 keeps [N, C] on our own path, 1e-2 takes torch's
def test_first_and_second_derivatives_and_forward_mode(shape, arrange, eps):
    norm = BatchStatistics(shape[1], eps)
    x = arrange(random(*shape)).requires_grad_()
    assert torch.autograd.gradcheck(norm, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(norm, (x,))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("arrange", [torch.Tensor.contiguous, innermost_channels])
def test_vmap_grad_jvp_and_hessian_agree_with_a_loop(shape, arrange):
    norm = BatchStatistics(shape[1])
    v = random(*shape, seed=1)

    def f(x):
        return (norm(x) * v).pow(3).sum()

    xs = torch.stack([arrange(random(*shape, seed=k)) for k in range(3)])
    expected = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: (formula(x, 1e-12) * v).pow(3).sum(), x) for x in xs]
    )
    torch.testing.assert_close(vmap(grad(f))(xs), expected)
    torch.testing.assert_close(vmap(grad(f), in_dims=2)(xs.movedim(0, 2)), expected)
    torch.testing.assert_close(make_fx(vmap(grad(f)))(xs)(xs), expected)
    if xs[0].numel() < 100:
        x, t = xs[0], random(*shape, seed=9)
        hvp = jvp(grad(f), (x,), (t,))[1]
        torch.testing.assert_close(
            hvp, torch.autograd.functional.hvp(lambda x: (formula(x, 1e-12) * v).pow(3).sum(), x, t)[1]
        )
        torch.testing.assert_close((hessian(f)(x) * t).sum(tuple(range(x.dim(), 2 * x.dim()))), hvp)


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 2, 5)])
@pytest.mark.parametrize("arrange", [torch.Tensor.contiguous, innermost_channels])
def test_torch_compile_traces_it_in_one_graph(shape, arrange):
    norm = BatchStatistics(shape[1])
    v = random(*shape, seed=1)

    def f(x):
        return (norm(x) * v).pow(3).sum()

    xs = torch.stack([arrange(random(*shape, seed=k)) for k in range(3)])
    x = arrange(xs[0])
    compiled = torch.compile(norm, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), norm(x))
    batched = torch.compile(vmap(grad(f)), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(batched(xs), vmap(grad(f))(xs))


@pytest.mark.parametrize("shape", [(64, 8, 32, 32), (2048, 8), (64, 8, 1024)])
@pytest.mark.parametrize("arrange", [torch.Tensor.contiguous, innermost_channels])
def test_float32_keeps_six_digits_in_every_memory_format(shape, arrange):
    x = arrange(random(*shape, dtype=torch.float32) + 3).requires_grad_()
    v = random(*shape, dtype=torch.float32, seed=1)
    norm = BatchStatistics(8)
    y = norm(x)
    (g,) = torch.autograd.grad(y, x, v)
    exact = x.detach().double().requires_grad_()
    y_exact = formula(exact, 1e-12)
    (g_exact,) = torch.autograd.grad(y_exact, exact, v.double())
    assert relative(y, y_exact) < 2e-6
    assert relative(g, g_exact) < 2e-6


def test_a_short_batch_of_vectors_is_accurate_too():
    x = random(512, 64, dtype=torch.float32) + 3
    assert relative(BatchStatistics(64)(x), formula(x.double(), 1e-12)) < 1e-5


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (2, 3, 4, 5, 6)])
def test_the_memory_format_is_kept_forwards_and_backwards(shape):
    memory_format = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    norm = BatchStatistics(3, weight=torch.ones(3), bias=torch.zeros(3))
    for layout in (torch.contiguous_format, memory_format):
        x = random(*shape, dtype=torch.float32).contiguous(memory_format=layout).requires_grad_()
        y = norm(x)
        assert y.is_contiguous(memory_format=layout)
        (g,) = torch.autograd.grad(y, x, torch.randn_like(y))
        assert g.is_contiguous(memory_format=layout)


def test_it_replaces_an_affine_batch_norm_for_value_and_gradients():
    reference = nn.BatchNorm2d(3, eps=1e-5).double()
    with torch.no_grad():
        reference.weight.copy_(random(3))
        reference.bias.copy_(random(3, seed=1))
    norm = BatchStatistics(3, 1e-5, reference.weight, reference.bias)
    assert norm.weight is reference.weight
    assert norm.bias is reference.bias
    x = random(4, 3, 5, 5).requires_grad_()
    v = random(4, 3, 5, 5, seed=2)
    inputs = (x, reference.weight, reference.bias)
    for a, b in zip(torch.autograd.grad(norm(x), inputs, v), torch.autograd.grad(reference(x), inputs, v), strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_is_computed_in_float32():
    x = (random(64, 4, 8, 8) * 3 + 10).to(torch.bfloat16)
    y = BatchStatistics(4)(x)
    assert y.dtype == torch.bfloat16
    assert relative(y, formula(x.double(), 1e-12)) < 4e-3  # the rounding of the output alone


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchStatistics(0), "positive number of channels, not 0"),
        (lambda: BatchStatistics(3, -1.0), "eps must be finite and not negative, not -1.0"),
        (lambda: BatchStatistics(3, float("nan")), "eps must be finite"),
        (lambda: BatchStatistics(3, weight=torch.ones(4)), r"weight must have .*\(3,\), not \(4,\)"),
        (
            lambda: BatchStatistics(3)(torch.ones(2, 4)),
            r"needs an input \[N, 3, ...\], not one of shape \(2, 4\)",
        ),
        (lambda: BatchStatistics(3)(torch.ones(3)), "needs an input"),
        (lambda: BatchStatistics(3)(torch.ones(1, 3, 1, 1)), "more than one value per channel"),
    ],
)
def test_errors_say_what_was_given(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_repr_names_what_it_has():
    assert repr(BatchStatistics(3)) == "BatchStatistics(3, eps=1e-12, no affine)"
    assert repr(BatchStatistics(3, 1e-5, torch.ones(3), torch.ones(3))).endswith("weight and bias)")


def test_norm_layers_are_recognised_and_named():
    examples = {
        nn.BatchNorm1d: nn.BatchNorm1d(2),
        nn.BatchNorm2d: nn.BatchNorm2d(2),
        nn.BatchNorm3d: nn.BatchNorm3d(2),
        nn.SyncBatchNorm: nn.SyncBatchNorm(2),
        nn.LayerNorm: nn.LayerNorm(2),
        nn.GroupNorm: nn.GroupNorm(1, 2),
        nn.InstanceNorm1d: nn.InstanceNorm1d(2),
        nn.InstanceNorm2d: nn.InstanceNorm2d(2),
        nn.InstanceNorm3d: nn.InstanceNorm3d(2),
        nn.RMSNorm: nn.RMSNorm(2),
        BatchStatistics: BatchStatistics(2),
    }
    assert set(examples) == set(NORM_LAYERS)
    assert all(is_norm(layer) for layer in examples.values())
    assert not any(is_norm(m) for m in (nn.Linear(2, 2), nn.LocalResponseNorm(2), nn.Sequential(nn.LayerNorm(2))))
    shared = nn.LayerNorm(2)
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.Sequential(nn.BatchNorm1d(2), shared))
    assert list(norm_layers(model)) == ["1", "2.0"]
    assert norm_layers(model)["1"] is shared


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, affine=False)),
    )


def test_without_running_statistics_keeps_parameters_names_and_training_output():
    model = small_net()
    changed = copy.deepcopy(model)
    parameters = dict(changed.named_parameters())
    assert without_running_statistics(changed) is changed
    assert {n: id(p) for n, p in changed.named_parameters()} == {n: id(p) for n, p in parameters.items()}
    assert list(dict(changed.named_buffers())) == []
    assert isinstance(changed[1], BatchStatistics)
    x = random(4, 2, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(changed(x), model.train()(x))
    torch.testing.assert_close(changed.eval()(x), changed.train()(x))


def test_without_running_statistics_trains_stacked_copies():
    model = without_running_statistics(small_net())
    stacked = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in model.named_parameters()}
    x = random(4, 2, 8, 8, dtype=torch.float32)

    def loss(parameters):
        return functional_call(model, parameters, (x,)).pow(3).mean()

    grads = vmap(grad(loss))(stacked)
    for k in range(2):
        one = grad(loss)({n: p[k] for n, p in stacked.items()})
        for name, g in one.items():
            torch.testing.assert_close(grads[name][k], g, atol=1e-5, rtol=1e-3)


def test_without_running_statistics_on_a_shared_and_on_a_bare_batch_norm():
    bn = nn.BatchNorm1d(3).eval()
    shared = without_running_statistics(nn.Sequential(bn, nn.Linear(3, 3), bn))
    assert shared[0] is shared[2]
    assert not shared[0].training
    bare = without_running_statistics(bn)
    assert isinstance(bare, BatchStatistics)
    assert bare.weight is bn.weight
    with pytest.raises(ValueError, match=r"batch norm '1' does not know its number of channels yet"):
        without_running_statistics(nn.Sequential(nn.ReLU(), nn.LazyBatchNorm1d()))


def test_reestimated_statistics_are_those_of_the_whole_data():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3, momentum=0.3), nn.Dropout(0.5)).train()
    model[2].eval()
    data = random(20, 3, dtype=torch.float32) * 2 + 5
    batches = [(data[:16], None), [data[16:], None]]
    state = torch.random.get_rng_state()
    assert reestimate_batch_statistics(model, batches) is model
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(model[1].running_mean, data.mean(0))
    torch.testing.assert_close(model[1].running_var, data.var(0))
    assert model[1].momentum == 0.3
    assert [m.training for m in model] == [True, True, False]
    assert len(model[1]._forward_pre_hooks) == 0
    assert int(model[1].num_batches_tracked) == 2


def test_a_batch_norm_used_twice_averages_over_both_uses():
    bn = nn.BatchNorm1d(1, affine=False, eps=1e-12)
    model = nn.Sequential(bn, nn.Hardtanh(0.0, 10.0), bn)
    x = random(32, 1, dtype=torch.float32)
    reestimate_batch_statistics(model, [x])
    second = nn.functional.hardtanh(formula(x, 1e-12), 0.0, 10.0)
    torch.testing.assert_close(bn.running_mean, (x.mean(0) + second.mean(0)) / 2)


def test_reestimation_failures_leave_the_statistics_alone():
    model = small_net()
    model(random(4, 2, 8, 8, dtype=torch.float32))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="no batches"):
        reestimate_batch_statistics(model, [])
    with pytest.raises(RuntimeError):
        reestimate_batch_statistics(model, [random(4, 2, 8, 8, dtype=torch.float32), torch.ones(4, 7, 8, 8)])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert model.training
    assert model[1].momentum == 0.1


def test_reestimation_with_another_signature_and_without_batch_norms():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
            self.unused.running_mean.fill_(7.0)

        def forward(self, a, b):
            return self.bn(a + b)

    model = TwoInputs()
    a = random(8, 2, dtype=torch.float32)
    reestimate_batch_statistics(model, [{"a": a, "b": a}], forward=lambda m, batch: m(**batch))
    torch.testing.assert_close(model.bn.running_mean, (2 * a).mean(0))
    torch.testing.assert_close(model.unused.running_mean, torch.full((2,), 7.0))

    def explode():
        raise AssertionError("nothing to estimate, nothing to read")
        yield

    reestimate_batch_statistics(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), explode())
