"""The monitor from outside: other threads, warnings as errors, odd settings, nested steps, compilers, checkpoints."""

import subprocess
import sys
import threading
import warnings
from functools import cache

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch._dynamo.testing import CompileCounter

import onsphere
from onsphere import Monitor, SphereSGD
from onsphere.monitor import workspace
from onsphere.monitor.outlets import Outlets


def weights(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in [(4, 3), (5, 2)]]


def spheres(params):
    return [{"params": params, "names": [f"w{i}" for i in range(len(params))], "sphere": "joint"}]


def train(params, optimizer, steps=6):
    for _ in range(steps):
        optimizer.zero_grad()
        flat = torch.cat([p.flatten() for p in params])
        (flat / flat.norm()).cumsum(0).square().sum().backward()
        optimizer.step()


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# -- threads ---------------------------------------------------------------------------------------------------


@pytest.fixture
def busy_threads():
    """Threads take turns within microseconds: more often in the middle of things, and none waits long for its turn."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("busy_threads")
@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_readings_taken_from_a_second_thread_disturb_nothing(pieces, dtype, monkeypatch):
    monkeypatch.setattr(workspace, "_PIECE", {"default": 5 if pieces else 10**6})
    quiet, loud = weights(dtype=dtype), weights(dtype=dtype)
    one, two = (torch.optim.SGD(p, 0.1, momentum=0.9) for p in (quiet, loud))
    alone, asked = (Monitor(o, spheres(p), every=1, capacity=16) for o, p in ((one, quiet), (two, loud)))
    stop, failed, taken = threading.Event(), [], []

    def ask():
        while not stop.is_set():
            try:
                taken.append(len(asked.readings()["step"]))
                asked.state_dict()
                asked.diagnose()
                repr(asked)
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    train(quiet, one, 150)
    train(loud, two, 150)
    stop.set()
    thread.join()
    assert not failed and len(taken) > 1
    same(alone.readings(), asked.readings())
    same(alone.readings("tensor"), asked.readings("tensor"))


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("closure", [False, True])
def test_readings_taken_within_a_step(pieces, closure, monkeypatch):
    """In the middle of a step, where another thread may ask: between the copies before it and those after it."""
    monkeypatch.setattr(workspace, "_PIECE", {"default": 5 if pieces else 10**6})
    tables = []
    for asking in (False, True):
        params = weights()
        optimizer = torch.optim.SGD(params, 0.1)
        monitor = Monitor(optimizer, spheres(params), every=1)

        def look(*_, monitor=monitor, asking=asking):
            if asking:
                thread = threading.Thread(target=monitor.readings)
                thread.start()
                thread.join()

        optimizer.register_step_pre_hook(look)  # after the monitor's own

        def evaluate(params=params, optimizer=optimizer, look=look):
            optimizer.zero_grad()
            flat = torch.cat([p.flatten() for p in params])
            loss = (flat / flat.norm()).cumsum(0).square().sum()
            loss.backward()
            look()
            return loss

        for _ in range(7):
            optimizer.step(evaluate) if closure else train(params, optimizer, 1)
        tables.append(monitor.readings())
    same(*tables)
    assert list(tables[0]["step"]) == list(range(7))


def test_training_in_one_thread_and_attaching_and_detaching_in_another():
    params = weights()
    optimizer = torch.optim.SGD(params, 0.1)
    thread = threading.Thread(target=train, args=(params, optimizer, 200))
    thread.start()
    read = 0
    for _ in range(10):
        monitor = Monitor(optimizer, spheres(params), every=1)
        monitor.flush()
        monitor.detach()
        read += len(monitor.readings()["step"])
    thread.join()
    assert all(p.isfinite().all() for p in params)


# -- whatever fails ----------------------------------------------------------------------------------------------


class Fails:
    def write(self, step, values):
        raise OSError("disk full")

    def close(self):
        pass


def test_with_warnings_as_errors_a_failing_sink_does_not_stop_training(caplog):
    params = weights()
    optimizer = torch.optim.SGD(params, 0.1)
    monitor = Monitor(optimizer, spheres(params), every=1, capacity=2, sinks=[Fails()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(params, optimizer, 6)
    assert len(monitor.readings()["step"]) == 6
    assert caplog.text.count("sink Fails failed (OSError: disk full)") == 1


def test_with_warnings_as_errors_a_failing_reading_does_not_stop_training(caplog):
    params = weights()
    optimizer = torch.optim.SGD(params, 0.1)
    monitor = Monitor(optimizer, spheres(params), every=1)
    params[0].data = torch.ones(7, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(params, optimizer, 3)
    assert "reading stopped at step 0" in caplog.text and len(monitor.readings()["step"]) == 0


@pytest.mark.parametrize("place", ["flush", "write", "alarm"])
def test_whatever_fails_at_a_flush_stays_in_the_monitor(place, monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(Monitor if place == "flush" else Outlets, place, fails)
    params = weights()
    optimizer = torch.optim.SGD(params, 0.1)
    sinks = [Fails()] if place == "write" else []
    Monitor(optimizer, spheres(params), every=1, capacity=2, sinks=sinks, on_alarm=print)
    with pytest.warns(RuntimeWarning, match="a mistake of ours.*training goes on") as caught:
        train(params, optimizer, 8)
    assert len([w for w in caught if "a mistake" in str(w.message)]) == 1


def test_in_a_python_that_treats_warnings_as_errors(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import torch, onsphere\n"
        "class Fails:\n"
        "    def write(self, step, values): raise OSError('disk full')\n"
        "    def close(self): pass\n"
        "w = torch.nn.Parameter(torch.ones(3)); o = torch.optim.SGD([w], 0.1)\n"
        "m = onsphere.Monitor(o, [{'params': [w], 'sphere': 'joint'}], every=1, capacity=1, sinks=[Fails()])\n"
        "for _ in range(3): w.grad = torch.tensor([1.0, -1.0, 0.0]); o.step()\n"
        "print(len(m.readings()['step']))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error::RuntimeWarning", str(script)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "3", done.stderr


# -- settings that are no numbers --------------------------------------------------------------------------------


class Stepper(torch.optim.Optimizer):
    """Takes any settings, and moves by 0.1."""

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad, alpha=0.1)


@pytest.mark.parametrize(
    ("setting", "column", "expected"),
    [
        ({"lr": None}, "lr", np.nan),
        ({"lr": "fast"}, "lr", np.nan),
        ({"lr": torch.ones(2)}, "lr", np.nan),
        ({"lr": 1e300}, "lr", 1e300),
        ({"lr": np.float32(0.5)}, "lr", 0.5),
        ({"lr": np.ones(3)}, "lr", np.nan),
        ({"lr": 0.1, "momentum": (0.9, 0.99)}, "lr", 0.1),
        ({"lr": 0.1, "betas": (0.9,)}, "lr", 0.1),
        ({"lr": 0.1, "betas": 0.9}, "lr", 0.1),
        ({"lr": 0.1, "betas": (None, torch.tensor(0.5))}, "lr", 0.1),
        ({"lr": 0.1, "betas": (0.9, 0.99, 0.999)}, "lr", 0.1),
        ({"lr": 0.1, "weight_decay": [0.1, 0.2]}, "weight_decay", np.nan),
        ({}, "lr", np.nan),
    ],
)
def test_settings_that_are_no_numbers_are_read_as_missing(setting, column, expected):
    params = weights()
    optimizer = Stepper(params, setting)
    monitor = Monitor(optimizer, spheres(params), every=1, capacity=2, on_alarm=print)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(params, optimizer, 25)
        monitor.diagnose()
    read = monitor.readings()
    np.testing.assert_array_equal(read[column], [expected] * 25)
    assert read["finite"].all()


def test_an_argument_of_step_that_is_no_closure_arrives_as_it_is():
    class Takes(Stepper):
        def step(self, loss):
            assert isinstance(loss, float)
            super().step()

    params = weights()
    optimizer = Takes(params, {"lr": 0.1})
    monitor = Monitor(optimizer, spheres(params), every=1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step(2.5)
    assert len(monitor.readings()["step"]) == 1


# -- steps inside steps ------------------------------------------------------------------------------------------


class Nested(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(1.5)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_nested_step_is_one_step(every, depth):
    torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)  # from now on torch wraps the step of SGD itself
    kind = Nested if depth == 1 else type("Deeper", (Nested,), {"step": lambda self: Nested.step(self)})
    params = weights()
    optimizer = kind(params, 0.1)
    monitor = Monitor(optimizer, spheres(params), every=every)
    norms = []
    for _ in range(8):
        norms.append(float(torch.cat([p.detach().flatten() for p in params]).norm()))
        train(params, optimizer, 1)
    read = monitor.readings()
    assert list(read["step"]) == list(range(0, 8, every))
    np.testing.assert_allclose(read["norm"], norms[::every])
    moved = float(torch.cat([p.detach().flatten() for p in params]).norm())
    assert monitor._recorders[0].count == 8 and moved > norms[-1]
    assert (read["decay_pull"] < -0.1).all()  # the whole of the step was seen, the growth by half included


def test_a_nested_step_with_a_closure_reads_its_first_evaluation():
    params = weights()
    optimizer = Nested(params, 0.1)
    monitor = Monitor(optimizer, spheres(params), every=1)

    def closure():
        optimizer.zero_grad()
        flat = torch.cat([p.flatten() for p in params])
        loss = (flat / flat.norm()).cumsum(0).square().sum()
        loss.backward()
        return loss

    closure()
    wanted = float(torch.cat([p.grad.flatten() for p in params]).norm())
    optimizer.step(closure)
    assert monitor.readings()["gradient_norm"] == pytest.approx(wanted)


# -- torch.compile -----------------------------------------------------------------------------------------------

MAKERS = {
    "AdamW": lambda g: torch.optim.AdamW(g, 1e-2),
    "SGD": lambda g: torch.optim.SGD(g, 1e-2, momentum=0.9),
    "SphereSGD": lambda g: SphereSGD(g, 1e-2),
}


def graphs(make, every=0, scheduled=False, whole=False, backend=None):
    """How many graphs a compiled step (or a whole compiled iteration) takes, and what was read."""
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3))
    groups = [{"params": [model[0].weight], "sphere": "joint"}, {"params": list(model[2].parameters())}]
    optimizer = make(groups)
    monitor = Monitor(optimizer, groups, every=every) if every else None
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50) if scheduled else None
    counter = CompileCounter() if backend is None else torch._dynamo.testing.CompileCounterWithBackend(backend)
    step = torch.compile(lambda: optimizer.step(), backend=counter)

    def iteration(x, y):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step() if whole else step()

    called = torch.compile(iteration, backend=counter) if whole else iteration
    for _ in range(6):
        called(torch.randn(5, 6, generator=generator), torch.randint(3, (5,), generator=generator))
        if scheduler is not None:
            scheduler.step()
    return counter.frame_count, None if monitor is None else sorted(set(monitor.readings()["step"]))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_hooks_are_unseen_by_the_compiler(make, whole):
    bare, _ = graphs(make, whole=whole)
    for every in (1, 2):
        watched, steps = graphs(make, every, whole=whole)
        assert watched == bare
        assert steps == list(range(0, 6, every))


@cache
def scheduled_adamw(backend):
    return graphs(MAKERS["AdamW"], scheduled=True, backend=backend)[0]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"geodesic": True}, {"foreach": False}])
@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_schedule_does_not_recompile_sphere_sgd_more_often_than_adamw(options, backend):
    adamw = scheduled_adamw(backend)
    mine, _ = graphs(lambda g: SphereSGD(g, 1e-2, **options), scheduled=True, backend=backend)
    assert mine <= adamw + (options.get("momentum", 0) > 0)  # its buffers are made in the first step


def test_a_compiled_sphere_step_is_the_step():
    one, two = weights(dtype=torch.float32), weights(dtype=torch.float32)
    free = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizers = [
        SphereSGD([*spheres(p), {"params": [f], "weight_decay": 0.1}], 0.01, momentum=0.5)
        for p, f in zip((one, two), free, strict=True)
    ]
    compiled = torch.compile(lambda: optimizers[1].step(), backend="aot_eager")
    for step in range(4):
        for p, f in zip((one, two), free, strict=True):
            for w, g in zip(p, weights(step + 1, torch.float32), strict=True):
                w.grad = g.detach()
            f.grad = torch.full((3,), 0.5)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
        optimizers[0].step()
        compiled()
    for a, b in zip([*one, free[0]], [*two, free[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


# -- checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("saved", [0, 1, 5])
@pytest.mark.parametrize("present", [0, 3])
def test_distributed_checkpoints_of_a_monitor(tmp_path, saved, present):
    params = weights()
    optimizer = torch.optim.SGD(params, 0.1)
    monitor = Monitor(optimizer, spheres(params), every=1)
    train(params, optimizer, saved)
    dcp.save({"monitor": monitor}, checkpoint_id=tmp_path / "c", no_dist=True)
    expected = monitor.readings()
    other = weights(1)
    again = torch.optim.SGD(other, 0.1)
    fresh = Monitor(again, spheres(other), every=1)
    train(other, again, present)
    dcp.load({"monitor": fresh}, checkpoint_id=tmp_path / "c", no_dist=True)
    same(expected, fresh.readings())
    train(other, again, 2)
    assert list(fresh.readings()["step"]) == list(range(saved + 2))


def test_states_of_before_are_read_and_damaged_ones_refused():
    params = weights()
    optimizer = torch.optim.SGD(params, 0.1)
    monitor = Monitor(optimizer, spheres(params), every=1)
    train(params, optimizer, 4)
    state, expected = monitor.state_dict(), monitor.readings()
    steps, sums, settings = (torch.from_numpy(part.copy()) for part in monitor._record.stores[0].arrays())
    run = {"count": 4, "steps": steps, "sums": sums, "settings": settings, "dropped": 0}
    old = {name: state[name] for name in ("every", "names", "param_groups")}
    train(params, optimizer, 2)
    monitor.load_state_dict(old | {"runs": [run], "shown": {"sphere": 1}, "alarmed": []})
    same(monitor.readings(), expected)
    for damaged in (b"", state["readings"][:100], b"\x80" + state["readings"][1:]):
        with pytest.raises(ValueError, match="readings are damaged"):
            monitor.load_state_dict(state | {"readings": damaged})
    same(monitor.readings(), expected)


# -- optimisers without watched tensors --------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("every", [1, 2])
def test_an_optimiser_that_steps_nothing_watched(first, every):
    params, other = weights(), [nn.Parameter(torch.ones(2, dtype=torch.float64))]
    mine, idle = torch.optim.SGD(params, 0.1), torch.optim.AdamW(other, 0.1)
    monitor = Monitor([mine, idle][:: 1 if first else -1], spheres(params), every=every, capacity=2)
    for _ in range(6):
        train(params, mine, 1)
        other[0].grad = torch.ones(2, dtype=torch.float64)
        idle.step()
    assert list(monitor.readings()["step"]) == list(range(0, 6, every))
    monitor.load_state_dict(monitor.state_dict())
    assert "sphere: 2 tensors" in repr(monitor) and isinstance(monitor.diagnose(), list)


def test_select_may_leave_an_optimiser_out():
    a, b = weights()
    monitor = Monitor([torch.optim.SGD([a], 0.1), torch.optim.SGD([b], 0.1)], spheres([a, b]), every=1, select="w1")
    for one in [recorder.optimizer for recorder in monitor._recorders]:
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
        one.step()
    assert list(monitor.readings("tensor")["group"]) == ["w1"]
    assert onsphere.Monitor is Monitor
