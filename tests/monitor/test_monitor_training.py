"""Training under the monitor is bit for bit the training without it, whatever the loop does."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onsphere
from onsphere import Monitor, SphereSGD, keep_on_sphere

STEPS = 9


def network(dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, eps=1e-12, affine=False), nn.ReLU(), nn.Linear(8, 3)]
        return nn.Sequential(*layers).to(dtype)


def batches(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, 16, 6, generator=generator).to(dtype)
    return list(zip(x, torch.randint(3, (STEPS, 16), generator=generator), strict=True))


def plain(model, optimizers, x, y, step):
    for optimizer in optimizers:
        optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    for optimizer in optimizers:
        optimizer.step()


def clipped(model, optimizers, x, y, step):
    optimizers[0].zero_grad()
    F.cross_entropy(model(x), y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizers[0].step()


def accumulated(model, optimizers, x, y, step):
    (F.cross_entropy(model(x), y) / 2).backward()
    if step % 2:
        optimizers[0].step()
        optimizers[0].zero_grad()


def closed(model, optimizers, x, y, step):
    def closure():
        optimizers[0].zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    if step % 2:
        optimizers[0].step(closure)
    else:
        optimizers[0].step(closure=closure)


def kept_gradients(model, optimizers, x, y, step):
    optimizers[0].zero_grad(set_to_none=False)
    F.cross_entropy(model(x), y).backward()
    optimizers[0].step()


def scheduled(model, optimizers, x, y, step):
    if step == 0:
        optimizers[0].schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[0], STEPS)
    plain(model, optimizers, x, y, step)
    optimizers[0].schedule.step()


def alternating(model, optimizers, x, y, step):
    plain(model, [optimizers[step % 2]], x, y, step)


def frozen_part(model, optimizers, x, y, step):
    optimizers[0].zero_grad()
    F.cross_entropy(model(x), y).backward()
    if step % 3:
        model[3].bias.grad = None
    optimizers[0].step()


def two(model):
    return [torch.optim.Muon([model[0].weight], 0.02), torch.optim.AdamW(model[3].parameters(), 0.01)]


def one(make):
    return lambda model: [make(model.parameters())]


def kept(model):
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    return [keep_on_sphere(optimizer, [{"params": [model[0].weight], "sphere": "joint"}])]


def on_sphere(model):
    return [SphereSGD([{"params": [model[0].weight], "sphere": "joint"}, {"params": model[3].parameters()}], 0.01)]


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)


CASES = {
    "SGD": (one(lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01)), plain),
    "momentum": (one(sgd), plain),
    "nesterov-foreach": (one(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, foreach=True)), plain),
    "Adam": (one(lambda p: torch.optim.Adam(p, 0.01)), plain),
    "AdamW-foreach": (one(lambda p: torch.optim.AdamW(p, 0.01, foreach=True)), plain),
    "AdamW-fused": (one(lambda p: torch.optim.AdamW(p, 0.01, fused=True)), plain),
    "tensor-lr": (one(lambda p: torch.optim.AdamW(p, torch.tensor(0.01))), plain),
    "several": (two, plain),
    "alternating": (two, alternating),
    "kept": (kept, plain),
    "SphereSGD": (on_sphere, plain),
    "closure": (one(sgd), closed),
    "LBFGS": (one(lambda p: torch.optim.LBFGS(p, 0.1, max_iter=5)), closed),
    "clipping": (one(sgd), clipped),
    "accumulation": (one(sgd), accumulated),
    "gradients-not-freed": (one(sgd), kept_gradients),
    "schedule": (one(sgd), scheduled),
    "missing-gradients": (one(sgd), frozen_part),
}


def run(make, loop, every, wrap=lambda model: model, dtype=torch.float32):
    model = network(dtype)
    optimizers = make(model)
    monitor = Monitor(optimizers, every=every, capacity=2) if every else None
    called = wrap(model)
    for step, (x, y) in enumerate(batches(dtype)):
        loop(called if loop is plain else model, optimizers, x, y, step)
    state = [value for optimizer in optimizers for entry in optimizer.state.values() for value in entry.values()]
    tensors = [*model.state_dict().values(), *(v for v in state if isinstance(v, torch.Tensor))]
    gradients = [torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()]
    return [t.clone() for t in tensors] + gradients, monitor


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("make", "loop"), CASES.values(), ids=CASES)
def test_bit_identical(make, loop):
    bare, _ = run(make, loop, 0)
    for every in (1, 2):
        watched, monitor = run(make, loop, every)
        assert same(bare, watched)
        if loop is not alternating:
            read = monitor.readings()
            assert len(read["step"]) == len(range(0, STEPS // 2 if loop is accumulated else STEPS, every))
            assert (read["norm"] > 0).all() and np.isfinite(read["elr"]).all()


def test_bit_identical_in_bfloat16():
    bare, _ = run(one(sgd), plain, 0, dtype=torch.bfloat16)
    assert same(bare, run(one(sgd), plain, 1, dtype=torch.bfloat16)[0])


@contextlib.contextmanager
def one_process_group():
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def test_bit_identical_under_distributed_data_parallel():
    with one_process_group():
        wrap = nn.parallel.DistributedDataParallel
        bare, _ = run(one(sgd), plain, 0, wrap)
        watched, monitor = run(one(sgd), plain, 1, wrap)
        assert same(bare, watched) and len(monitor.readings()["step"]) == STEPS


def test_bit_identical_with_a_compiled_model():
    def wrap(model):
        return torch.compile(model, backend="aot_eager")

    bare, _ = run(one(sgd), plain, 0, wrap)
    watched, monitor = run(one(sgd), plain, 1, wrap)
    assert same(bare, watched) and len(monitor.readings()["step"]) == STEPS


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_scaling_reads_true_gradients_and_skips_skipped_steps(fused):
    def train(every, scale):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=fused)
        monitor = Monitor(optimizer, every=1) if every else None
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3, enabled=scale)
        for step, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=scale):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            if scale and step == 4:
                model[0].weight.grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
        return [p.detach().clone() for p in model.parameters()], monitor

    bare, _ = train(0, True)
    watched, monitor = train(1, True)
    assert same(bare, watched)
    read, unscaled = monitor.readings(), train(1, False)[1].readings()
    # A step skipped outside the optimiser is none; a fused optimiser skips it inside, with an infinite gradient.
    assert len(read["step"]) == (STEPS if fused else STEPS - 1)
    assert list(np.flatnonzero(~read["finite"])) == ([4] if fused else [])
    np.testing.assert_allclose(read["gradient_norm"][0], unscaled["gradient_norm"][0], rtol=0.05)


def test_with_a_closure_the_gradient_is_that_of_its_first_evaluation():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=5)
    monitor = Monitor(optimizer, every=1)
    x, y = batches()[0]
    closed(model, [optimizer], x, y, 1)
    fresh = network()
    F.cross_entropy(fresh(x), y).backward()
    wanted = torch.cat([p.grad.double().flatten() for p in fresh.parameters()]).norm()
    np.testing.assert_allclose(monitor.readings()["gradient_norm"], wanted.item(), rtol=1e-12)


def test_a_step_whose_closure_fails_leaves_no_reading():
    model = network()
    optimizer = sgd(model.parameters())
    monitor = Monitor(optimizer, every=1)

    def fails():
        raise KeyError("data")

    with pytest.raises(KeyError):
        optimizer.step(fails)
    plain(model, [optimizer], *batches()[0], 0)
    assert list(monitor.readings()["step"]) == [1]


def test_nothing_is_read_back_between_flushes(monkeypatch):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), torch.tensor(0.01), capturable=False)
    monitor = Monitor(optimizer, every=1, capacity=100)
    recorder = monitor._recorders[0]
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()

        def refuse(*_, **__):
            raise AssertionError("read back to the host")

        with monkeypatch.context() as patch:
            for name in ("item", "cpu", "numpy", "tolist", "__float__", "__bool__"):
                patch.setattr(torch.Tensor, name, refuse)
            recorder._before(optimizer, (optimizer,), {})
            recorder._after(optimizer, (optimizer,), {})
    assert (monitor.readings()["lr"] == np.float64(np.float32(0.01))).all()


def test_gradients_that_track_history_do_not_enter_the_monitor():
    model = network()
    optimizer = sgd(model.parameters())
    monitor = Monitor(optimizer, every=1)
    x, y = batches()[0]
    grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()), create_graph=True)
    for p, g in zip(model.parameters(), grads, strict=True):
        p.grad = g
    optimizer.step()
    assert torch.is_grad_enabled()
    assert not any(s._copies.requires_grad or s.ring.requires_grad for s in monitor._recorders[0]._spaces)
    assert monitor.readings()["finite"].all()


def test_a_digits_like_network_end_to_end():
    model = network()
    x, y = batches()[0]
    groups = onsphere.sphere_groups(model, x)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    monitor = Monitor(optimizer, groups, every=2)
    for x, y in batches():
        plain(model, [optimizer], x, y, 0)
    read = monitor.readings()
    sphere = read["group"] == "sphere"
    assert set(monitor.readings("tensor")["group"]) == {"0.weight", "3.weight", "3.bias"}
    assert (read["noether_residual"][sphere] < 1e-5).all() and (read["noether_residual"][~sphere] > 1e-3).all()
    np.testing.assert_allclose(read["elr"][sphere], 0.1 / read["norm"][sphere] ** 2, rtol=1e-4)
    assert isinstance(monitor.diagnose(), list) and monitor.forecast() is None
