"""A loss or a forward pass that reads the model's parameters by itself is refused, or counted where it can be."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere import curvature
from onsphere.functional.reads import ParameterReads
from onsphere.landscape import barrier, slice_along, train_curve

X = torch.randn(24, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Tanh(), nn.Linear(8, 3)
        ).double()


MODEL = network()
PARAMETERS = list(MODEL.parameters())


def squares(parameters):
    return sum(p.square().sum() for p in parameters)


def without_gradients(output, target):
    with torch.no_grad():
        return F.cross_entropy(output, target) + squares(MODEL.parameters())


class Regularised(nn.Module):
    """A loss that is a module and holds the model as a part of it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, output, target):
        return F.cross_entropy(output, target) + self.model[3].weight.norm()


BEFORE = squares(MODEL.parameters())  # computed once, with a graph that ends in the parameters

LOSSES = {
    "L2": lambda out, y: F.cross_entropy(out, y) + 0.1 * squares(MODEL.parameters()),
    "captured parameters": lambda out, y: F.cross_entropy(out, y) + 0.1 * PARAMETERS[2].abs().sum(),
    "no_grad": without_gradients,
    "data": lambda out, y: F.cross_entropy(out, y) + MODEL[0].weight.data.square().sum(),
    "detached": lambda out, y: F.cross_entropy(out, y) * MODEL[0].bias.detach().norm(),
    "a view": lambda out, y: F.cross_entropy(out, y) + MODEL[0].weight[:2].t().sum(),
    "a number": lambda out, y: F.cross_entropy(out, y) * float(MODEL[3].weight.detach()[0, 0]),
    "a submodule's norm": lambda out, y: (
        F.cross_entropy(out, y) + nn.utils.parameters_to_vector(MODEL[3].parameters()).norm()
    ),
    "the model again": lambda out, y: F.cross_entropy(out, y) + MODEL(X + 0.1).square().mean(),
    "functional_call": lambda out, y: F.mse_loss(
        out, torch.func.functional_call(MODEL, dict(MODEL.named_parameters()), X)
    ),
    "a module": Regularised(MODEL),
    "computed before": lambda out, y: F.cross_entropy(out, y) + BEFORE,
    "a foreach norm": lambda out, y: F.cross_entropy(out, y) + torch.stack(torch._foreach_norm(PARAMETERS)).sum(),
}

