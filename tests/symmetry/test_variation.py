"""Batches that do not vary: the search makes its own variation, or says that the batch cannot tell."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere import SymmetryError, find_symmetries, sphere_groups


def data(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make):
    torch.manual_seed(0)
    return make()


def cnn():
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *pool, nn.Linear(8, 4))


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


class Tokens(nn.Module):
    def __init__(self, how="embedding"):
        super().__init__()
        self.embedding, self.position = nn.Embedding(11, 16), nn.Embedding(12, 16)
        self.norm, self.batch_norm = nn.LayerNorm(16), nn.BatchNorm1d(16, affine=False)
        self.linear, self.head, self.how = nn.Linear(16, 16), nn.Linear(16, 11), how

    def forward(self, tokens, mask=None):
        weight = self.embedding.weight
        how = {
            "embedding": lambda: self.embedding(tokens),
            "index": lambda: weight[tokens],
            "select": lambda: weight.index_select(0, tokens.flatten()).reshape(*tokens.shape, -1),
        }
        h = self.norm(how[self.how]() + self.position(torch.arange(tokens.shape[1])))
        h = self.batch_norm(self.linear(h).transpose(1, 2)).transpose(1, 2)
        return self.head(F.gelu(h)) * (1 if mask is None else mask[..., None])


def same(found, other):
    assert found.groups == other.groups and found.rescalings == other.rescalings
    assert found.without_effect == other.without_effect and found.fixed == other.fixed


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(8, 3, 12, 12),
        torch.ones(8, 3, 12, 12),
        torch.full((8, 3, 12, 12), -2.5),
        torch.zeros(8, 3, 12, 12, dtype=torch.bfloat16),
        data(1, 3, 12, 12).expand(8, -1, -1, -1),
        torch.zeros(1, 3, 12, 12),
        data(1, 3, 12, 12),
    ],
    ids=["zeros", "ones", "negative", "half", "one image many times", "one zero", "one image"],
)
def test_images_without_variation(batch):
    found = find_symmetries(seeded(cnn), batch)
    same(found, find_symmetries(seeded(cnn), data(8, 3, 12, 12)))
    assert any("did not vary" in note for note in found.notes) == (len(batch) > 1 or not batch.any())
    assert all(1e-9 < broken < 1e-2 for broken in found.broken_by_eps)


@pytest.mark.parametrize("batch", [torch.zeros(8, 8), torch.full((8, 8), 3.0), data(1, 8).repeat(8, 1)])
def test_vectors_without_variation(batch):
    same(find_symmetries(seeded(mlp), batch), find_symmetries(seeded(mlp), data(8, 8)))
    assert sphere_groups(seeded(mlp), batch)[0]["names"] == ["0.weight"]


@pytest.mark.parametrize("how", ["embedding", "index", "select"])
@pytest.mark.parametrize("token", [0, 7])
def test_one_repeated_token(how, token):
    tokens = torch.full((4, 12), token)
    found = find_symmetries(seeded(lambda: Tokens(how)), tokens)
    same(found, find_symmetries(seeded(lambda: Tokens(how)), torch.randint(11, (4, 12))))
    assert ("embedding.weight", "position.weight") in found.groups and ("linear.weight",) in found.groups
    assert bool((tokens == token).all())


def test_a_mask_of_ones_beside_a_batch_stays():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3)

        def forward(self, x, mask, padding):
            return self.head(self.norm(self.first(x)) + (1 - mask)[:, None] * -1e9 + (1 - padding)[:, None] * -1e9)

    found = find_symmetries(seeded(Masked), data(16, 8), torch.ones(16), torch.ones(16, dtype=torch.int64))
    assert found.groups == [("first.weight", "first.bias")] and found.notes == ()


class OneHot(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, classes):
        return self.body(F.one_hot(classes, 8).to(self.body[0].weight.dtype))


class Needs(nn.Module):
    """Takes only what is one number, and says so."""

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, x):
        if (x != x.flatten()[0]).any():
            raise ValueError("one number, please")
        return self.body(x)


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, u, v):
        return self.body(u + v)


def test_what_cannot_be_made_to_vary_is_refused():
    with pytest.raises(SymmetryError, match=r"every entry of the batch is the number 3.*batch of different examples"):
        find_symmetries(seeded(OneHot), torch.full((8,), 3))
    with pytest.raises(SymmetryError, match=r"one example many times.*one number, please.*batch of different examples"):
        find_symmetries(seeded(Needs), torch.zeros(8, 8))
    with pytest.raises(SymmetryError, match=r"2 inputs are one number.*batch of different examples"):
        find_symmetries(seeded(Sum), torch.zeros(8, 8), torch.ones(8, 8))
    assert find_symmetries(seeded(OneHot), torch.arange(8)).groups == [("body.0.weight",)]


# -- parameters of one number -----------------------------------------------------------------------------------


class Gain(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.g = nn.Parameter(torch.full(shape, 1.7))

    def forward(self, x):
        return x * self.g


@pytest.mark.parametrize("behind", range(5))
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_gain_of_one_number_before_a_norm_is_a_group(behind, shape):
    layers = lambda: [nn.Linear(16, 16) for _ in range(behind)]  # noqa: E731
    norm = nn.BatchNorm1d(16, affine=False)
    net = seeded(
        lambda: nn.Sequential(nn.Linear(8, 16, bias=False), Gain(*shape), norm, nn.ReLU(), *layers(), nn.Linear(16, 3))
    )
    found = find_symmetries(net, data(32, 8))
    assert found.groups == [("0.weight",), ("1.g",)] and found.without_effect == ()


@pytest.mark.parametrize("function", [torch.abs, torch.square])
def test_an_even_function_behind_does_not_take_the_effect_away(function):
    class Even(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.gain, self.head = nn.Linear(8, 16, bias=False), Gain(), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(function(F.rms_norm(self.gain(self.first(x)), (16,))))

    assert find_symmetries(seeded(Even), data(32, 8)).groups == [("first.weight",), ("gain.g",)]


@pytest.mark.parametrize("width", [1, 2])
def test_few_numbers_without_effect(width):
    norm = nn.BatchNorm1d(width, affine=False)
    net = seeded(lambda: nn.Sequential(nn.Linear(8, width), norm, nn.ReLU(), nn.Linear(width, 3)))
    found = find_symmetries(net, data(32, 8))
    assert found.groups == [("0.weight",)] and found.without_effect == ("0.bias",)
