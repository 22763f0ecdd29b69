"""A monitor of tensors that are spread over processes reads what one of the whole tensors reads."""

import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from networks import groups_of, network, spread, trained
from processes import run_on
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import onsphere
from onsphere import Monitor
from onsphere.monitor import Finding, HuggingFaceMonitor, LightningMonitor

pytestmark = pytest.mark.slow

EXACT = torch.float64
STEPS = 20


class Both:
    """Optimisers that step together; collectives of their steps are counted."""

    def __init__(self, *optimizers):
        self.optimizers, self.sent = optimizers, 0

    def zero_grad(self):
        for one in self.optimizers:
            one.zero_grad()

    def step(self):
        with CommDebugMode() as mode:
            for one in self.optimizers:
                one.step()
        self.sent += mode.get_total_counts()


def setting(how, kind, net="transformer"):
    """A model, spread over the processes or not, its groups, its optimiser and this process's share of a batch."""
    model = network(net, EXACT)
    groups = groups_of(model, "groups", EXACT)
    model, share = (model, (0, 1)) if how is None else spread(model, how)
    params = {name.removeprefix("module."): p for name, p in model.named_parameters()}
    groups = [{**group, "params": [params[name] for name in group["names"]]} for group in groups]
    everything = list(params.values())
    if kind == "sphere":
        optimizer = onsphere.SphereSGD([dict(group) for group in groups], 0.02, momentum=0.9, other_lr=0.05)
    elif kind == "adamw":
        optimizer = onsphere.keep_on_sphere(torch.optim.AdamW(everything, 0.01), groups)
    else:
        optimizer = Both(torch.optim.SGD(everything[::2], 0.1), torch.optim.AdamW(everything[1::2], 0.01))
    if kind != "two":
        optimizer = Both(optimizer)
    return SimpleNamespace(model=model, groups=groups, optimizer=optimizer, share=share)


def watching(made, **options):
    return Monitor(list(made.optimizer.optimizers), made.groups, **options)


def train(made, steps=STEPS, watch=None):
    trained(made.model, made.optimizer, made.share, EXACT, steps, watch=watch)


def read(monitor):
    return {"group": monitor.readings(), "tensor": monitor.readings("tensor")}


def watched(how, kind, net="transformer", **options):
    made = setting(how, kind, net)
    monitor = watching(made, every=3, capacity=4, **options)

    def look(step):
        if step == 15 and (how is None or torch.distributed.get_rank() == 0):  # others need not take part
            monitor.diagnose(), monitor.forecast(), monitor.readings()

    train(made, watch=look)
    monitor.flush()
    sizes = [line.split(", ")[1] for line in repr(monitor).splitlines() if " weights, " in line]
    frozen = [history.frozen for history in monitor._record.histories()]
    found = read(monitor), sizes, frozen, [(f.kind, f.severity) for f in monitor.diagnose()]
    monitor.detach()
    return found


def close(found, expected, *, rtol):
    for level, columns in expected.items():
        for name, values in columns.items():
            mine = found[level][name]
            if name in ("step", "group", "finite", "lr", "weight_decay"):
                np.testing.assert_array_equal(mine, values)
            elif name in ("norm", "gradient_norm", "effective_gradient", "elr", "effective_step"):
                np.testing.assert_allclose(mine, values, rtol=rtol, atol=1e-13, err_msg=f"{level} {name}")
            else:
                np.testing.assert_allclose(mine, values, rtol=1e-6, atol=1e-9, err_msg=f"{level} {name}")


def equal(one, other):
    for level, columns in one.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(other[level][name], values, err_msg=f"{level} {name}")


# -- what each process does --------------------------------------------------------------------------------------


def communication(how):
    """Collectives of the steps of six: without a monitor, with one between flushes, with one that flushes once."""
    counts = []
    for capacity in (None, 10, 6):
        made = setting(how, "adamw")
        if capacity:
            watching(made, every=1, capacity=capacity)
        train(made, 6)
        counts.append(made.optimizer.sent)
    return counts


class Sink:
    def __init__(self):
        self.steps = []

    def write(self, step, values):
        self.steps.append(step)

    def close(self):
        pass


def outlets(how, rank):
    """Steps that the sink got, alarms that were raised, and the notes in the monitor's state."""
    made, sink, alarms = setting(how, "sphere"), Sink(), []
    jump = Finding("jump", "alarm", "a jump", {"group": "sphere", "steps": [1]})
    with mock.patch("onsphere.monitor.findings.diagnose", lambda _: [jump]):
        monitor = watching(made, every=1, capacity=4, sinks=[sink], on_alarm=alarms.append, rank=rank)
        train(made, 9)
    return sink.steps, len(alarms), monitor.state_dict()["readings"]


