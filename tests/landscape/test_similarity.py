"""Similarity of functions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.landscape import cka, disagreement, symmetric_kl


def _logits(seed, n=30, c=4):
    return torch.randn(2, n, c, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10_000), st.sampled_from([3, 30]))
@settings(max_examples=20)
def test_cka_ignores_rotation_scale_and_shift(seed, n):
    a, b = _logits(seed, n)
    rotation = torch.linalg.qr(b.new_tensor(_logits(seed + 1, 4, 4)[0].tolist())).Q
    value = cka(a, b)
    assert 0 <= value <= 1 + 1e-12
    assert cka(3 * a @ rotation + 5, b) == pytest.approx(value, abs=1e-10)
    assert cka(b, a) == pytest.approx(value, abs=1e-12)
    assert cka(a, a @ rotation) == pytest.approx(1)


def test_cka_of_kernels_by_hand():
    a, b = _logits(0, 6, 4)
    centre = torch.eye(6, dtype=torch.float64) - 1 / 6
    k, m = centre @ a @ a.T @ centre, centre @ b @ b.T @ centre
    expected = float((k * m).sum() / (k.norm() * m.norm()))
    assert cka(a, b) == pytest.approx(expected)
    assert cka(torch.cat([a] * 5), torch.cat([b] * 5)) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "c", "d"), [(40, 3, 5), (5, 3, 4)])
def test_numbers_by_numpy(n, c, d):
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((n, c)), generator.standard_normal((n, d))
    x, y = a - a.mean(0), b - b.mean(0)
    expected = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert cka(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, rel=1e-12)
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (a, b[:, :c]))
    expected = ((p * np.log(p / q)).sum(1) + (q * np.log(q / p)).sum(1)).mean() / 2
    assert symmetric_kl(torch.tensor(a), torch.tensor(b[:, :c])) == pytest.approx(expected, rel=1e-12)
    expected = (a.argmax(1) != b[:, :c].argmax(1)).mean()
    assert disagreement(torch.tensor(a), torch.tensor(b[:, :c])) == expected


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_symmetric_kl_by_torch(seed):
    a, b = _logits(seed)
    p, q = a.log_softmax(1), b.log_softmax(1)
    expected = sum(
        float(torch.nn.functional.kl_div(x, y, reduction="batchmean", log_target=True)) for x, y in ((p, q), (q, p))
    )
    assert symmetric_kl(a, b) == pytest.approx(expected / 2)
    assert symmetric_kl(a, a + 7) == pytest.approx(0, abs=1e-12)


def test_disagreement_of_logits_and_classes():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([0, 1, 1, 0])
    assert disagreement(a, b) == 0.25
    assert disagreement(b, b) == 0


def test_refusals():
    a, b = _logits(0)
    bad = a.clone()
    bad[0, 0] = math.nan
    for function in (cka, symmetric_kl, disagreement):
        with pytest.raises(ValueError, match="NaN"):
            function(bad, b)
        with pytest.raises(ValueError, match="same"):
            function(a[:5], b)
        with pytest.raises(TypeError, match="tensor"):
            function([1, 2], b)
    with pytest.raises(ValueError, match="classes"):
        symmetric_kl(a[:, :2], b)
    with pytest.raises(ValueError, match="every example"):
        cka(torch.ones(5, 2), b[:5])
    with pytest.raises(ValueError, match="two examples"):
        cka(a[:1], b[:1])