MEASURES = {
    "top_eigenvalues": lambda loss: curvature.top_eigenvalues(MODEL, loss, (X, Y)),
    "ggn": lambda loss: curvature.hessian_operator(MODEL, loss, (X, Y), kind="ggn"),
    "some parameters": lambda loss: curvature.trace(MODEL, loss, (X, Y), "0.weight", probes=2),
    "noise": lambda loss: curvature.gradient_noise(MODEL, loss, [(X, Y), (X, Y)]),
    "barrier": lambda loss: barrier(MODEL, MODEL, network(1), loss, (X, Y), 3),
    "curve": lambda loss: train_curve(MODEL, MODEL, network(1), loss, (X, Y), 2),
    "slice": lambda loss: slice_along(MODEL, MODEL, loss, (X, Y), 2),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_that_reads_parameters_is_refused(loss, measure):
    with pytest.raises(ValueError, match=r"reads parameters of the model by itself \(.*forward=lambda"):
        MEASURES[measure](LOSSES[loss])


def test_frozen_parameters_are_parameters():
    model = network()
    model[3].weight.requires_grad_(False)

    def loss(output, target):
        return F.cross_entropy(output, target) + model[3].weight.square().sum()

    with pytest.raises(ValueError, match=r"by itself \(3.weight\)"):
        curvature.top_eigenvalues(model, loss, (X, Y), parameters=["3.weight"])


def test_what_a_loss_reads_of_a_point_of_a_path_is_refused():
    a, b = network(), network(1)

    def loss(output, target):
        return F.cross_entropy(output, target) + 0.1 * squares(b.parameters())

    with pytest.raises(ValueError, match="reads parameters"):
        barrier(copy.deepcopy(a), a, b, loss, (X, Y), 3)
    with pytest.raises(ValueError, match="reads parameters"):
        slice_along(copy.deepcopy(a), b, loss, (X, Y), 2)


class Leaky(nn.Module):
    """Uses parameters past the module tree: what it is called with at other weights does not reach them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3).double()
        self.cached = self.layer.weight.t() * 1.0

    def forward(self, x):
        return x @ self.cached + self.layer(x)


def test_a_forward_pass_that_uses_a_stale_graph_of_parameters_is_refused():
    with pytest.raises(
        ValueError, match=r"forward pass reads parameters of the model|cannot be copied|tensor of the graph"
    ):
        curvature.top_eigenvalues(Leaky(), F.cross_entropy, (X, Y))


# -- what is right and stays so


class Tempered(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.7, dtype=torch.float64))

    def forward(self, output, target):
        return F.cross_entropy(output / self.temperature, target)


def test_a_loss_with_parameters_of_its_own_is_measured_at_these():
    loss, plain = Tempered(), lambda out, y: F.cross_entropy(out / 1.7, y)
    found = curvature.top_eigenvalues(MODEL, loss, (X, Y)).values
    assert found == pytest.approx(curvature.top_eigenvalues(MODEL, plain, (X, Y)).values, rel=1e-9)
    assert loss.temperature.grad is None
    ways = [barrier(MODEL, MODEL, network(1), f, (X, Y), 3).losses.tolist() for f in (loss, plain)]
    assert ways[0] == pytest.approx(ways[1], rel=1e-12)


def test_a_fixed_network_in_the_loss_is_a_constant():
    teacher = copy.deepcopy(MODEL)

    def loss(output, target):
        return F.cross_entropy(output, target[0]) + F.mse_loss(output, teacher(target[1]))

    batch = (X, (Y, X))
    expected = float(F.cross_entropy(MODEL(X), Y).detach())
    assert curvature.hessian_operator(MODEL, loss, [batch]).loss == pytest.approx(expected)
    found = barrier(MODEL, MODEL, network(1), loss, [batch], 3)
    assert found.losses[0] == pytest.approx(expected)
    assert found.losses[-1] == pytest.approx(float(loss(network(1)(X), batch[1]).detach()))


def with_squares(model, x):
    return model(x), squares(model.parameters())


def penalised(output, target):
    return F.cross_entropy(output[0], target) + 0.1 * output[1]


def test_forward_counts_a_regulariser():
    loss = F.cross_entropy(MODEL(X), Y) + 0.1 * squares(PARAMETERS)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, PARAMETERS, create_graph=True)])
    rows = [
        torch.autograd.grad(g, PARAMETERS, retain_graph=True, materialize_grads=True, allow_unused=True)
        for g in gradient
    ]
    dense = torch.stack([torch.cat([r.flatten() for r in row]) for row in rows])
    operator = curvature.hessian_operator(MODEL, penalised, (X, Y), forward=with_squares)
    torch.testing.assert_close(operator.dense(), dense)
    torch.testing.assert_close(operator.gradient(), gradient.detach())
    top = curvature.top_eigenvalues(MODEL, penalised, (X, Y), forward=with_squares).values[0]
    assert top == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3)


def test_forward_counts_a_regulariser_along_a_path():
    a, b = network(), network(1)
    found = barrier(a, a, b, penalised, (X, Y), 3, "chord", forward=with_squares)
    middle = copy.deepcopy(a)
    with torch.no_grad():
        for p, q in zip(middle.parameters(), b.parameters(), strict=True):
            p.copy_((p + q) / 2)
    for loss, model in zip(found.losses, (a, middle, b), strict=True):
        assert loss == pytest.approx(float(penalised(with_squares(model, X), Y).detach()), rel=1e-12)


def test_reading_shapes_and_other_tensors_is_no_read():
    with ParameterReads(MODEL) as watched:
        size, kind = MODEL[0].weight.shape, MODEL[0].weight.dtype
        torch.zeros(size, dtype=kind).sum()
        network()(X)
    assert not watched.names
    flat = torch.randn(10)
    part = nn.Module()
    part.first = nn.Parameter(flat[:5])
    with ParameterReads(part) as watched:
        flat[5:].sum()  # beside it in the same memory
    assert not watched.names
    with ParameterReads(part) as watched:
        flat[4:].sum()
    assert watched.names == {"first"}
