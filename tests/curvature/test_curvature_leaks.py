"""Whatever is measured, and even if it fails, model and random states are as before; errors say what is wrong."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from curvature_nets import batches_for, net
from torch import nn

from onsphere.curvature import (
    Functional,
    SharpnessTracker,
    gradient_noise,
    hessian_operator,
    spectral_density,
    top_eigenvalues,
    trace,
)

CE = F.cross_entropy

CALLS = {
    "top_eigenvalues": lambda m, loss, b, **o: top_eigenvalues(m, loss, b, 2, max_products=6, **o),
    "finite differences": lambda m, loss, b, **o: top_eigenvalues(
        m, loss, b, max_products=3, kind="finite-difference", **o
    ),
    "gauss-newton": lambda m, loss, b, **o: top_eigenvalues(m, loss, b, max_products=3, kind="ggn", **o),
    "tracker": lambda m, loss, b, **o: [SharpnessTracker(loss, b, max_products=3, **o)(m) for _ in range(2)],
    "trace": lambda m, loss, b, **o: trace(m, loss, b, probes=4, groups="parameters", **o),
    "hutch++": lambda m, loss, b, **o: trace(m, loss, b, probes=4, method="hutch++", **o),
    "spectral_density": lambda m, loss, b, **o: spectral_density(m, loss, b, probes=2, steps=3, **o),
    "gradient_noise": lambda m, loss, b, **o: gradient_noise(m, loss, b, **o),
    "operator": lambda m, loss, b, **o: hessian_operator(m, loss, b, **o).product(torch.ones(_size(m, o))),
    "functional": lambda m, loss, b, **o: _gradient(Functional(m, loss, b, **o)),
}


def _size(model, options):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return sum(p.numel() for n, p in named if n in options.get("parameters", [n]))


def _gradient(functional):
    return sum(functional.gradient(i) for i in range(len(functional.batches)))


class Everything(nn.Module):
    """Batch norm, dropout, a frozen weight, and a buffer that a forward pass writes to."""

    def __init__(self):
        super().__init__()
        self.body, self.drop = net("batch_norm"), nn.Dropout(0.5)
        self.body[6].bias.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        self.calls += 1
        return self.drop(self.body(x))


def prepared():
    """A model in the middle of training: gradients there, some layers in evaluation mode, hooks attached."""
    model = Everything()
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.full_like(p, 0.5)
    model.train()
    model.body[4].eval()
    model.body[1].momentum = 0.3
    model.seen = []
    model.body[0].register_forward_hook(lambda module, args, output: model.seen.append(1))
    return model


def snapshot(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = np.random.get_state()
    return {
        "tensors": {n: (t.detach().clone().numpy().tobytes(), t.data_ptr(), id(t)) for n, t in tensors.items()},
        "grads": {
            n: (id(p.grad), p.grad is not None and p.grad.numpy().tobytes()) for n, p in model.named_parameters()
        },
        "graphs": [p.grad_fn for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "track": [getattr(m, "track_running_stats", None) for m in model.modules()],
        "modules": [id(m) for m in model.modules()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "seen": len(model.seen),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (state[1].tobytes(), state[2]),
        "python": random.getstate(),
        "enabled": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
    }


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("call", CALLS)
def test_nothing_leaks(call, mode):
    model, batches = prepared(), batches_for("batch_norm", 2)
    inputs = copy.deepcopy(batches)
    before = snapshot(model)
    CALLS[call](model, CE, batches, mode=mode)
    CALLS[call](model, CE, batches, mode=mode, parameters=["body.0.weight"], sphere=True)
    with torch.no_grad():
        CALLS[call](model, CE, batches, mode=mode)
    assert snapshot(model) == before
    assert all(torch.equal(x, a) and torch.equal(y, b) for (x, y), (a, b) in zip(batches, inputs, strict=True))
    # The snapshot would have shown a forward pass: this check can fail.
    model(batches[0][0])
    after = snapshot(model)
    for part in ("tensors", "seen", "torch"):
        assert after[part] != before[part], part


class BrokenError(Exception):
    pass


def failing_after(calls):
    """A loss that draws random numbers and fails at one of its calls."""
    count = 0

    def loss(output, target):
        nonlocal count
        count += 1
        torch.rand(1)
        if count > calls:
            raise BrokenError
        return CE(output, target)

    return loss


@pytest.mark.parametrize("calls", [0, 1, 5])
@pytest.mark.parametrize("call", CALLS)
def test_nothing_leaks_after_an_exception(call, calls):
    model, batches = prepared(), batches_for("batch_norm", 8)
    before = snapshot(model)
    with pytest.raises(BrokenError):
        CALLS[call](model, failing_after(calls), batches)
    assert snapshot(model) == before


def test_nothing_leaks_when_batches_or_the_model_fail():
    def broken():
        yield batches_for("batch_norm", 1)[0]
        raise BrokenError

    model = prepared()
    before = snapshot(model)
    with pytest.raises(BrokenError):
        top_eigenvalues(model, CE, broken())
    with pytest.raises(RuntimeError, match="shape"):
        top_eigenvalues(model, CE, [*batches_for("batch_norm", 1), (torch.ones(2, 3).double(), torch.ones(2).long())])
    assert snapshot(model) == before


@pytest.mark.parametrize("call", CALLS)
def test_results_do_not_depend_on_the_random_state_or_on_flags(call):
    def numbers(found):
        if isinstance(found, torch.Tensor):
            return found
        return torch.tensor([0.0 if isinstance(v, str) else float(v) for v in _flat(found)])

    batches = batches_for("batch_norm", 2)
    # Not on the mode of the whole model; a single batch norm in evaluation mode would be a frozen one.
    first, model = numbers(CALLS[call](prepared().train(), CE, batches)), prepared().eval()
    torch.manual_seed(99)
    assert torch.equal(numbers(CALLS[call](model, CE, batches)), first)


def _flat(found):
    if isinstance(found, list):
        return [x for one in found for x in _flat(one)]
    wanted = ("values", "value", "standard_error", "noise_trace", "mean_gradient_norm", "nodes")
    rows = [np.ravel(getattr(found, name)) for name in wanted if hasattr(found, name)]
    return np.concatenate(rows)


# -- errors ------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x):
        return self.layer(x + 0.1 * torch.randn_like(x))


@pytest.mark.parametrize("call", CALLS)
def test_a_model_that_is_not_deterministic_is_refused(call):
    with pytest.raises(ValueError, match="the model is not deterministic: two forward passes"):
        CALLS[call](Noisy(), CE, batches_for("batch_norm", 2))
    top_eigenvalues(nn.Sequential(nn.Linear(4, 3), nn.Dropout()).double(), CE, batches_for("batch_norm", 1))


@pytest.mark.parametrize("call", CALLS)
def test_a_loss_that_is_not_a_mean_is_refused(call):
    def total(output, target):
        return CE(output, target, reduction="sum")

    for count in (1, 2):
        if count > 1 or call != "gradient_noise":
            with pytest.raises(ValueError, match="loss_fn is not a mean over examples"):
                CALLS[call](net("batch_norm"), total, batches_for("batch_norm", count))
    with pytest.raises(ValueError, match=r"shape \(16,\); it must return one number"):
        CALLS[call](net("layer_norm"), lambda o, y: CE(o, y, reduction="none"), batches_for("batch_norm", 2))


def test_weighted_averages_are_fine_with_one_batch_and_refused_with_several():
    def weighted(output, target):
        return CE(output, target, weight=torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64))

    top_eigenvalues(net("layer_norm"), weighted, batches_for("layer_norm", 1))
    with pytest.raises(ValueError, match="not a mean"):
        top_eigenvalues(net("layer_norm"), weighted, batches_for("layer_norm", 2))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("batches", "error", "match"),
    [
        ([], ValueError, "batches is empty"),
        ((pair for pair in ()), ValueError, "exhausted generator"),
        ([(torch.zeros(0, 4).double(), torch.zeros(0).long())], ValueError, "batch 0 has no examples"),
        ([torch.zeros(3)], TypeError, "batch 0 is a Tensor; every batch must be a pair"),
        (torch.zeros(3), TypeError, "batches is a Tensor"),
    ],
    ids=["none", "exhausted", "no examples", "not pairs", "tensor"],
)
def test_batches_that_are_none_are_refused(call, batches, error, match):
    with pytest.raises(error, match=match):
        CALLS[call](net("batch_norm"), CE, batches)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_and_losses_that_are_not_finite_are_refused(call, bad):
    model = net("batch_norm")
    with torch.no_grad():
        model[3].weight[0, 0] = bad
    with pytest.raises(ValueError, match=r"not finite .*: 3\.weight"):
        CALLS[call](model, CE, batches_for("batch_norm", 2))
    (x, y), other = batches_for("batch_norm", 2)
    with pytest.raises(ValueError, match=r"the loss of batch . is (nan|inf)"):
        CALLS[call](net("layer_norm"), CE, [(x * bad, y), other])
    with pytest.raises(ValueError, match=r"the loss of batch . is (nan|inf)"):
        CALLS[call](net("layer_norm"), CE, [other, (x * bad, y)])


@pytest.mark.parametrize("call", CALLS)
def test_wrong_arguments_are_named(call):
    batches = batches_for("batch_norm", 2)
    with pytest.raises(ValueError, match=r"mode is 'test'; it must be one of train, eval"):
        CALLS[call](net("batch_norm"), CE, batches, mode="test")
    with pytest.raises(TypeError, match="model is a function"):
        CALLS[call](CE, CE, batches, parameters=[])
    with pytest.raises(TypeError, match="loss_fn returned a float"):
        CALLS[call](net("batch_norm"), lambda o, y: 1.0, batches)


def test_an_unknown_kind_and_a_zero_point_of_a_sphere():
    batches, model = batches_for("batch_norm", 1), net("batch_norm")
    with pytest.raises(ValueError, match="kind is 'fisher'"):
        hessian_operator(model, CE, batches, kind="fisher")
    with torch.no_grad():
        model[6].weight.zero_()
    with pytest.raises(ValueError, match="they have no direction"):
        hessian_operator(model, CE, batches, ["6.weight"], sphere=True)
    with pytest.raises(ValueError, match=r"the vector has shape \(3,\)"):
        hessian_operator(model, CE, batches).product(torch.ones(3))


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_a_function_that_can_be_differentiated_once_is_not_taken_for_flat(kind):
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return 3 * ctx.saved_tensors[0] ** 2 * grad

    class Model(nn.Linear):
        def forward(self, x):
            return Cube.apply(super().forward(x))

    torch.manual_seed(0)
    model, batches = Model(4, 3).double(), batches_for("batch_norm", 2)
    for call in (top_eigenvalues, trace, spectral_density):
        with pytest.raises(RuntimeError, match="use kind='finite-difference'"):
            call(model, CE, batches, kind=kind)
    assert top_eigenvalues(model, CE, batches, kind="finite-difference").values[0] > 1e-2
