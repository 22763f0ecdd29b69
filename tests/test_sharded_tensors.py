"""Tensors of which a process holds only a part are refused wherever a norm is taken."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import onsphere
from onsphere.optim import RegimeSchedule

REFUSED = "a norm taken here would be that of this process's part"


@pytest.fixture
def mesh():
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        distributed.destroy_process_group()


def whole():
    return nn.Parameter(torch.arange(1.0, 13.0).view(4, 3))


MAKERS = {
    "sharded by rows": lambda mesh: nn.Parameter(distribute_tensor(whole().detach(), mesh, [Shard(0)])),
    "sharded by columns": lambda mesh: nn.Parameter(distribute_tensor(whole().detach(), mesh, [Shard(1)])),
    "replicated": lambda mesh: nn.Parameter(distribute_tensor(whole().detach(), mesh, [Replicate()])),
    "from a local part": lambda mesh: nn.Parameter(DTensor.from_local(whole().detach(), mesh, [Shard(0)])),
    "a partial sum": lambda mesh: DTensor.from_local(whole().detach(), mesh, [Partial()]),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("kind", ["joint", "rows"])
def test_dtensors_are_refused(mesh, make, kind):
    weight, other = make(mesh), whole()
    group = {"params": [weight], "sphere": kind, "names": ["layer.weight"]}
    with pytest.raises(TypeError, match=f"parameter 'layer.weight' is a DTensor: {REFUSED}"):
        onsphere.SphereSGD([{"params": [other], "sphere": "joint"}, group], 0.1)
    with pytest.raises(TypeError, match=REFUSED):
        onsphere.Sphere([other, weight], rows=kind == "rows")
    with pytest.raises(TypeError, match=REFUSED):
        onsphere.Sphere([other]).angle_to([weight])
    optimizer = onsphere.SphereSGD([{"params": [other], "sphere": "joint"}], 0.1)
    with pytest.raises(TypeError, match=r"parameter 'layer\.weight' is a DTensor"):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    with pytest.raises(TypeError, match=REFUSED):
        onsphere.noether_residual([weight], gradients=[weight.detach()])
    with pytest.raises(TypeError, match=REFUSED):
        onsphere.noether_residual([other], gradients=[weight.detach()])


def test_optimisers_of_sharded_parameters_are_not_kept(mesh):
    weight, other = MAKERS["sharded by rows"](mesh), whole()
    group = {"params": [other, weight], "sphere": "joint", "names": ["a", "b"]}
    optimizer = torch.optim.AdamW([other, weight], 0.1)
    with pytest.raises(TypeError, match=f"parameter 'b' is a DTensor: {REFUSED}"):
        onsphere.keep_on_sphere(optimizer, [group])
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    with pytest.raises(TypeError, match=REFUSED):
        RegimeSchedule(torch.optim.SGD([group], 0.1), 0.1, 0.01, 10, keep_elr=True)


@pytest.mark.parametrize("mark", ["_fsdp_flattened", "ds_tensor"])
def test_parameters_that_older_wrappers_have_split_are_refused(mark):
    weight = whole()
    setattr(weight, mark, True)
    with pytest.raises(TypeError, match=f"split by FSDP or DeepSpeed: {REFUSED}"):
        onsphere.SphereSGD([{"params": [weight], "sphere": "joint"}], 0.1)


def test_sharded_parameters_without_a_sphere_take_the_step_of_torch(mesh):
    on_sphere, weight, plain = whole(), MAKERS["sharded by rows"](mesh), whole()
    optimizer = onsphere.SphereSGD([{"params": [on_sphere], "sphere": "joint"}, {"params": [weight]}], 0.1)
    weight.grad, plain.grad = torch.ones_like(weight), torch.ones(4, 3)
    optimizer.step()
    torch.optim.SGD([plain], 0.1).step()
    assert torch.equal(weight.full_tensor(), plain)


def test_sharded_parameters_that_cannot_be_added_up_are_not_watched(mesh):
    partial = nn.Parameter(MAKERS["a partial sum"](mesh))
    marked = whole()
    marked.ds_tensor = True
    for weight, match in ((partial, "param 0 is a DTensor with the placement P"), (marked, "param 0 is split by FSDP")):
        optimizer = torch.optim.AdamW([weight], 0.1)
        with pytest.raises(TypeError, match=match):
            onsphere.Monitor(optimizer)
        assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_on_one_process_alone_readings_are_up_to_date(mesh):
    weight = MAKERS["sharded by columns"](mesh)
    monitor = onsphere.Monitor(torch.optim.SGD([weight], 0.1), every=1)
    weight.grad = torch.ones_like(weight)
    monitor._recorders[0].optimizer.step()
    assert list(monitor.readings()["norm"]) == [pytest.approx(650**0.5)]
