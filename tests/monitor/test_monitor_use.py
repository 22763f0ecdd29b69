"""Wrong use is caught, training goes on whatever fails, runs resume, alarms and sinks are served."""

import gc
import io
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from onsphere import Monitor
from onsphere.monitor import findings
from onsphere.monitor.findings import Finding


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in [(4, 3), (5, 2)]]


def spheres(params):
    return [{"params": params, "names": [f"w{i}" for i in range(len(params))], "sphere": "joint"}]


def train(params, optimizer, steps=6):
    for _ in range(steps):
        optimizer.zero_grad()
        flat = torch.cat([p.flatten() for p in params])
        (flat / flat.norm()).cumsum(0).square().sum().backward()
        optimizer.step()


def sgd(params, lr=0.1, weight_decay=0.1):
    return torch.optim.SGD(params, lr, weight_decay=weight_decay)


# -- wrong use ------------------------------------------------------------------------------------------------


def test_attached_twice():
    params = weights()
    optimizer = sgd(params)
    monitor = Monitor(optimizer)
    with pytest.raises(ValueError, match=r"this SGD has a monitor already; call its detach\(\) first"):
        Monitor(optimizer)
    monitor.detach()
    Monitor(optimizer).detach()
    with pytest.raises(ValueError, match="given twice"):
        Monitor([optimizer, optimizer])


def test_a_failed_attachment_leaves_no_trace():
    params = weights()
    optimizer = sgd(params)
    with pytest.raises(ValueError, match="matches none"):
        Monitor(optimizer, select="bananas")
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    Monitor(optimizer)


def test_tensors_that_the_optimiser_does_not_step():
    params, other = weights(), nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="w2 is not stepped by SGD; make optimizer and groups from the same model"):
        Monitor(sgd(params), spheres([*params, other]))
    with pytest.raises(ValueError, match="w0 is given more than once"):
        Monitor(sgd(params), [*spheres(params), *spheres(params[:1])])
    with pytest.raises(ValueError, match="stepped by two of the optimizers"):
        Monitor([sgd(params), sgd(params[:1])])
    with pytest.raises(TypeError, match=r"param 1 holds torch\.complex64"):
        Monitor(sgd([params[0], nn.Parameter(torch.ones(2, dtype=torch.complex64))]))
    with pytest.raises(ValueError, match='must be "joint"'):
        Monitor(sgd(params), [{"params": params, "sphere": "round"}])


@pytest.mark.parametrize("wrong", [None, 3, [], "SGD", nn.Linear(1, 1)])
def test_not_an_optimiser(wrong):
    with pytest.raises(TypeError, match="Monitor was given"):
        Monitor(wrong)


