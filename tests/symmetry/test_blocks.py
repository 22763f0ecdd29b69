"""Blocks of slices that are scale-invariant by themselves: counts by hand, and against every subset of random nets."""

import copy
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onsphere
from onsphere.symmetry import blocks as searched
from onsphere.symmetry.blocks import find_blocks
from onsphere.symmetry.probe import Probe

WIDTH, HEADS = 12, 3


class Attention(nn.Module):
    """Self-attention with an RMS norm of every head's queries and keys, in one matrix or in three."""

    def __init__(self, *, fused, normed=True):
        super().__init__()
        self.fused, self.normed = fused, normed
        linear = lambda outputs: nn.Linear(WIDTH, outputs, bias=False)  # noqa: E731
        if fused:
            self.qkv = linear(3 * WIDTH)
        else:
            self.q, self.k, self.v = linear(WIDTH), linear(WIDTH), linear(WIDTH)
        self.o, self.norm = linear(WIDTH), nn.RMSNorm(WIDTH // HEADS)

    def forward(self, x):
        parts = self.qkv(x).chunk(3, dim=-1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        if self.normed:
            q, k = self.norm(q), self.norm(k)
        return x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Experts(nn.Module):
    """A mixture of four experts in one tensor, with a norm after each."""

    def __init__(self):
        super().__init__()
        self.router, self.norm = nn.Linear(6, 4), nn.RMSNorm(5)
        self.weight = nn.Parameter(torch.randn(4, 5, 6))

    def forward(self, x):
        found = self.norm(torch.einsum("bi,eoi->beo", x, self.weight))
        return (self.router(x).softmax(-1).unsqueeze(-1) * found).sum(1)


class Transposed(nn.Module):
    """A matrix [in, out] in front of a norm of two groups of outputs."""

    def __init__(self):
        super().__init__()
        self.weight, self.norm, self.head = nn.Parameter(torch.randn(5, 6)), nn.GroupNorm(2, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(x @ self.weight))


def convolution(norm):
    convolutional = nn.Conv2d(8, 12, 3, groups=4, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(12 * 9, 3)
    return nn.Sequential(*convolutional), torch.randn(8, 8, 5, 5)


def runs(count, length, start=0):
    return [tuple(range(start + i * length, start + (i + 1) * length)) for i in range(count)]


HEAD = WIDTH // HEADS
#: Model and input, and by hand for each tensor with blocks the dimension and the slices of each.
MODELS = {
    "head by head": (
        lambda: (Attention(fused=False), torch.randn(4, 5, WIDTH)),
        {"q.weight": (0, runs(HEADS, HEAD)), "k.weight": (0, runs(HEADS, HEAD))},
    ),
    "fused": (lambda: (Attention(fused=True), torch.randn(4, 5, WIDTH)), {"qkv.weight": (0, runs(2 * HEADS, HEAD))}),
    "no q/k norm": (lambda: (Attention(fused=True, normed=False), torch.randn(4, 5, WIDTH)), {}),
    "experts": (lambda: (Experts(), torch.randn(16, 6)), {"weight": (0, runs(4, 1))}),
    "channel groups": (lambda: convolution(nn.GroupNorm(4, 12)), {"0.weight": (0, runs(4, 3))}),
    "filters of a grouped convolution": (lambda: convolution(nn.BatchNorm2d(12)), {"0.weight": (0, runs(12, 1))}),
    "a norm over all": (lambda: convolution(nn.GroupNorm(1, 12)), {}),
    "columns": (lambda: (Transposed(), torch.randn(16, 5)), {"weight": (1, runs(2, 3))}),
}


def made(name):
    torch.manual_seed(0)
    return MODELS[name][0]()


def plain(blocks):
    return {name: (own[0].dim, [block.rows for block in own]) for name, own in blocks.items()}


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_those_counted_by_hand(name, tmp_path):
    model, x = made(name)
    before = copy.deepcopy(model.state_dict())
    found = onsphere.find_symmetries(model, x, blocks=True, unused="ignore")
    assert plain(found.blocks) == MODELS[name][1]
    assert all(torch.equal(now, then) for now, then in zip(model.state_dict().values(), before.values(), strict=True))
    found.save(tmp_path / "twin.json")
    assert onsphere.Symmetries.load(tmp_path / "twin.json").blocks == found.blocks
    assert onsphere.find_symmetries(model, x, unused="ignore").blocks is None


def test_blocks_are_said_in_words():
    model, x = made("fused")
    found = onsphere.find_symmetries(model, x, blocks=True)
    assert "6 blocks of 4 rows of qkv.weight are scale-invariant each by itself" in found.sentences()
    assert "6 blocks of 4 rows" in repr(found)
    assert found.to_dict()["blocks"][1] == {"name": "qkv.weight", "dim": 0, "rows": [4, 5, 6, 7]}


@pytest.mark.parametrize("name", ["head by head", "experts", "channel groups", "columns"])
def test_groups_of_blocks_keep_every_norm_while_the_model_trains(name):
    model, x = made(name)
    groups = onsphere.sphere_groups(model, x, spheres="blocks")
    found = onsphere.find_symmetries(model, x, blocks=True).groups_for(model, spheres="blocks")
    keys = ("names", "sphere", "blocks", "dim")
    assert [[group.get(key) for key in keys] for group in groups] == [[g.get(key) for key in keys] for g in found]
    on = next(group for group in groups if group["sphere"] == "blocks")
    assert on["names"] == list(MODELS[name][1])
    norms = [onsphere.Sphere(p, blocks=[on["blocks"][i]], dim=on["dim"]).norm()[0] for i, p in enumerate(on["params"])]
    assert [len(own) for own in norms] == [len(rows) for _, rows in MODELS[name][1].values()]
    optimizer, start = onsphere.SphereSGD(groups, 0.05), [p.detach().clone() for p in on["params"]]
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().mean(0)[..., 0].sum().backward()
        optimizer.step()
    for i, (p, norm) in enumerate(zip(on["params"], norms, strict=True)):
        assert not torch.allclose(p, start[i], atol=1e-4)
        now = onsphere.Sphere(p, blocks=[on["blocks"][i]], dim=on["dim"]).norm()[0]
        torch.testing.assert_close(now, norm, rtol=1e-6, atol=0)


def test_a_tensor_that_is_in_blocks_only_in_part_is_on_no_sphere():
    model, x = made("fused")
    found = onsphere.find_symmetries(nn.Sequential(model, nn.Linear(WIDTH, 4), nn.LayerNorm(4)), x, blocks=True)
    groups = found.groups_for(nn.Sequential(model, nn.Linear(WIDTH, 4), nn.LayerNorm(4)), spheres="blocks")
    assert "0.qkv.weight" in found.blocks and "0.qkv.weight" in groups[-1]["names"]


def test_a_model_of_other_sizes_is_refused_and_so_is_a_search_without_blocks():
    twin, x = made("columns")
    other = Transposed()
    other.weight = nn.Parameter(torch.randn(5, 8))
    with pytest.raises(ValueError, match="weight has 8 slices along dimension 1 in the model and 6 in the search"):
        onsphere.find_symmetries(twin, x, blocks=True).groups_for(other, spheres="blocks")
    with pytest.raises(ValueError, match=r"spheres='blocks' needs a search of blocks: .*blocks=True"):
        onsphere.find_symmetries(twin, x).groups_for(twin, spheres="blocks")


def test_rows_that_the_batch_does_not_use_are_no_blocks():
    model = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(8, 3))
    found = onsphere.find_symmetries(model, torch.tensor([[0, 1], [2, 3], [4, 1]]), blocks=True)
    assert plain(found.blocks) == {"0.weight": (0, runs(5, 1))}


def test_a_tensor_of_too_many_slices_is_left_out_with_a_note(monkeypatch):
    monkeypatch.setattr(searched, "MOST_SLICES", 6)
    model = nn.Sequential(nn.Linear(4, 7, bias=False), nn.Tanh(), nn.Linear(7, 5, bias=False), nn.BatchNorm1d(5))
    found = onsphere.find_symmetries(model, torch.randn(16, 4), blocks=True)
    assert plain(found.blocks) == {"2.weight": (0, runs(5, 1))}
    assert any("0.weight was not searched for blocks along dimension 0: more than 6" in note for note in found.notes)


# -- random networks, in which every subset of slices is tried --------------------------------------------------------


class Random(nn.Module):
    """Two matrices, each with a norm of random sets of outputs, of single outputs over the batch, of all, or none."""

    def __init__(self, seed):
        super().__init__()
        random = np.random.default_rng(seed)
        sizes = [4, int(random.integers(3, 6)), int(random.integers(3, 6))]
        self.weights = nn.ParameterList()
        self.turned, self.norms, self.acts, self.residual = [], [], [], bool(random.integers(2))
        for inputs, outputs in pairwise(sizes):
            turned = bool(random.integers(2))
            shape = (inputs, outputs) if turned else (outputs, inputs)
            self.weights.append(nn.Parameter(torch.from_numpy(random.standard_normal(shape))))
            self.turned.append(turned)
            order = random.permutation(outputs)
            cut = int(random.integers(2, outputs - 1)) if outputs > 3 else outputs
            sets = [order[:cut], order[cut:]] if cut < outputs else [order]
            self.norms.append([None, "batch", [order], sets, sets[:1]][random.integers(5)])
            self.acts.append([torch.tanh, torch.abs, lambda x: x, F.leaky_relu][random.integers(4)])
        self.head = torch.from_numpy(random.standard_normal((sizes[-1], 3)))
        self.x = torch.from_numpy(random.standard_normal((7, 4)))

    def forward(self, x):
        for weight, turned, norm, act in zip(self.weights, self.turned, self.norms, self.acts, strict=True):
            y = x @ (weight if turned else weight.T)
            if norm == "batch":
                y = (y - y.mean(0)) / (y - y.mean(0)).square().mean(0).sqrt()
            elif norm is not None:
                scale = torch.ones_like(y)
                for members in norm:
                    index = torch.as_tensor(np.array(members))
                    size = y[:, index].square().sum(1, keepdim=True).sqrt()
                    scale = scale.index_copy(1, index, size.expand(-1, len(index)))
                y = y / scale
            y = act(y)
            x = y + x if self.residual and x.shape == y.shape else y
        return torch.tanh(x @ self.head.to(x))


@torch.no_grad()
def by_trying(model):
    """Blocks by rescaling every subset of slices, smallest first; along the dimension along which they hold most."""
    reference, expected = model(model.x), {}
    for name, p in model.named_parameters():
        best = (0.0, None)
        for dim in (0, 1):
            count, found = p.shape[dim], []
            for size in range(1, count):
                for rows in combinations(range(count), size):
                    if any(set(rows) & set(block) for block in found):
                        continue
                    before, index = p.clone(), [slice(None)] * dim + [list(rows)]
                    p[tuple(index)] *= 3.7
                    if float((model(model.x) - reference).norm() / reference.norm()) < 1e-10:
                        found.append(rows)
                    p.copy_(before)
            held = sum(map(len, found)) / count
            if held > best[0]:
                best = (held, (dim, sorted(found)))
        if best[1]:
            expected[name] = best[1]
    return expected


def test_no_block_is_invented_or_missed_in_two_hundred_random_networks():
    some = 0
    for seed in range(200):
        model = Random(seed)
        found, notes = find_blocks(Probe(model, (model.x,), {}))
        expected = by_trying(model)
        assert plain(found) == expected, seed
        assert notes == []
        some += bool(expected)
    assert 50 < some < 190  # there is something to find in many, and in many nothing