def failing(how):
    """Reading fails on the last process at the sixth step; what is read, and what the monitor says about it."""
    made = setting(how, "sphere")
    monitor = watching(made, every=1, capacity=4)
    last = torch.distributed.get_world_size() - 1

    def fail(step):
        if step == 4 and torch.distributed.get_rank() == last:
            monitor._recorders[0]._spaces[0].after = None

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(made, 15, fail)
        monitor.flush()
    said = [f.message for f in monitor.diagnose() if f.kind == "param groups"]
    return list(monitor.readings("tensor", "blocks.0.up.weight")["step"]), said, len(caught)


def failing_beside():
    """Reading of whole tensors fails on one process, whose ring fills first; steps that are read of the others."""
    mesh = init_device_mesh("cpu", (2,))
    spread_out = nn.Parameter(distribute_tensor(torch.ones(4, 3, dtype=EXACT), mesh, [Shard(0)]))
    whole = nn.Parameter(torch.ones(3, dtype=EXACT))
    one, other = torch.optim.SGD([spread_out], 0.1), torch.optim.SGD([whole], 0.1)
    groups = [{"params": [p], "sphere": "joint", "names": [name]} for p, name in ((spread_out, "a"), (whole, "b"))]
    monitor = Monitor([one, other], groups, every=1, capacity=4)
    if torch.distributed.get_rank() == 1:
        monitor._recorders[1]._spaces[0].after = None
    spread_out.grad, whole.grad = torch.ones_like(spread_out), torch.ones_like(whole)
    with pytest.warns(RuntimeWarning, match="reading stopped") if torch.distributed.get_rank() else nullcontext():
        for _ in range(9):
            one.step()
            other.step()
            other.step()
        monitor.flush()
    return [len(monitor.readings("tensor", name)["step"]) for name in "ab"]


def other_settings(how):
    """What a monitor says that is made otherwise on the first process, and how many hooks it has left behind."""
    made, first, said = setting(how, "adamw"), torch.distributed.get_rank() == 0, []
    hooks = len(made.optimizer.optimizers[0]._optimizer_step_pre_hooks)
    for options in ({"every": 2}, {"select": "*.up.*"}, {"capacity": 7}, {"on_alarm": print}):
        with pytest.raises(ValueError, match="not the same on all ranks") as caught:
            watching(made, **(options if first else {}))
        said.append(str(caught.value))
    made.groups = made.groups[::-1] if first else made.groups
    with pytest.raises(ValueError, match="not the same on all ranks"):
        watching(made)
    assert len(made.optimizer.optimizers[0]._optimizer_step_pre_hooks) == hooks
    watching(setting(how, "adamw")).detach()  # they are still in step
    return said


def odd_gradients():
    """Gradients that are sums still to be taken, are missing on one process, or are missing on all; norms of each."""
    mesh, first = init_device_mesh("cpu", (2,)), torch.distributed.get_rank() == 0
    whole = torch.arange(1.0, 13.0, dtype=EXACT).view(4, 3)
    places = [Replicate(), Shard(1), Shard(0), Shard(0), Shard(0)]
    params = [nn.Parameter(distribute_tensor(whole, mesh, [place])) for place in places]
    optimizer = torch.optim.SGD(params, 0.1)
    monitor = Monitor(optimizer, every=1)
    partial = whole * (3 if first else -1)
    for p in params[:3]:
        p.grad = DTensor.from_local(partial, mesh, [Partial()])
    params[3].grad = DTensor.from_local(whole[:2], mesh, [Shard(0)]) if first else None
    optimizer.step()
    monitor.flush()
    return list(monitor.readings("tensor")["gradient_norm"]), list(monitor._record.histories()[0].frozen)


def save(how, folder):
    """Readings of a run without an interruption, which has been saved on the way."""
    made = setting(how, "sphere")
    monitor = watching(made, every=3, capacity=4)
    for start in (0, 10):
        train(made, 10)
        if not start:
            dcp.save(_saved(made, monitor), checkpoint_id=folder)
    monitor.flush()
    return read(monitor)


def load(how, folder, stateful):
    """Readings of a run that goes on from there, on other processes."""
    made = setting(how, "sphere")
    monitor = watching(made, every=3, capacity=4)
    train(made, 4)
    state = _saved(made, monitor)
    if not stateful:
        state["monitor"] = monitor.state_dict()
    dcp.load(state, checkpoint_id=folder, no_dist=how is None)
    if not stateful:
        monitor.load_state_dict(state["monitor"])
    made.model.load_state_dict(state["model"])
    momentum = state["momentum"]
    for name, p in made.model.named_parameters():
        made.optimizer.optimizers[0].state[p]["momentum_buffer"] = momentum[name]
    train(made, 10)
    monitor.flush()
    return read(monitor)


