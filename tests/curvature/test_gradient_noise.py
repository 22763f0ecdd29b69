"""Gradient noise: unbiased against brute force over many draws, effective on the sphere, clear where it cannot be."""

import math

import numpy as np
import pytest
import torch
from curvature_nets import batches_for, fingerprint, net

from onsphere.curvature import noise
from onsphere.curvature.noise import gradient_noise

CE = torch.nn.functional.cross_entropy


def line(size=6):
    """A linear model whose example gradients are known: 2 (w·x - y) x for squared loss."""
    model = torch.nn.Linear(size, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, size, dtype=torch.float64))
    return model


def squared(output, target):
    return ((output[:, 0] - target) ** 2).mean()


def population(model, size=40, seed=0):
    rng = np.random.default_rng(seed)
    x, y = torch.from_numpy(rng.normal(size=(size, 6))), torch.from_numpy(rng.normal(size=size) + 0.7)
    residual = 2 * (x @ model.weight[0].detach() - y)
    return x, y, (residual[:, None] * x).numpy()


def draw(x, y, sizes, rng):
    rows = [rng.integers(len(x), size=size) for size in sizes]
    return [(x[r], y[r]) for r in rows]


@pytest.mark.parametrize("sizes", [[5] * 6, [5, 5, 5, 2]], ids=["equal", "unequal"])
def test_unbiased_over_many_draws_and_errors_are_honest(sizes):
    model = line()
    x, y, gradients = population(model)
    rng = np.random.default_rng(1)
    found = [gradient_noise(model, squared, draw(x, y, sizes, rng)) for _ in range(300)]
    mean = gradients.mean(0)
    truth = {"noise_trace": gradients.var(0).sum() / 5, "squared_gradient": mean @ mean}
    for name, value in truth.items():
        values = np.array([getattr(f, name) for f in found])
        assert abs(values.mean() - value) < 4 * values.std() / math.sqrt(len(found)), name
        squared_errors = np.mean([getattr(f, f"{name}_error") ** 2 for f in found])
        # The jackknife of few batches errs upwards, more so with unequal ones.
        assert 0.7 < squared_errors / values.var() < 3, name
    # The plain square of the mean is biased, and visibly so: this check can fail.
    plain = np.array([f.squared_mean for f in found])
    assert plain.mean() - truth["squared_gradient"] > 4 * plain.std() / math.sqrt(len(found))
    assert {f.batch_size for f in found} == {5}


def test_against_brute_force_over_one_set_of_batches():
    model, batches = net("batch_norm"), batches_for("batch_norm", 7)
    found = gradient_noise(model, CE, batches)
    g = brute_gradients("batch_norm", batches)
    assert found.noise_trace == pytest.approx(g.var(0, ddof=1).sum())
    pairs = [g[i] @ g[j] for i in range(7) for j in range(7) if i != j]
    assert found.squared_gradient == pytest.approx(np.mean(pairs))
    assert found.squared_mean == pytest.approx(g.mean(0) @ g.mean(0))
    norms = np.linalg.norm(g, axis=1)
    assert found.mean_gradient_norm == pytest.approx(norms.mean())
    assert found.mean_gradient_norm_error == pytest.approx(norms.std(ddof=1) / math.sqrt(7))
    assert found.signal_to_noise == pytest.approx(math.sqrt(max(np.mean(pairs), 0) / found.noise_trace))
    assert found.example_noise_trace == pytest.approx(16 * found.noise_trace)
    assert found.dimension == g.shape[1]
    # The jackknife leaves out each batch: the whole function again without it.
    for name in ("noise_trace", "squared_gradient", "signal_to_noise"):
        without = [getattr(gradient_noise(model, CE, batches[:i] + batches[i + 1 :]), name) for i in range(7)]
        assert getattr(found, f"{name}_error") == pytest.approx(math.sqrt(6 * np.var(without))), name


def brute_gradients(name, batches, mode="train", parameters=None):
    rows = []
    for x, y in batches:
        model = net(name)
        model.train(mode == "train")
        CE(model(x), y).backward()
        rows.append(torch.cat([p.grad.flatten() for n, p in model.named_parameters() if n in (parameters or [n])]))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_modes_use_their_own_statistics(mode):
    batches = batches_for("batch_norm", 4)
    found = gradient_noise(net("batch_norm"), CE, batches, mode=mode)
    g = brute_gradients("batch_norm", batches, mode)
    assert found.noise_trace == pytest.approx(g.var(0, ddof=1).sum())


