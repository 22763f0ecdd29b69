"""Spheres by choice: counts by hand, norms restored by rescaling, training with them, what is refused."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import onsphere
from onsphere.roles import norm_groups
from onsphere.symmetry.probe import Probe
from zoo import ZOO

LAYERS = 2
LANGUAGE = {
    "vocab_size": 37,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}
TOKENS = torch.randint(3, 37, (3, 7), generator=torch.Generator().manual_seed(0))


def model_of(config):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config)


def gpt2():
    sizes = {"vocab_size": 37, "n_embd": 8, "n_layer": LAYERS, "n_head": 2, "n_positions": 16}
    return model_of(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))


def gemma3():
    return model_of(transformers.Gemma3TextConfig(**LANGUAGE, head_dim=4, query_pre_attn_scalar=4, sliding_window=8))


# Spheres are the hidden matrices. What other tensors can make up for, a layer at a time; s is the scale of the residual
# stream, which embeddings and the last norm let move once for the whole model.
BY_HAND = {
    # fused qkv and up stand behind gains; both matrices that write to the stream have s alone: 4 of them, 3 fixed
    "GPT-2": (gpt2, {"gauge": 2 * LAYERS, "constraint": 2 * LAYERS}, 2 * LAYERS - 1),
    # q, k, v, o: (qkv : gain), (q : k), (v : o); gate, up, down: (gate up : gain), (up : down): 7 - 5 a layer, less s
    "Llama": (lambda: model_of(transformers.LlamaConfig(**LANGUAGE)), {"constraint": 7 * LAYERS}, 2 * LAYERS - 1),
    # q and k alone; v, o: (v : gain), (v : o);  gate, up, down as above, less s: 1 a layer, less 1
    "Qwen3": (
        lambda: model_of(transformers.Qwen3Config(**LANGUAGE, head_dim=4)),
        {"exact": 2 * LAYERS, "gauge": 2 * LAYERS, "constraint": 3 * LAYERS},
        LAYERS - 1,
    ),
    # norms behind every branch: all but gate, which reads the stream as it is, and has s for all layers
    "OLMo2": (
        lambda: model_of(transformers.Olmo2Config(**LANGUAGE)),
        {"exact": 6 * LAYERS, "constraint": LAYERS},
        LAYERS - 1,
    ),
    # norms before and behind: all but gate; its gain is 1 + w, which no scale of w scales
    "Gemma3": (gemma3, {"exact": 6 * LAYERS, "not known": LAYERS}, LAYERS),
}


@pytest.fixture(scope="module", params=BY_HAND)
def case(request):
    make, statuses, count = BY_HAND[request.param]
    model = make()
    return model, norm_groups(model, TOKENS), statuses, count


def test_counts_are_those_by_hand(case):
    _, groups, statuses, count = case
    on = [row for row in groups.rows if row.sphere]
    assert {row.role for row in on} == {"hidden matrix"}
    assert {s: sum(row.status == s for row in on) for s in {row.status for row in on}} == statuses
    assert groups.constraints.count == len(groups.constraints.sentences) == count
    assert groups.certificate < 1e-9
    assert f"{count} degrees of freedom fixed" in repr(groups)
    shifted = "gains of the form 1 + w" in repr(groups)
    assert shifted == ("at most" in repr(groups)) == ("not known" in statuses)


def test_what_is_not_a_constraint_is_restored_and_what_is_one_cannot_be(case):
    """By the model itself: norms changed at random, then looked for among all rescalings by their effect alone."""
    model, groups, _, _ = case
    found = onsphere.find_symmetries(model, TOKENS, unused="ignore")
    on = [row for row in groups.rows if row.sphere]
    columns = [found.names.index(row.name) for row in on]
    probe, basis = Probe(model, (TOKENS,), {}), found.generators[:, columns].T
    rng = np.random.default_rng(1)
    for place, row in enumerate(on):
        wanted = np.zeros(len(on))
        wanted[place] = rng.uniform(0.2, 0.5)
        amounts, *_ = np.linalg.lstsq(basis, wanted, rcond=None)
        logs = found.generators.T @ amounts
        restored = np.abs(basis @ amounts - wanted).max() < 1e-9
        assert restored == (row.status in ("exact", "gauge")), row
        if restored:
            assert probe.change_by({i: float(np.exp(x)) for i, x in enumerate(logs)}) < 1e-9
        else:  # the best that rescalings can do leaves the norm wrong; with the norm right the output is another
            logs[columns] = wanted
            assert probe.change_by({i: float(np.exp(x)) for i, x in enumerate(logs)}) > 1e-6


@pytest.mark.parametrize("entry", [e for e in ZOO.values() if e.dimension], ids=lambda entry: entry.name)
def test_the_zoo_is_counted_as_on_paper(entry):
    model, call = entry.make(torch.float32)
    free = {n: None for n, p in model.named_parameters() if p.requires_grad and not p.detach().any()}
    groups = norm_groups(model, *call.args, overrides=free, embeddings="tensor", vectors="tensor", **call.kwargs)
    names = [row.name for row in groups.rows]
    columns = [names.index(row.name) for row in groups.rows if row.sphere]
    on_paper = entry.generators(names)[:, columns]
    assert groups.constraints.count == len(columns) - np.linalg.matrix_rank(on_paper)
    in_groups = [name for group in groups for name in group["names"]]
    assert sorted(in_groups) == sorted(names)


def test_a_gpt_trains_at_an_angle_on_the_spheres_that_were_chosen():
    model = gpt2()
    groups = norm_groups(model, TOKENS, overrides={"*.wpe.weight": "rows"})
    assert [g["sphere"] for g in groups] == ["joint"] * 4 * LAYERS + ["rows", None]
    optimizer = torch.optim.AdamW(groups, lr=0.02, weight_decay=0.0)
    onsphere.keep_on_sphere(optimizer, groups, angle=True)
    before = {row.name: float(model.get_parameter(row.name).detach().norm()) for row in groups.rows if row.sphere}
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(TOKENS, labels=TOKENS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    for name, norm in before.items():
        assert float(model.get_parameter(name).detach().norm()) == pytest.approx(norm, rel=1e-5)


def net():
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2, bias=False)
    )


def test_rows_are_judged_where_they_can_be():
    groups = norm_groups(net(), torch.randn(16, 6), matrices="rows")
    status = {row.name: row.status for row in groups.rows if row.sphere}
    assert status == {"0.weight": "exact", "3.weight": "not known"}
    assert groups[0]["sphere"] == "rows" and groups[0]["names"] == ["0.weight", "3.weight"]
    onsphere.SphereSGD(groups, lr=0.1)


def test_overrides_and_symmetries_of_a_twin():
    x = torch.randn(16, 6)
    found = onsphere.find_symmetries(net(), x, unused="ignore")
    groups = norm_groups(net(), x, overrides={"*": None, "3.*": "tensor", "3.bias": None}, symmetries=found)
    assert [row.name for row in groups.rows if row.sphere] == ["3.weight"] and groups.certificate is None
    none = norm_groups(net(), x, matrices=None)
    assert len(none) == 1 and none.constraints is None and "0 of 7 tensors on spheres (none)" in repr(none)
    assert none.to_dict()["constraints"] is None and len(none.to_frame()) == 7
    other = onsphere.find_symmetries(nn.Sequential(nn.Linear(6, 3)), x, unused="ignore")
    with pytest.raises(ValueError, match="the symmetries given do not have"):
        norm_groups(net(), x, symmetries=other)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.out = nn.Parameter(torch.ones(6)), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(x * self.w + self.w)


def test_columns_and_blocks_get_the_spheres_that_were_chosen():
    torch.manual_seed(0)
    layers = nn.Conv1d(4, 6, 3, groups=2, bias=False), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(18, 5)
    model = nn.Sequential(*layers, nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(16, 4, 5)
    groups = norm_groups(model, x, matrices="blocks", embeddings="columns")
    found = {row.name: (row.sphere, row.status) for row in groups.rows if row.sphere}
    assert found["0.weight"] == ("blocks", "exact")
    assert found["4.weight"] == ("tensor", "gauge")
    assert found["6.weight"] == ("columns", "constraint")
    spheres = {group["sphere"]: group for group in groups if len(group["names"]) == 1 and group["sphere"] != "joint"}
    assert (spheres["blocks"]["blocks"], spheres["blocks"]["dim"]) == ([(0, 0, 0, 1, 1, 1)], 0)
    assert spheres["columns"]["names"] == ["6.weight"]
    optimizer = onsphere.keep_on_sphere(torch.optim.AdamW(model.parameters(), 0.01), groups)
    norms = model[6].weight.detach().norm(dim=0), model[0].weight.detach().view(2, -1).norm(dim=1)
    model(x).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(model[6].weight.norm(dim=0), norms[0])
    torch.testing.assert_close(model[0].weight.view(2, -1).norm(dim=1), norms[1])
    with pytest.raises(ValueError, match="spheres of blocks, which the symmetries given were not searched for"):
        norm_groups(model, x, matrices="blocks", symmetries=onsphere.find_symmetries(model, x))


@pytest.mark.parametrize(
    ("make", "given", "said"),
    [
        (net, {"matrices": "slices"}, "matrices is 'slices'; it must be 'tensor', 'rows', 'columns', 'blocks' or None"),
        (net, {"vectors": "all"}, "vectors is 'all'; it must be"),
        (net, {"overrides": {"7.weight": None}}, "matches none of the model's trainable tensors"),
        (net, {"overrides": {"1.bias": "tensor"}}, "1.bias is zero or not finite, so that it has no direction"),
        (Both, {}, "so its role is unclear: say which sphere it is to have"),
        (lambda: nn.Linear(3, 2), {}, "the forward pass failed"),
    ],
)
def test_what_is_wrong_is_said(make, given, said):
    with pytest.raises(ValueError, match=said):
        norm_groups(make(), torch.randn(16, 6), **given)


def test_an_unclear_role_is_settled_by_a_pattern():
    groups = norm_groups(Both(), torch.randn(16, 6), overrides={"w": None}, embeddings="tensor")
    assert [(row.name, row.status) for row in groups.rows if row.sphere] == [("out.weight", "gauge")]
