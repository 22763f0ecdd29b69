"""Other people's curvature on networks and in modes where they can answer: hessian-eigenthings and curvlinops."""

import warnings

import pytest
import torch
from curvature_nets import batches_for, net, set_mode
from torch import nn

from onsphere.curvature import hessian_operator, spectral_density, top_eigenvalues, trace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    eigenthings = pytest.importorskip("hessian_eigenthings", reason="an oracle of the development environment")
    curvlinops = pytest.importorskip("curvlinops", reason="an oracle of the development environment")

#: They answer in evaluation mode, and in training mode where there is no batch norm.
CASES = [("batch_norm", "eval"), ("residual", "eval"), ("layer_norm", "train")]


def names_of(name):
    """All but the weights of norms: torch's forward-mode derivatives, on which curvlinops rests, are wrong for those.

    Differences of gradients say so (test_curvature_operators compares with them, all parameters together).
    """
    model = net(name)
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm1d | nn.LayerNorm)]
    return [n for n, _ in model.named_parameters() if n not in [f"{norm}.weight" for norm in norms]]


def theirs(model, names, loss, batches, kind="hessian"):
    make = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}[kind]
    return make(model, LOSSES[loss], [p for n, p in model.named_parameters() if n in names], batches)


LOSSES = {"cross_entropy": nn.CrossEntropyLoss(), "mse": nn.MSELoss()}


def batches_of(name, loss):
    batches = [*batches_for(name, 1, size=16), *batches_for(name, 1, size=8, seed=2)]
    return batches if loss == "cross_entropy" else [(x, nn.functional.one_hot(y, 3).to(x)) for x, y in batches]


def vectors(size):
    return torch.randn(3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_products_are_those_of_curvlinops(name, mode, loss, kind):
    batches, names = batches_of(name, loss), names_of(name)
    operator = hessian_operator(net(name), LOSSES[loss], batches, names, mode=mode, kind=kind)
    other = theirs(net(name).train(mode == "train"), names, loss, batches, kind)
    for v in vectors(operator.size):
        torch.testing.assert_close(operator.product(v), other @ v, rtol=1e-9, atol=1e-10)


def test_in_training_mode_curvlinops_refuses_and_answers_for_a_copy_without_running_statistics():
    batches, names = batches_of("batch_norm", "cross_entropy")[:1], names_of("batch_norm")
    model = net("batch_norm").train()
    with pytest.raises(RuntimeError):
        theirs(model, names, "cross_entropy", batches) @ vectors(1)[0]
    operator = hessian_operator(model, LOSSES["cross_entropy"], batches, names)
    other = theirs(set_mode(model, "train"), names, "cross_entropy", batches)
    for v in vectors(operator.size):
        torch.testing.assert_close(operator.product(v), other @ v, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_products_and_the_top_eigenvalue_are_those_of_hessian_eigenthings(name, mode):
    batches, loss = batches_of(name, "cross_entropy")[:1], LOSSES["cross_entropy"]
    other = eigenthings.HessianOperator(
        net(name).train(mode == "train"), batches, lambda m, batch: loss(m(batch[0]), batch[1])
    )
    operator = hessian_operator(net(name), loss, batches, mode=mode)
    for v in vectors(operator.size):
        torch.testing.assert_close(operator.product(v), other.matvec(v), rtol=1e-9, atol=1e-10)
    expected = eigenthings.lanczos(other, k=1, max_iter=30, tol=1e-12, which="LA", seed=0)
    found = top_eigenvalues(net(name), loss, batches, mode=mode, tolerance=1e-9)
    assert found.values[0] == pytest.approx(float(expected.eigenvalues[0]), rel=1e-6)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_traces_and_moments_are_those_of_the_matrix_of_curvlinops(name, mode):
    batches, names, loss = batches_of(name, "cross_entropy"), names_of(name), LOSSES["cross_entropy"]
    other = theirs(net(name).train(mode == "train"), names, "cross_entropy", batches)
    dense = other @ torch.eye(other.shape[1], dtype=torch.float64)
    truth = float(dense.trace())
    found = trace(net(name), loss, batches, names, mode=mode, probes=200)
    assert abs(found.value - truth) < 4 * found.standard_error < abs(truth)
    second = spectral_density(net(name), loss, batches, names, mode=mode, probes=40, steps=6).moment(2)
    assert abs(second.value - float((dense @ dense).trace())) < 4 * second.standard_error < 2 * second.value