def test_on_the_sphere_gradients_are_effective():
    batches, names = batches_for("batch_norm", 5), ["0.weight"]
    found = gradient_noise(net("batch_norm"), CE, batches, names, sphere=True)
    x = net("batch_norm")[0].weight.detach().flatten().numpy()
    radius = np.linalg.norm(x)
    g = brute_gradients("batch_norm", batches, parameters=names)
    effective = radius * (g - np.outer(g @ x, x) / radius**2)
    assert found.noise_trace == pytest.approx(effective.var(0, ddof=1).sum())
    assert found.mean_gradient_norm == pytest.approx(np.linalg.norm(effective, axis=1).mean())
    assert found.radius == pytest.approx(radius)
    assert found.dimension == x.size - 1
    # Effective: the norm of the weights does not matter. The gradient itself shrinks with it.
    scaled = net("batch_norm")
    with torch.no_grad():
        scaled[0].weight.mul_(10)
    assert gradient_noise(scaled, CE, batches, names, sphere=True).noise_trace == pytest.approx(found.noise_trace)
    plain, shrunk = (gradient_noise(model, CE, batches, names) for model in (net("batch_norm"), scaled))
    assert shrunk.mean_gradient_norm == pytest.approx(plain.mean_gradient_norm / 10)
    # On a layer that is not scale-invariant the radial part is taken out.
    head = gradient_noise(net("batch_norm"), CE, batches, ["6.weight"], sphere=True)
    norm = float(net("batch_norm")[6].weight.detach().norm())
    assert head.mean_gradient_norm < norm * gradient_noise(scaled, CE, batches, ["6.weight"]).mean_gradient_norm


def test_gradients_computed_twice_give_the_same_as_gradients_kept(monkeypatch):
    kept = gradient_noise(net("residual"), CE, batches_for("residual", 4))
    monkeypatch.setattr(noise, "_MOST_KEPT", 10)
    assert gradient_noise(net("residual"), CE, batches_for("residual", 4)) == kept


def test_the_same_batch_twice_has_no_noise():
    pair = batches_for("layer_norm", 1)[0]
    found = gradient_noise(net("layer_norm"), CE, [pair, pair])
    assert found.noise_trace == pytest.approx(0, abs=1e-12)
    assert found.squared_gradient == pytest.approx(found.mean_gradient_norm**2)
    assert math.isnan(found.noise_trace_error) and math.isnan(found.squared_gradient_error)


def test_a_gradient_lost_in_noise_is_reported_as_such():
    x = torch.tensor([[1.0] * 6, [1.0] * 6], dtype=torch.float64)
    y = (x @ line().weight[0].detach()) + torch.tensor([1.0, -1.0])
    found = gradient_noise(line(), squared, [(x[:1], y[:1]), (x[1:], y[1:])])
    assert found.squared_gradient < 0
    assert found.signal_to_noise == 0
    assert found.noise_scale == math.inf


def test_nothing_changes():
    model, batches = net("batch_norm"), batches_for("batch_norm", 3)
    before = fingerprint(model)
    gradient_noise(model, CE, batches)
    gradient_noise(model, CE, batches, ["0.weight"], sphere=True, mode="eval")
    assert fingerprint(model) == before
    bad = [*batches[:2], (batches[2][0] * float("nan"), batches[2][1])]
    with pytest.raises(ValueError):
        gradient_noise(model, CE, bad)
    assert fingerprint(model) == before


@pytest.mark.parametrize(("count", "message"), [(0, "empty"), (1, "at least two batches, and was given 1")])
def test_too_few_batches(count, message):
    with pytest.raises(ValueError, match=message):
        gradient_noise(net("batch_norm"), CE, batches_for("batch_norm", count))


def test_noise_as_text_dictionary_and_table():
    found = gradient_noise(net("layer_norm"), CE, batches_for("layer_norm", 3))
    assert repr(found).startswith("GradientNoise(noise_trace=") and "3 batches of 16" in repr(found)
    assert found.to_dict()["noise_scale"] == found.noise_scale
    frame = found.to_frame()
    assert list(frame.quantity) == ["noise_trace", "squared_gradient", "signal_to_noise", "mean_gradient_norm"]
    assert frame.value[0] == found.noise_trace
