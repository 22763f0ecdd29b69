"""Activation checkpointing changes memory, not the function: measured is what is measured without it."""

import threading

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint as torch_checkpoint
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import onsphere
from onsphere.functional.recomputation import without_recomputation


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 8, generator=generator), torch.randint(3, (32,), generator=generator)


def body():
    # Layers that train in any mode: the plain gradients below need no copy.
    layers = [nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(16, 3))


class Checkpointed(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.body, self.how = body(), how

    def forward(self, x):
        return self.how(self.body, x)


def narrow():
    """Autocast in both passes: part of the function, whoever recomputes."""
    return torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", torch.bfloat16)


def selective():
    policy = lambda context, op, *args, **kwargs: torch_checkpoint.CheckpointPolicy.MUST_RECOMPUTE  # noqa: E731
    return torch_checkpoint.create_selective_checkpoint_contexts(policy)


WAYS = {
    "plain": lambda net, x: checkpoint(net, x, use_reentrant=False),
    "reentrant": lambda net, x: checkpoint(net, x, use_reentrant=True),
    "selective": lambda net, x: checkpoint(net, x, use_reentrant=False, context_fn=selective),
    "nested": lambda net, x: checkpoint(lambda z: checkpoint(net, z, use_reentrant=False), x, use_reentrant=False),
    "sequential": lambda net, x: checkpoint_sequential(net, 3, x, use_reentrant=False),
    "sequential reentrant": lambda net, x: checkpoint_sequential(net, 3, x, use_reentrant=True),
}
WRAPPERS = {"wrapped": CheckpointImpl.NO_REENTRANT, "wrapped reentrant": CheckpointImpl.REENTRANT}


def model_with(way, seed):
    torch.manual_seed(seed)
    if way in WRAPPERS:
        net = Checkpointed(lambda net, x: net(x))
        net.body = checkpoint_wrapper(net.body, checkpoint_impl=WRAPPERS[way])
        return net
    return Checkpointed(WAYS.get(way, lambda net, x: net(x)))


@pytest.mark.parametrize("way", [*WAYS, *WRAPPERS])
def test_gradients_and_curvature_at_other_weights(way):
    other = {name: p.detach() for name, p in model_with("off", 1).state_dict().items()}
    x, y = batch()
    direct = model_with("off", 0)
    direct.load_state_dict(other)
    F.cross_entropy(direct(x), y).backward()
    want = torch.cat([p.grad.flatten() for p in direct.parameters()]).double()
    operator, plain = (
        onsphere.curvature.hessian_operator(model_with(w, 0), F.cross_entropy, (x, y), values=other)
        for w in (way, "off")
    )
    torch.testing.assert_close(operator.gradient(), want, rtol=1e-4, atol=1e-7)
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(operator @ v, plain @ v, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", [*WAYS, *WRAPPERS])
def test_finite_differences_and_curves(way):
    x, y = batch()
    plain, net = model_with("off", 0), model_with(way, 0)
    products = [
        onsphere.curvature.hessian_operator(m, F.cross_entropy, (x, y), kind="finite-difference") @ torch.ones(531)
        for m in (plain, net)
    ]
    torch.testing.assert_close(products[1], products[0], rtol=1e-3, atol=1e-4)
    ends = model_with("off", 3).state_dict()
    names = [n for n, _ in net.named_parameters()]
    losses = [
        onsphere.landscape.train_curve(m, m, ends, F.cross_entropy, (x, y), steps=3, parameters=selected).losses
        for m, selected in ((plain, [n for n, _ in plain.named_parameters()]), (net, names))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("way", [*WAYS, *WRAPPERS])
def test_symmetries_are_those_of_the_function(way):
    want = onsphere.find_symmetries(model_with("off", 0), batch()[0])
    found = onsphere.find_symmetries(model_with(way, 0), batch()[0])
    plain = [tuple(n.replace("_checkpoint_wrapped_module.", "") for n in group) for group in found.groups]
    assert (plain, found.dimension) == (want.groups, want.dimension)


@pytest.mark.parametrize("reentrant", [True, False])
def test_ensembles_of_checkpointed_members(reentrant):
    way = "reentrant" if reentrant else "plain"
    x, _ = batch()
    x.requires_grad_()
    slopes = []
    for w in ("off", way):
        members = onsphere.ensembles.Ensemble.from_members([model_with(w, seed) for seed in (1, 2)])
        slopes.append(torch.autograd.grad(members(x).square().sum(), x)[0])
    torch.testing.assert_close(slopes[1], slopes[0])


def test_the_forward_context_is_part_of_the_function():
    x, _ = batch()
    net = body()
    with without_recomputation():
        out = checkpoint(net, x, use_reentrant=False, context_fn=narrow)
    assert out.dtype == torch.bfloat16


def recomputed(reentrant):
    """How often a checkpointed function ran in one forward and backward pass."""
    calls = []

    def counted(x):
        calls.append(1)
        return x.sin()

    checkpoint(counted, torch.ones(3, requires_grad=True), use_reentrant=reentrant).sum().backward()
    return len(calls)


@pytest.mark.parametrize("reentrant", [True, False])
def test_torch_is_as_before_afterwards_and_after_errors(reentrant):
    before = torch_checkpoint.CheckpointFunction, torch_checkpoint._checkpoint_without_reentrant_generator
    with without_recomputation():
        with without_recomputation():
            assert recomputed(reentrant) == 1
        assert recomputed(reentrant) == 1
    assert recomputed(reentrant) == 2

    def fails(x):
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"), without_recomputation():
        checkpoint(fails, torch.ones(2, requires_grad=True), use_reentrant=reentrant)
    assert recomputed(reentrant) == 2
    assert before == (torch_checkpoint.CheckpointFunction, torch_checkpoint._checkpoint_without_reentrant_generator)


def test_other_threads_go_on_recomputing():
    counts, inside, done = [], threading.Event(), threading.Event()

    def measure():
        with without_recomputation():
            inside.set()
            done.wait(60)
            counts.append(recomputed(True))

    thread = threading.Thread(target=measure)
    thread.start()
    inside.wait(60)
    counts += [recomputed(True), recomputed(False)]
    done.set()
    thread.join()
    assert counts == [2, 2, 1]
