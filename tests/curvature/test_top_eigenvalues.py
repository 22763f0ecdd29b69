"""Top eigenvalues against the dense float64 Hessian, warm starts, and sharpness tracked while a network trains."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from curvature_nets import LOSSES, NETS, batches_for, net, true_hessian
from torch import nn

from onsphere.curvature import SharpnessTracker, hessian_operator, operator_eigenvalues, top_eigenvalues

CE = F.cross_entropy


@pytest.mark.parametrize(("name", "loss", "mode"), list(itertools.product(NETS, LOSSES, ["train", "eval"])))
def test_the_top_five_within_a_millionth_of_the_dense_hessian(name, loss, mode):
    batches = [*batches_for(name, 1, size=16), *batches_for(name, 1, size=7, seed=2)]
    found = top_eigenvalues(net(name), LOSSES[loss], batches, 5, mode=mode, tolerance=1e-9)
    dense, _ = true_hessian(net(name), LOSSES[loss], batches, mode)
    values, vectors = torch.linalg.eigh(dense)
    np.testing.assert_allclose(found.values, values.flip(0)[:5].numpy(), rtol=1e-6)
    assert all(found.converged)
    assert found.products <= len(dense)
    for i in range(5):
        assert abs(float(vectors[:, -1 - i] @ found.vectors[i])) > 1 - 1e-6
    # The residuals are measured against the dense matrix, not taken on trust.
    images = found.vectors @ dense - torch.tensor(found.values, dtype=torch.float64)[:, None] * found.vectors
    np.testing.assert_allclose(images.norm(dim=1).numpy(), found.residuals, atol=1e-7 * abs(found.values[0]))


@pytest.mark.parametrize("which", ["smallest", "magnitude"])
def test_the_other_ends_of_the_spectrum(which):
    batches = batches_for("batch_norm", 2)
    found = top_eigenvalues(net("batch_norm"), CE, batches, 3, which=which, tolerance=1e-9)
    values = torch.linalg.eigvalsh(true_hessian(net("batch_norm"), CE, batches, "train")[0]).numpy()
    expected = values[:3] if which == "smallest" else values[np.argsort(-np.abs(values))][:3]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    assert values[0] < -1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_on_the_sphere_against_the_projected_dense_hessian_and_whatever_the_norm(loss):
    batches, names = batches_for("batch_norm", 2), ["0.weight"]
    dense, gradient = true_hessian(net("batch_norm"), LOSSES[loss], batches, "train", names)
    w = net("batch_norm")[0].weight.detach().flatten()
    tangent = torch.eye(len(w), dtype=torch.float64) - torch.outer(w, w) / (w @ w)
    riemannian = (w @ w) * tangent @ dense @ tangent - (gradient @ w) * tangent
    expected = torch.linalg.eigvalsh(riemannian).flip(0)[:5].numpy()
    for scale in (1.0, 5.0):
        model = net("batch_norm")
        with torch.no_grad():
            model[0].weight.mul_(scale)
        found = top_eigenvalues(model, LOSSES[loss], batches, 5, names, sphere=True, tolerance=1e-9)
        np.testing.assert_allclose(found.values, expected, rtol=1e-6)
        assert found.radius == pytest.approx(scale * float(w.norm()))
        assert (found.vectors @ w).abs().max() < 1e-10


def test_the_gauss_newton_matrix_and_differences_of_gradients():
    batches = batches_for("layer_norm", 2)
    dense = hessian_operator(net("layer_norm"), CE, batches, kind="ggn").dense()
    found = top_eigenvalues(net("layer_norm"), CE, batches, 3, kind="ggn", tolerance=1e-9)
    np.testing.assert_allclose(found.values, torch.linalg.eigvalsh(dense).flip(0)[:3].numpy(), rtol=1e-6)
    exact = top_eigenvalues(net("residual"), CE, batches, tolerance=1e-6)
    difference = top_eigenvalues(net("residual"), CE, batches, tolerance=1e-3, kind="finite-difference")
    assert difference.values[0] == pytest.approx(exact.values[0], rel=1e-2)
    assert abs(found.values[0] - exact.values[0]) > 1e-2 * exact.values[0]  # they are different matrices


def test_differences_of_gradients_in_float32():
    model, batches = net("residual").float(), [(x.float(), y) for x, y in batches_for("residual", 2)]
    expected = torch.linalg.eigvalsh(true_hessian(net("residual"), CE, batches_for("residual", 2), "train")[0])[-1]
    exact = top_eigenvalues(model, CE, batches)
    difference = top_eigenvalues(model, CE, batches, kind="finite-difference", tolerance=1e-2)
    assert exact.values[0] == pytest.approx(float(expected), rel=1e-3)
    assert difference.values[0] == pytest.approx(float(expected), rel=2e-2)


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_what_is_called_converged_is_within_its_bound_and_the_tolerance(which):
    for name, seed in itertools.product(NETS, range(3)):
        model, batches = net(name, seed), batches_for(name, 2, seed=seed)
        values = torch.linalg.eigvalsh(true_hessian(net(name, seed), CE, batches, "train")[0])
        truth = float(values[-1] if which == "largest" else values[0])
        found = top_eigenvalues(model, CE, batches, which=which, tolerance=1e-3, seed=seed)
        assert found.converged == (True,)
        assert abs(found.values[0] - truth) <= max(1.5 * found.errors[0], 1e-9)
        assert abs(found.values[0] - truth) <= 1e-3 * abs(truth)


def test_a_search_cut_short_says_so():
    found = top_eigenvalues(net("batch_norm"), CE, batches_for("batch_norm", 1), 2, max_products=4)
    assert found.converged[1] is False
    assert found.products == 4
    assert "(not converged)" in repr(found)


def test_batches_count_by_their_examples():
    (x, y), (a, b) = batches_for("layer_norm", 1, size=20)[0], batches_for("layer_norm", 1, size=5, seed=3)[0]
    whole = top_eigenvalues(net("layer_norm"), CE, (torch.cat([x, a]), torch.cat([y, b])), tolerance=1e-9)
    parts = top_eigenvalues(net("layer_norm"), CE, [(x, y), (a, b)], tolerance=1e-9)
    assert parts.values[0] == pytest.approx(whole.values[0], rel=1e-8)
    dense = [hessian_operator(net("layer_norm"), CE, pair).dense() for pair in ((x, y), (a, b))]
    plain = float(torch.linalg.eigvalsh((dense[0] + dense[1]) / 2)[-1])
    assert abs(plain - parts.values[0]) > 1e-3 * plain  # a plain mean of batches would have shown
    # A generator is read once; a loader works as well.
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    once = top_eigenvalues(net("layer_norm"), CE, (pair for pair in [(x, y)]), tolerance=1e-9)
    assert top_eigenvalues(net("layer_norm"), CE, loader, tolerance=1e-9).values[0] == pytest.approx(once.values[0])


def test_eigenvectors_by_name_and_how_they_spread():
    model = net("batch_norm")
    found = top_eigenvalues(model, CE, batches_for("batch_norm", 1), 2, ["0.weight", "6.*"])
    vector = found.vector(1)
    assert {n: v.shape for n, v in vector.items()} == {
        n: p.shape for n, p in model.named_parameters() if n in ("0.weight", "6.weight", "6.bias")
    }
    assert sum(float(v.square().sum()) for v in vector.values()) == pytest.approx(1)
    spread = found.per_group(1)
    assert sum(spread.values()) == pytest.approx(1)
    assert spread["6.bias"] == pytest.approx(float(vector["6.bias"].square().sum()))


def test_results_as_text_dictionary_and_table():
    found = top_eigenvalues(net("batch_norm"), CE, batches_for("batch_norm", 1), 2, ["0.weight"], sphere=True)
    assert "on the unit sphere" in repr(found) and "mode='train'" in repr(found)
    assert found.to_dict()["values"] == list(found) == list(found.values)
    assert len(found) == 2
    frame = found.to_frame()
    assert list(frame.columns) == ["value", "residual", "error", "converged"]
    assert frame.value[0] == found.values[0]


# -- warm starts -------------------------------------------------------------------------------------------


def step(model, batch, lr=0.02):
    loss = CE(model(batch[0]), batch[1])
    grads = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for p, g in zip(model.parameters(), grads, strict=True):
            p -= lr * g


def test_a_warm_start_saves_products_and_gives_the_same_value():
    model, batches = net("layer_norm"), batches_for("layer_norm", 1)
    before = top_eigenvalues(model, CE, batches, tolerance=1e-4)
    step(model, batches[0])
    cold = top_eigenvalues(model, CE, batches, tolerance=1e-4)
    warm = top_eigenvalues(model, CE, batches, tolerance=1e-4, start=before)
    assert warm.values[0] == pytest.approx(cold.values[0], rel=2e-4)
    assert warm.products < cold.products
    rows = top_eigenvalues(model, CE, batches, tolerance=1e-4, start=before.vectors)
    assert rows.values == warm.values
    with pytest.raises(ValueError, match="start holds vectors of shape"):
        top_eigenvalues(model, CE, batches, start=torch.ones(3))


def test_the_tracker_follows_training_with_fewer_products():
    model, batches = net("layer_norm"), batches_for("layer_norm", 2)
    tracker = SharpnessTracker(CE, batches, refresh=0)
    warm, cold = 0, 0
    for reading in range(8):
        found = tracker(model)
        fresh = top_eigenvalues(model, CE, batches, seed=reading)
        assert found.values[0] == pytest.approx(fresh.values[0], rel=3e-3)
        assert tracker.last is found
        if reading:
            warm, cold = warm + found.products, cold + fresh.products
        for _ in range(4):
            step(model, batches[0])
    assert warm < 0.8 * cold
    assert "readings=8" in repr(tracker)


def test_the_tracker_refreshes_and_finds_a_rival_that_overtook():
    class Two(nn.Module):
        """Two independent curvatures: those of the squares of two groups of numbers."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(2).double()), nn.Parameter(torch.ones(2).double())
            self.register_buffer("scale", torch.tensor([3.0, 1.0], dtype=torch.float64))

        def forward(self, x):
            return self.scale[0] * self.a.square().sum() + self.scale[1] * self.b.square().sum() + 0 * x

    def loss(output, target):
        return output.mean()

    x = torch.zeros(4, dtype=torch.float64)
    model, tracker = Two(), SharpnessTracker(loss, (x, x), refresh=2)
    assert tracker(model).values[0] == pytest.approx(6)
    model.scale[1] = 10
    tracker(model)  # warm: may have stayed where it was
    assert tracker(model).values[0] == pytest.approx(20)
    with pytest.raises(ValueError, match="refresh is -1"):
        SharpnessTracker(loss, (x, x), refresh=-1)


def test_the_tracker_finds_the_scale_invariant_parameters_once():
    model, batches = net("batch_norm"), batches_for("batch_norm", 1)
    tracker = SharpnessTracker(CE, batches, sphere=True)
    first = tracker(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[3].weight.mul_(2)
    assert set(first.slices) == {"0.weight", "3.weight"}
    assert tracker(model).values[0] == pytest.approx(first.values[0], rel=1e-2)


def test_an_operator_made_before_serves_several_searches():
    operator = hessian_operator(net("layer_norm"), CE, batches_for("layer_norm", 1))
    top = operator_eigenvalues(operator, 2, tolerance=1e-8)
    bottom = operator_eigenvalues(operator, which="smallest", tolerance=1e-8)
    values = torch.linalg.eigvalsh(operator.dense())
    assert top.values == pytest.approx(values.flip(0)[:2].tolist())
    assert bottom.values[0] == pytest.approx(float(values[0]))
    assert operator.products == top.products + bottom.products + operator.size
