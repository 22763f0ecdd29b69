"""Parameters that another wrapper has split or replaced, on one process; several are in tests/sharding."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional

import onsphere


def whole():
    return nn.Parameter(torch.arange(1.0, 13.0).view(4, 3))


@pytest.mark.parametrize("mark", ["_fsdp_flattened", "ds_tensor"])
def test_parameters_that_older_wrappers_have_split_are_refused(mark):
    weight = whole()
    setattr(weight, mark, True)
    with pytest.raises(TypeError, match="split by FSDP or DeepSpeed: a norm taken here would be"):
        onsphere.SphereSGD([{"params": [weight], "sphere": "joint"}], 0.1)
    with pytest.raises(TypeError, match="split by FSDP or DeepSpeed"):
        onsphere.Monitor(torch.optim.SGD([weight], 0.1))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sharded_parameters_without_a_sphere_take_the_step_of_torch(mesh, momentum):
    on_sphere, plain = whole(), whole()
    weight = nn.Parameter(distribute_tensor(whole().detach(), mesh, [Shard(0)]))
    groups = [{"params": [on_sphere], "sphere": "joint"}, {"params": [weight], "weight_decay": 0.1}]
    optimizer = onsphere.SphereSGD(groups, 0.1, momentum=momentum)
    other = torch.optim.SGD([plain], 0.1, momentum=momentum, weight_decay=0.1)
    for _ in range(3):
        weight.grad, plain.grad = torch.ones_like(weight), torch.ones(4, 3)
        optimizer.step()
        other.step()
        assert torch.equal(weight.full_tensor(), plain)


def test_groups_from_before_fully_shard_are_refused_with_what_to_do(mesh):
    model, x = nn.Sequential(nn.Linear(6, 8, bias=False), nn.LayerNorm(8)), torch.randn(16, 6)
    groups = onsphere.sphere_groups(model, x)
    early = onsphere.SphereSGD(groups, 0.1)
    kept = onsphere.keep_on_sphere(torch.optim.SGD(groups, 0.1), groups)
    fully_shard(model, mesh=mesh)
    model(x).sum().backward()
    words = r"is no longer a parameter of its model, because fully_shard .* onsphere\.regroup\(groups, model\)"
    for use in (
        lambda: onsphere.SphereSGD(groups, 0.1),
        lambda: onsphere.keep_on_sphere(torch.optim.SGD(groups, 0.1), groups),
        lambda: onsphere.Monitor(torch.optim.SGD(groups, 0.1), groups),
        lambda: onsphere.Sphere(groups[0]["params"]),
        early.step,
        kept.step,
    ):
        with pytest.raises(ValueError, match=words):
            use()
    groups = onsphere.regroup(groups, model)
    optimizer = onsphere.SphereSGD(groups, 0.1)
    before = [p.full_tensor().clone() for p in groups[0]["params"]]
    optimizer.zero_grad()
    model(x).square()[0].sum().backward()
    optimizer.step()
    assert all(not torch.equal(p.full_tensor(), b) for p, b in zip(groups[0]["params"], before, strict=True))


@pytest.mark.parametrize("how", ["fsdp", "tensor parallel"])
def test_a_sharded_model_is_not_searched_or_measured_and_the_error_says_what_to_do(mesh, how):
    model, x = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)), torch.randn(16, 6)
    if how == "fsdp":
        fully_shard(model, mesh=mesh)
    else:
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    for use in (
        lambda: onsphere.find_symmetries(model, x),
        lambda: onsphere.sphere_groups(model, x),
        lambda: onsphere.make_scale_invariant(model),
        lambda: onsphere.curvature.top_eigenvalues(model, functional.cross_entropy, (x, torch.zeros(16).long())),
        lambda: onsphere.landscape.barrier(
            model, model, model, functional.cross_entropy, [(x, torch.zeros(16).long())], parameters="*"
        ),
    ):
        with pytest.raises(ValueError, match=r"the model is sharded .*onsphere\.Symmetries\.groups_for"):
            use()