class Callback:
    """In place of a trainer's class of callbacks."""


def called(how, folder):
    """Two runs with the callback for the Hugging Face Trainer: what was logged on this process, and what was read."""
    made, first = setting(how, "sphere"), torch.distributed.get_rank() == 0
    (folder / how / "checkpoint-5").mkdir(parents=True, exist_ok=True)
    state = SimpleNamespace(global_step=0, is_world_process_zero=first, log_history=[])
    arguments = SimpleNamespace(output_dir=folder / how), state, SimpleNamespace(should_log=True)
    with mock.patch.object(HuggingFaceMonitor, "_trainers_class", lambda: Callback):
        for steps in (5, 3):
            callback = HuggingFaceMonitor(every=2, groups=made.groups)
            callback.on_train_begin(*arguments, optimizer=made.optimizer.optimizers[0], model=made.model)
            train(made, steps)
            state.global_step += steps
            callback.on_step_end(*arguments)
            callback.on_save(*arguments)
            callback.on_train_end(*arguments)
            torch.distributed.barrier()
    read = None if callback.monitor is None else list(callback.monitor.readings(select="sphere")["step"])
    return [line["onsphere/step"] for line in state.log_history if "onsphere/step" in line], read


def interrupted(how):
    """An exception ends the training of the first process: its callback waits for no other."""
    made = setting(how, "sphere")
    trainer = SimpleNamespace(optimizers=made.optimizer.optimizers, global_step=0, is_global_zero=True, loggers=[])
    with mock.patch.object(LightningMonitor, "_trainers_class", lambda: Callback):
        callback = LightningMonitor(every=1, groups=made.groups)
        callback.on_train_start(trainer, made.model)
        train(made, 2)
        if torch.distributed.get_rank() == 0:
            callback.on_exception(trainer, made.model, ValueError())
        torch.distributed.barrier()
    return len(made.optimizer.optimizers[0]._optimizer_step_pre_hooks)


def alone(how):
    """What a monitor says that is made on one process only: on the first, then on the second."""
    said = []
    with mock.patch("onsphere.sharding.agreement._PATIENCE", 1.0):
        for maker in (0, 1):
            made = setting(how, "sphere")
            if torch.distributed.get_rank() == maker:
                with pytest.raises(RuntimeError) as caught:
                    watching(made)
                said.append(str(caught.value))
            torch.distributed.barrier()
    return said


def _saved(made, monitor):
    state, names = made.optimizer.optimizers[0].state, made.model.named_parameters()
    buffers = {name: state[p]["momentum_buffer"] for name, p in names}
    return {"model": made.model.state_dict(), "momentum": buffers, "monitor": monitor}


RUNS = {
    "adamw": {2: ("fsdp", "tp"), 4: ("hsdp", "fsdp x tp")},
    "sphere": {2: ("fsdp", "tp", "ddp"), 4: ("hsdp", "fsdp x tp")},
    "two": {2: ("tp",), 4: ("fsdp x tp",)},
}
OUTLETS = [("fsdp", 1), ("fsdp", None), ("ddp", 0)]


def everything_on_two(folder):
    return {
        "readings": {(how, kind): watched(how, kind) for kind in RUNS for how in RUNS[kind][2]},
        "communication": {"tp": communication("tp")},
        "outlets": {(how, rank): outlets(how, rank) for how, rank in OUTLETS},
        "failing": failing("fsdp"),
        "failing beside": failing_beside(),
        "other settings": other_settings("tp"),
        "odd gradients": odd_gradients(),
        "called": {how: called(how, folder) for how in ("fsdp", "ddp")},
        "interrupted": interrupted("fsdp"),
        "saved": save("fsdp", folder / "checkpoint"),
        "alone": alone("fsdp"),  # last: afterwards the processes are out of step
    }


