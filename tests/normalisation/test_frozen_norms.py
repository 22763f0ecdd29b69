"""A norm in evaluation mode while the rest trains is a constant of the function that is trained."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onsphere
from onsphere.functional.untouched import private_copy, shared_copy
from onsphere.normalisation import reestimate_batch_statistics, without_running_statistics
from onsphere.normalisation.frozen import frozen_norms


def vary(model):
    """Running statistics, gains and biases as after some training."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(generator=generator).mul_(0.3)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.uniform_(0.5, 1.5, generator=generator)
    return model


def two_norms():
    layers = [nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16)]
    return vary(nn.Sequential(*layers, nn.Tanh(), nn.Linear(16, 3))).train()


def one_frozen():
    model = two_norms()
    model[1].eval()
    return model


class Backbone(nn.Module):
    """Transfer learning: the whole backbone is in evaluation mode, and trained all the same."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))

    def forward(self, x):
        return self.head(self.backbone(x))


def backbone():
    model = vary(Backbone()).train()
    model.backbone.eval()
    return model


class KeepsFrozen(Backbone):
    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        for p in self.backbone[1].parameters():
            p.requires_grad_(False)
        return self


def instance_norm():
    layers = [nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 4, 2), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)]
    model = vary(nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))).train()
    model[2].eval()
    return model


def only_the_head_trains():
    model = vary(Backbone()).eval()
    model.head[2].train()
    return model


MODELS = {
    "one of two": (one_frozen, ["1"]),
    "backbone": (backbone, ["backbone.1"]),
    "overridden train": (lambda: vary(KeepsFrozen()).train(), ["backbone.1"]),
    "overridden train, in eval": (lambda: vary(KeepsFrozen()).eval(), ["backbone.1"]),
    "instance norm": (instance_norm, ["2"]),
    "only the head trains": (only_the_head_trains, ["backbone.1", "head.1"]),
    "synchronised": (lambda: nn.SyncBatchNorm.convert_sync_batchnorm(one_frozen()), ["1"]),
    "compiled": (lambda: torch.compile(one_frozen()), ["_orig_mod.1"]),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 8, generator=generator), torch.randint(3, (32,), generator=generator)


def trained(model):
    """A copy in the mode that is trained, without compilers."""
    plain = copy.deepcopy(getattr(model, "_orig_mod", model)).double()
    return plain if any(m.training for m in plain.modules()) else plain.train()


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", MODELS)
def test_which_are_frozen(name):
    make, frozen = MODELS[name]
    model = make()
    flags = [m.training for m in model.modules()]
    assert list(frozen_norms(model)) == frozen
    assert list(frozen_norms(private_copy(model))) == frozen
    network = shared_copy(model, "train")
    assert list(frozen_norms(network)) == frozen
    assert not any(m.training for m in frozen_norms(network).values())
    assert [m.training for m in model.modules()] == flags


def test_a_model_wholly_in_evaluation_mode_is_looked_at_as_in_training():
    model, (x, _) = two_norms().eval(), batch()
    assert frozen_norms(model) == {}
    assert onsphere.find_symmetries(model, x, unused="ignore").groups[0] == ("0.weight",)


@pytest.mark.parametrize("name", MODELS)
def test_invariance_is_that_of_the_function_that_is_trained(name):
    """What the search says of each tensor is what doubling it in the model itself does, in float64 with eps 0."""
    model, (x, _) = MODELS[name][0](), batch()
    found = onsphere.find_symmetries(model, x, unused="ignore")
    own = trained(model)
    for module in own.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.training:
            module.eps = 1e-200
    moved = [p for p in own.parameters() if p.requires_grad]
    alone = {group[0] for group in found.groups if len(group) == 1} | set(found.without_effect)
    with torch.no_grad():
        before = copy.deepcopy(own)(x.double())
        for tensor, tensor_name in zip(moved, found.names, strict=True):
            tensor.mul_(2)
            change = (copy.deepcopy(own)(x.double()) - before).abs().max() / before.abs().max()
            tensor.div_(2)
            assert (change < 1e-9) == (tensor_name in alone), (tensor_name, float(change))
    assert ("frozen norms" in " ".join(found.notes)) == bool(MODELS[name][1])


@pytest.mark.parametrize("name", MODELS)
def test_gradient_and_curvature_are_those_of_the_function_that_is_trained(name):
    model, (x, y) = MODELS[name][0]().double(), batch()
    own = trained(model)
    parameters = list(trainable(own).values())
    gradients = torch.autograd.grad(F.cross_entropy(own(x.double()), y), parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradients])
    operator = onsphere.curvature.hessian_operator(model, F.cross_entropy, (x.double(), y))
    torch.testing.assert_close(operator.gradient(), flat.detach(), rtol=1e-9, atol=1e-12)
    v = torch.randn(len(flat), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    product = torch.cat([t.flatten() for t in torch.autograd.grad(flat @ v, parameters)])
    torch.testing.assert_close(operator @ v, product, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_the_model_changes(name):
    model, (x, y) = MODELS[name][0](), batch()
    before = copy.deepcopy(getattr(model, "_orig_mod", model))
    onsphere.find_symmetries(model, x, unused="ignore")
    onsphere.curvature.hessian_operator(model, F.cross_entropy, (x, y)).gradient()
    after = getattr(model, "_orig_mod", model)
    assert [m.training for m in after.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in after.parameters()] == [p.requires_grad for p in before.parameters()]
    for a, b in zip(after.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_an_overridden_train_is_asked_on_a_copy():
    model = vary(KeepsFrozen())
    for p in model.parameters():
        p.requires_grad_(True)
    model.training = model.head.training = model.backbone.training = False
    for module in model.modules():
        module.training = False
    assert list(frozen_norms(model)) == ["backbone.1"]
    assert all(p.requires_grad for p in model.parameters())


def test_frozen_statistics_are_not_reestimated():
    model, (x, _) = one_frozen(), batch()
    frozen, other = model[1].running_mean.clone(), model[4].running_mean.clone()
    reestimate_batch_statistics(model, [x])
    assert torch.equal(model[1].running_mean, frozen)
    assert not torch.equal(model[4].running_mean, other)


def test_paths_and_averages_use_the_frozen_statistics():
    (x, y), a, b = batch(), one_frozen(), one_frozen()
    found = onsphere.landscape.barrier(a, a, b, F.cross_entropy, (x, y), points=3, path="chord")
    for model, loss in ((a, found.losses[0]), (b, found.losses[-1])):
        direct = reestimate_batch_statistics(copy.deepcopy(model), [x]).eval()
        assert loss == pytest.approx(F.cross_entropy(direct(x), y).item(), rel=1e-5)
    mean = onsphere.landscape.average([a, b], batches=[(x, y)], model=a)
    assert torch.equal(mean["1.running_var"], a[1].running_var)


def test_functional_steps_keep_frozen_norms():
    model, (x, _) = one_frozen(), batch()
    want = copy.deepcopy(model)(x)
    without_running_statistics(model)
    assert isinstance(model[1], nn.BatchNorm1d)
    assert not isinstance(model[4], nn.BatchNorm1d)
    torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-6)
