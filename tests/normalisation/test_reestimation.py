"""Batch statistics are those of the whole data: whatever the order of examples, and however it is cut into batches."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere.landscape import SphereAverage, average, barrier
from onsphere.normalisation import reestimate_batch_statistics

CLASSES = 5


def data(shape, seed=0):
    """Examples whose classes differ in mean and scale, [200, *shape]."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(200) % CLASSES
    centres = 2 * torch.randn(CLASSES, *shape, generator=generator)
    scales = (1 + torch.arange(CLASSES)).view(-1, *[1] * len(shape)) / 3
    return centres[y] + scales[y] * torch.randn(200, *shape, generator=generator), y


def vectors(seed=0):
    return nn.Sequential(
        *(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU()),
        *(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU()),
        *(nn.Linear(16, 16), nn.BatchNorm1d(16, affine=False), nn.ReLU(), nn.Linear(16, CLASSES)),
    )


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.norm(self.conv(x)))


def images(seed=0):
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), Residual(4), Residual(4)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)),
    )


def sequences(seed=0):
    return nn.Sequential(
        nn.Conv1d(2, 4, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Conv1d(4, 4, 3),
        nn.BatchNorm1d(4),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


NETS = {"vectors": (vectors, (6,)), "images": (images, (2, 8, 8)), "sequences": (sequences, (2, 7))}

ORDERS = {
    "sorted": lambda y: y.argsort(stable=True),
    "sorted the other way": lambda y: (-y).argsort(stable=True),
    "two halves": lambda y: torch.cat([(y < 2).nonzero().flatten(), (y >= 2).nonzero().flatten()]),
    "one class last": lambda y: torch.cat([(y > 0).nonzero().flatten(), (y == 0).nonzero().flatten()]),
}


def build(name, dtype=torch.float64):
    net, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = net().to(dtype)
    x, y = data(shape)
    return model, x.to(dtype), y


def statistics(model):
    return {n: b for n, b in model.named_buffers() if not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [40, 67, [10, 100, 90]])
def test_the_order_of_examples_and_the_cuts_do_not_matter(name, order, sizes):
    model, x, y = build(name)
    whole = reestimate_batch_statistics(copy.deepcopy(model), [x]).eval()
    # One batch normalises by its variance, evaluation by the unbiased one: 1 / 2N in the layers behind.
    x_sorted = x[ORDERS[order](y)]
    found = reestimate_batch_statistics(copy.deepcopy(model), x_sorted.split(sizes)).eval()
    for n, expected in statistics(whole).items():
        torch.testing.assert_close(statistics(found)[n], expected, rtol=0.02, atol=0.005)
    loss = [float(F.cross_entropy(m(x), y).detach()) for m in (whole, found)]
    assert loss[1] == pytest.approx(loss[0], rel=2e-3)
    again = reestimate_batch_statistics(copy.deepcopy(model), x_sorted.flip(0).split(50)).eval()
    for n, expected in statistics(found).items():
        torch.testing.assert_close(statistics(again)[n], expected, rtol=1e-9, atol=1e-12)


def test_what_evaluation_sees_has_the_statistics_that_were_found():
    model, x, y = build("vectors")
    reestimate_batch_statistics(model, x[y.argsort()].split(40)).eval()
    seen = {}
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.register_forward_pre_hook(lambda m, inputs, name=name: seen.__setitem__(name, inputs[0].detach()))
    model(x)
    for name, values in seen.items():
        torch.testing.assert_close(model.get_submodule(name).running_mean, values.mean(0))
        torch.testing.assert_close(model.get_submodule(name).running_var, values.var(0))


def test_the_variance_between_batches_counts():
    model = nn.Sequential(nn.BatchNorm1d(1, affine=False)).double()
    x = torch.tensor([[0.0], [0.0], [0.0], [4.0], [4.0], [4.0]], dtype=torch.float64)
    reestimate_batch_statistics(model, x.split(3))
    assert float(model[0].running_mean) == pytest.approx(2.0)
    assert float(model[0].running_var) == pytest.approx(4.0 * 6 / 5)


@pytest.mark.parametrize("name", NETS)
def test_shuffled_batches_need_one_pass(name):
    model, x, y = build(name)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))]
    passes = []

    class Counted:
        def __iter__(self):
            passes.append(1)
            return iter(x.split(50))

    reestimate_batch_statistics(model, Counted())
    assert len(passes) == 1
    first = next(m for m in model.modules() if hasattr(m, "running_mean"))
    assert int(first.num_batches_tracked) == 4
    order = y.argsort()
    x = build(name)[1][order]
    reestimate_batch_statistics(model, Counted())
    assert 2 < len(passes) <= 1 + 1 + 4