def everything_on_four(folder):
    return {
        "readings": {(how, kind): watched(how, kind) for kind in RUNS for how in RUNS[kind][4]},
        "empty parts": watched("fsdp", "adamw", "layer norm"),
        "nothing here": watched("fsdp", "adamw", "layer norm", select="layers.2.*"),
        "communication": {"fsdp x tp": communication("fsdp x tp")},
        "failing": failing("fsdp x tp"),
        "loaded": [load(how, folder / "checkpoint", stateful) for how, stateful in (("fsdp", True), ("hsdp", False))],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(scope="module")
def two(folder):
    return run_on(2, everything_on_two, folder)


@pytest.fixture(scope="module")
def four(two, folder):
    return run_on(4, everything_on_four, folder)


@pytest.fixture(scope="module")
def on(two, four):
    return {2: two, 4: four}


# -- and what comes of it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RUNS)
def test_readings_are_those_of_one_process_and_the_same_on_all(on, kind):
    expected, sizes, frozen, findings = watched(None, kind)
    assert len(expected["group"]["step"]) > 7 and np.isfinite(expected["group"]["norm"]).all()
    for world, hows in RUNS[kind].items():
        for how in hows:
            for rank in on[world]:
                found = rank["readings"][how, kind]
                close(found[0], expected, rtol=1e-9)
                equal(on[world][0]["readings"][how, kind][0], found[0])
                assert found[1:] == (sizes, frozen, findings)


@pytest.mark.parametrize(("case", "select"), [("empty parts", "*"), ("nothing here", "layers.2.*")])
def test_processes_that_hold_nothing_of_a_tensor_or_of_all(four, case, select):
    expected = watched(None, "adamw", "layer norm", select=select)
    for rank in four:
        close(rank[case][0], expected[0], rtol=1e-9)
        equal(four[0][case][0], rank[case][0])
        assert rank[case][1:] == expected[1:]


def test_a_step_sends_nothing_and_a_flush_once_a_mesh(on):
    for world, how, meshes in ((2, "tp", 1), (4, "fsdp x tp", 2)):
        for rank in on[world]:
            bare, between, flushed = rank["communication"][how]
            assert (between, flushed) == (bare, bare + meshes)


@pytest.mark.parametrize("case", OUTLETS)
def test_one_rank_writes_and_alarms(two, case):
    for number, rank in enumerate(two):
        steps, alarms, _ = rank["outlets"][case]
        assert (steps, alarms) == ((list(range(9)), 1) if case[1] in (number, None) else ([], 0))
    assert two[0]["outlets"][case][2] == two[1]["outlets"][case][2]


def test_reading_that_fails_on_one_rank_ends_on_all_and_training_goes_on(on):
    for world in (2, 4):
        for number, rank in enumerate(on[world]):
            steps, said, warned = rank["failing"]
            assert steps == list(range(5)) and warned == 1 and len(said) == 1
            assert ("'NoneType' object is not callable" if number == world - 1 else "on another process") in said[0]
            assert "reading stopped at step 5" in said[0]
    assert [rank["failing beside"] for rank in on[2]] == [[9, 18], [9, 0]]


def test_other_settings_on_another_rank_are_an_error(two):
    assert two[0]["other settings"] == two[1]["other settings"]
    every, select, capacity, alarm = two[0]["other settings"]
    assert "rank 0 has every 2, rank 1 every 10" in every and "attention.k.weight (12, 12) of optimiser 0" in select
    assert "a ring of 7 readings" in capacity and "a ring of 32 readings" in alarm


def test_gradients_that_are_partial_or_missing(two):
    squares = np.arange(1.0, 13.0) ** 2
    expected = np.sqrt([4 * squares.sum()] * 3 + [squares[:6].sum(), 0.0])
    for rank in two:
        norms, frozen = rank["odd gradients"]
        np.testing.assert_allclose(norms, expected, rtol=1e-12)
        assert frozen == ["param 4"]


@pytest.mark.parametrize("stateful", [True, False])
def test_saved_on_two_processes_and_loaded_on_others(two, four, folder, stateful):
    expected = two[0]["saved"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        close(load(None, folder / "checkpoint", stateful), expected, rtol=1e-9)
    for rank in four:
        for found in rank["loaded"]:
            close(found, expected, rtol=1e-9)


def test_a_monitor_on_one_rank_only_is_an_error_in_time(two):
    for maker, rank in enumerate(two):
        (said,) = rank["alone"]
        assert f"rank {1 - maker} has not made a Monitor of the same sharded tensors within 1 s" in said


def test_callbacks_read_on_every_rank_and_log_on_one(two):
    assert [rank["called"]["fsdp"] for rank in two] == [([4, 6], [0, 2, 4, 6]), ([], [0, 2, 4, 6])]
    assert [rank["called"]["ddp"] for rank in two] == [([4, 6], [0, 2, 4, 6]), ([], None)]
    assert [rank["interrupted"] for rank in two] == [0, 1]


@pytest.mark.parametrize("rank", [-1, 1.0, True, "0"])
def test_ranks_that_there_are_not(rank):
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="it must be that of a process"):
        Monitor(torch.optim.SGD([weight], 0.1), rank=rank)