@pytest.mark.parametrize("name", ["every", "capacity", "keep"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10"])
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} is .* at least 1"):
        Monitor(sgd(weights()), **{name: value})


def test_param_groups_that_change_later_are_a_finding():
    params, more = weights(), nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = sgd(params)
    monitor = Monitor(optimizer, spheres(params), every=1)
    train(params, optimizer, 2)
    assert not any(f.kind == "param groups" for f in monitor.diagnose())
    optimizer.add_param_group({"params": [more]})
    train(params, optimizer, 2)
    del optimizer.param_groups[0]["params"][1]
    train(params, optimizer, 2)
    said = [f.message for f in monitor.diagnose() if f.kind == "param groups"]
    assert len(said) == 2 and "no longer steps w1" in said[0] and "given 1 more tensor, which is not read" in said[1]


def test_a_reading_that_fails_is_reported_once_and_training_goes_on():
    params = weights()
    optimizer = sgd(params)
    monitor = Monitor(optimizer, spheres(params), every=1)
    train(params, optimizer, 2)
    params[0].data = torch.ones(7, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="reading stopped at step 2 .* training goes on") as caught:
        train(params, optimizer, 3)
    assert len(caught) == 1
    assert list(monitor.readings()["step"]) == [0, 1]
    assert any("reading stopped" in f.message for f in monitor.diagnose())


def test_groups_that_are_not_invariant_and_a_learning_rate_of_zero_are_findings():
    params = weights()
    optimizer = sgd(params, lr=0.0)
    monitor = Monitor(optimizer, spheres(params), every=1)
    for _ in range(30):
        optimizer.zero_grad()
        sum((p**2).sum() for p in params).backward()
        optimizer.step()
    kinds = {f.kind for f in monitor.diagnose()}
    assert {"invariance", "lr"} <= kinds


def test_non_finite_values_are_kept_and_marked():
    params = weights()
    optimizer = sgd(params)
    monitor = Monitor(optimizer, spheres(params), every=1)
    train(params, optimizer, 2)
    with torch.no_grad():
        params[0][0, 0] = float("nan")
    train(params, optimizer, 2)
    read = monitor.readings()
    assert list(read["finite"]) == [True, True, False, False] and np.isnan(read["norm"][2:]).all()
    assert any(f.kind == "non-finite" for f in monitor.diagnose())


# -- life -----------------------------------------------------------------------------------------------------


def test_detach_keeps_the_readings_and_removes_the_hooks():
    params = weights()
    optimizer = sgd(params)
    monitor = Monitor(optimizer, spheres(params), every=1)
    train(params, optimizer, 3)
    monitor.detach()
    monitor.detach()
    train(params, optimizer, 3)
    assert list(monitor.readings()["step"]) == [0, 1, 2]
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_an_optimiser_and_its_monitor_can_be_collected():
    params = weights()
    optimizer = sgd(params)
    monitor = Monitor(optimizer)
    train(params, optimizer, 2)
    gone = weakref.ref(optimizer), weakref.ref(monitor)
    del optimizer, monitor
    gc.collect()
    assert gone[0]() is None and gone[1]() is None


def test_memory_is_bounded():
    params = weights()
    optimizer = sgd(params)
    monitor = Monitor(optimizer, spheres(params), every=1, capacity=4, keep=10)
    ring = sum(space.ring.numel() for space in monitor._recorders[0]._spaces)
    train(params, optimizer, 30)
    assert list(monitor.readings()["step"]) == list(range(20, 30))
    assert ring == 4 * 2 * 9
    assert f"ring {ring * 8} bytes" in repr(monitor)
    start = "Monitor of SGD, every 1 steps\n  sphere: 2 tensors, 22 weights, 10 readings, steps 20"
    assert repr(monitor).startswith(start)


def test_names_come_from_the_model_the_groups_or_their_order():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    everything = list(model.parameters())
    wrapped = torch.compile(nn.DataParallel(nn.Sequential(torch.compile(model[0]), model[1])), backend="eager")
    for made, names in [
        (Monitor(sgd(everything), model=wrapped), ["0.weight", "0.bias", "1.weight", "1.bias"]),
        (Monitor(sgd(list(model.named_parameters()))), ["0.weight", "0.bias", "1.weight", "1.bias"]),
        (Monitor(sgd(everything)), [f"param {i}" for i in range(4)]),
    ]:
        assert made._watched.names == [names]
        assert [g.name for g in made._watched.groups] == ["all"]


def test_a_wrapped_optimiser_is_unwrapped():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    optimizer = sgd(weights())
    assert Monitor(Wrapper(Wrapper(optimizer)))._recorders[0].optimizer is optimizer


@pytest.mark.parametrize("stop", [4, 5, 6, 7])
@pytest.mark.parametrize("capacity", [1, 2, 100])
def test_a_resumed_run_continues_bit_for_bit(stop, capacity):
    def start():
        params = weights()
        optimizer = torch.optim.AdamW(params, 0.05)
        return params, optimizer, Monitor(optimizer, spheres(params), every=2, capacity=capacity, keep=5)

    params, optimizer, whole = start()
    train(params, optimizer, 14)
    params, optimizer, monitor = start()
    train(params, optimizer, stop)
    file = io.BytesIO()
    torch.save({"w": params, "o": optimizer.state_dict(), "m": monitor.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    params, optimizer, monitor = start()
    train(params, optimizer, 1)
    with torch.no_grad():
        for p, saved in zip(params, state["w"], strict=True):
            p.copy_(saved)
    optimizer.load_state_dict(state["o"])
    monitor.load_state_dict(state["m"])
    train(params, optimizer, 14 - stop)
    a, b = whole.readings(), monitor.readings()
    assert a.keys() == b.keys() and list(a["step"]) == [4, 6, 8, 10, 12]
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    one, two = whole.state_dict()["runs"][0], monitor.state_dict()["runs"][0]
    assert one["count"] == two["count"] == 14 and one["dropped"] == two["dropped"] == 2


def test_a_state_of_another_monitor_is_refused_and_changes_nothing():
    params = weights()
    optimizer = sgd(params)
    monitor = Monitor(optimizer, spheres(params), every=1)
    train(params, optimizer, 3)
    state = monitor.state_dict()
    monitor.detach()
    other = Monitor(optimizer, spheres(params), every=2)
    with pytest.raises(ValueError, match="the loaded state has every 1, this monitor 2"):
        other.load_state_dict(state)
    other.detach()
    part = Monitor(optimizer, spheres(params), every=1, select="w1")
    train(params, optimizer, 2)
    with pytest.raises(ValueError, match="the loaded state has names"):
        part.load_state_dict(state)
    assert list(part.readings()["step"]) == [0, 1]


# -- to the outside -------------------------------------------------------------------------------------------


class Notes:
    def __init__(self, fails=False):
        self.written, self.fails = [], fails

    def write(self, step, values):
        if self.fails:
            raise OSError("disk full")
        self.written.append((step, values))

    def close(self):
        pass


def test_sinks_get_every_reading_once_in_order():
    a, b = weights()
    first, second = sgd([a]), torch.optim.AdamW([b], 0.01)
    notes = Notes()
    groups = [{"params": [a, b], "sphere": "joint"}]
    monitor = Monitor([first, second], groups, every=2, capacity=2, sinks=[notes])
    for _ in range(9):
        first.zero_grad()
        second.zero_grad()
        flat = torch.cat([a.flatten(), b.flatten()])
        (flat / flat.norm()).cumsum(0).square().sum().backward()
        first.step()
        second.step()
    monitor.flush()
    monitor.flush()
    read = monitor.readings()
    assert [step for step, _ in notes.written] == list(read["step"]) == [0, 2, 4, 6, 8]
    assert [values["sphere/elr"] for _, values in notes.written] == list(read["elr"])
    assert {type(v) for _, values in notes.written for v in values.values()} == {float}


def test_a_sink_that_fails_is_reported_once():
    params = weights()
    optimizer, good = sgd(params), Notes()
    monitor = Monitor(optimizer, spheres(params), every=1, capacity=2, sinks=[Notes(fails=True), good])
    with pytest.warns(RuntimeWarning, match="sink Notes failed .*disk full.* training goes on") as caught:
        train(params, optimizer, 6)
    assert len(caught) == 1 and len(good.written) == 6
    assert len(monitor.readings()["step"]) == 6


def jump(step):
    return Finding("jump", "warning", f"jump at {step}", {"group": "sphere", "steps": [step]})


def test_alarms_are_given_once_each_and_survive_a_resume(monkeypatch):
    coming = Finding("jump expected", "alarm", "soon", {"group": "sphere", "last": 2})
    other = Finding("schedule", "info", "lr", {"group": "sphere"})
    script = [[jump(2), other], [jump(2), coming], [jump(2), coming], [jump(9), coming]]
    monkeypatch.setattr(findings, "diagnose", lambda histories: script.pop(0))
    params, heard = weights(), []
    optimizer = sgd(params)
    monitor = Monitor(optimizer, spheres(params), every=1, capacity=2, on_alarm=heard.append)
    train(params, optimizer, 4)
    assert heard == [jump(2), coming]
    state = monitor.state_dict()
    monitor.detach()
    monitor = Monitor(optimizer, spheres(params), every=1, capacity=2, on_alarm=heard.append)
    monitor.load_state_dict(state)
    train(params, optimizer, 4)
    assert heard == [jump(2), coming, jump(9)]


def test_an_alarm_callback_that_fails_is_reported_once(monkeypatch):
    script = [[jump(1)], [jump(2)], [jump(3)]]
    monkeypatch.setattr(findings, "diagnose", lambda histories: script.pop(0))
    params = weights()
    optimizer = sgd(params)

    def fails(finding):
        raise RuntimeError("no network")

    Monitor(optimizer, spheres(params), every=1, capacity=2, on_alarm=fails)
    with pytest.warns(RuntimeWarning, match="on_alarm failed .*no network.* training goes on") as caught:
        train(params, optimizer, 6)
    assert len(caught) == 1


def test_an_alarm_may_detach_the_monitor(monkeypatch):
    monkeypatch.setattr(findings, "diagnose", lambda histories: [jump(1)])
    params, made = weights(), []
    optimizer = sgd(params)
    made.append(Monitor(optimizer, spheres(params), every=1, capacity=2, on_alarm=lambda finding: made[0].detach()))
    train(params, optimizer, 6)
    assert list(made[0].readings()["step"]) == [0, 1]
    Monitor(optimizer)


def test_a_real_jump_raises_the_alarm():
    """Weight decay shrinks the weights while gradients vanish; then a large gradient throws them out again."""
    params, heard = weights(), []
    optimizer = sgd(params, lr=1.0, weight_decay=0.01)
    monitor = Monitor(optimizer, spheres(params), every=1, on_alarm=heard.append)
    for step in range(700):
        optimizer.zero_grad()
        for p in params:
            p.grad = 1e-6 * torch.ones_like(p)
        if step % 150 == 149:
            flat = torch.cat([p.detach().flatten() for p in params])
            across = torch.ones_like(flat) - flat * flat.sum() / (flat @ flat)
            pieces = (across * (3 * flat.norm() / across.norm())).split([p.numel() for p in params])
            for p, g in zip(params, pieces, strict=True):
                p.grad = g.view_as(p).clone()
        optimizer.step()
    steps = [f.evidence["steps"][-1] for f in heard if f.kind == "jump"]
    assert steps == [s for s in (149, 299, 449, 599) if s in steps] and len(steps) >= 3
    assert any(f.kind == "jump" for f in monitor.diagnose())