def test_an_iterator_of_sorted_examples_is_told():
    model, x, y = build("vectors")
    with pytest.warns(UserWarning, match="differ by more than chance"):
        reestimate_batch_statistics(model, iter(x[y.argsort()].split(40)))
    reestimate_batch_statistics(model, iter(x.split(40)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype):
    model, x, y = build("vectors")
    whole = reestimate_batch_statistics(copy.deepcopy(model), [x]).eval()
    found = reestimate_batch_statistics(copy.deepcopy(model).to(dtype), x[y.argsort()].to(dtype).split(40)).eval()
    losses = [float(F.cross_entropy(m(x.to(d)).double(), y).detach()) for m, d in ((whole, x.dtype), (found, dtype))]
    assert losses[1] == pytest.approx(losses[0], rel=3e-3 if dtype is torch.float32 else 0.05)


def test_barriers_and_averages_do_not_depend_on_the_order():
    a, x, y = build("vectors")
    b = copy.deepcopy(a)
    with torch.no_grad():
        for parameter in b.parameters():
            parameter.mul_(-0.5).add_(0.1)
    by_class, mixed = y.argsort(stable=True), torch.randperm(len(y), generator=torch.Generator().manual_seed(4))
    batches = {
        name: [(x[i], y[i]) for i in order.split(40)] for name, order in {"sorted": by_class, "mixed": mixed}.items()
    }
    whole = barrier(a, a, b, F.cross_entropy, (x, y), 5, "chord").losses
    for given in batches.values():
        assert barrier(a, a, b, F.cross_entropy, given, 5, "chord").losses == pytest.approx(whole, rel=0.05)
    found = barrier(a, a, b, F.cross_entropy, batches["sorted"], 5, "chord").losses
    assert found == pytest.approx(whole, rel=2e-3)
    means = [average([a, b], model=a, batches=given) for given in ([(x, y)], batches["sorted"])]
    for name, tensor in means[0].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(means[1][name], tensor, rtol=0.02, atol=0.005)


# -- frozen norms


def frozen():
    """The first norm is frozen while the rest trains."""
    model, x, y = build("vectors")
    model.train()
    model[1].eval()
    model[1].running_mean.fill_(0.3)
    model[1].running_var.fill_(2.0)
    return model, x, y


class Backbone(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        return self


@pytest.mark.parametrize("how", ["flag", "train() overridden", "overridden, in evaluation"])
def test_frozen_norms_keep_their_statistics(how):
    model, x, _ = frozen()
    if how != "flag":
        model = Backbone(*model)
        model.train("evaluation" not in how)
    reestimate_batch_statistics(model, x.split(50))
    assert bool((model[1].running_var == 2.0).all())
    assert bool((model[1].running_mean == 0.3).all())
    assert float(model[4].running_var.sub(1).abs().max()) > 0.01


def test_a_model_that_is_evaluated_has_no_frozen_norms():
    model, x, _ = frozen()
    reestimate_batch_statistics(model.eval(), x.split(50))
    torch.testing.assert_close(model[1].running_mean, model[0](x).mean(0).detach())


@pytest.mark.parametrize("mode", ["reestimate", "train", "eval"])
def test_the_ends_of_a_path_of_a_frozen_model_are_the_models(mode):
    a, x, y = frozen()
    b = copy.deepcopy(a)
    with torch.no_grad():
        b[0].weight.add_(0.1)
        b[1].running_var.fill_(3.0)
    found = barrier(a, a, b, F.cross_entropy, (x, y), 3, "chord", mode=mode)
    for loss, end in zip(found.losses[[0, -1]], (a, b), strict=True):
        here = copy.deepcopy(end)
        reestimate_batch_statistics(here, [x])
        for i, module in enumerate(here):
            module.training = mode == "train" and i in (4, 8)
        if mode == "eval":
            here = copy.deepcopy(end).eval()
        assert loss == pytest.approx(float(F.cross_entropy(here(x), y).detach()), rel=1e-12)
    assert "frozen" in found.statistics
    assert a[1].training is False
    assert a.training is True


def test_averages_of_frozen_models_average_frozen_statistics():
    a, x, y = frozen()
    b = copy.deepcopy(a)
    b[1].running_var.fill_(4.0)
    mean = average([a, b], batches=(x, y))
    assert bool((mean["1.running_var"] == 3.0).all())
    model = SphereAverage().update(a).update(b).apply(copy.deepcopy(a), (x, y))
    torch.testing.assert_close(dict(model.state_dict()), mean)
    expected = F.relu(model[1](model[0](x))) @ model[3].weight.T + model[3].bias
    torch.testing.assert_close(model[4].running_mean, expected.mean(0).detach())
    assert not math.isnan(float(model[8].running_var.sum()))
