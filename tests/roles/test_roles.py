"""Roles by use: the zoo, published transformers, what names would get wrong, what cannot be told."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from onsphere.roles import find_roles
from zoo import ZOO

TOKENS = torch.randint(3, 37, (2, 7), generator=torch.Generator().manual_seed(0))
LANGUAGE = {
    "vocab_size": 37,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def language_model(config):
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("entry", ZOO.values(), ids=lambda entry: entry.name)
def test_every_tensor_of_the_zoo_has_a_role(entry):
    model, call = entry.make(torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    roles = find_roles(model, *call.args, **call.kwargs)
    assert [row.name for row in roles.rows] == [n for n, p in model.named_parameters() if p.requires_grad]
    assert not roles.of("unclear", "unused")
    for row in roles.rows:
        if len(row.shape) < 2 and row.name != "mix":
            assert row.role in ("gain", "bias"), row
        elif row.role in ("gain", "bias"):
            assert sum(size > 1 for size in row.shape) <= 1, row
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_llama_and_a_gpt2():
    roles = find_roles(language_model(transformers.LlamaConfig(**LANGUAGE)), TOKENS)
    layer = "model.layers.0"
    assert roles.of("embedding") == ["model.embed_tokens.weight"] and roles.of("head") == ["lm_head.weight"]
    assert roles.of("hidden matrix") == [
        *(f"{layer}.self_attn.{n}_proj.weight" for n in "qkvo"),
        *(f"{layer}.mlp.{n}_proj.weight" for n in ("gate", "up", "down")),
    ]
    assert len(roles.of("gain")) == 3 and not any(row.remark for row in roles.rows)
    sizes = {"vocab_size": 37, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    roles = find_roles(language_model(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)), TOKENS)
    assert roles["transformer.wte.weight"] == "embedding and head" and roles["transformer.wpe.weight"] == "embedding"
    assert len(roles.of("hidden matrix")) == 4 and len(roles.of("gain")) == 3 and len(roles.of("bias")) == 7


def test_routers_and_experts_of_mixtures():
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    roles = find_roles(language_model(transformers.MixtralConfig(**LANGUAGE, **experts)), TOKENS)
    assert [name.endswith("gate.weight") for name in roles.of("router")] == [True]
    assert {name.split(".")[-1] for name in roles.of("hidden matrix") if "experts" in name} == {
        "gate_up_proj",
        "down_proj",
    }


class Vision(nn.Module):
    """Patches, a class token and positions that are added, a layer that is used twice, names that mislead."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.embed = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.gate = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 3)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        x = x + self.scale * self.attention(x, x, x)[0]
        x = self.embed(self.embed(x)) * torch.sigmoid(self.gate(x))
        return self.out(self.norm(x)[:, 0])


@pytest.mark.parametrize(
    "change", [lambda m: m, lambda m: m.bfloat16(), torch.compile], ids=["plain", "bf16", "compiled"]
)
def test_what_names_would_get_wrong(change):
    model = Vision()
    images = torch.randn(2, 3, 4, 4, dtype=next(change(Vision()).parameters()).dtype)
    roles = find_roles(change(model), images)
    by_role = {row.name.removeprefix("_orig_mod."): row.role for row in roles.rows}
    assert {name: role for name, role in by_role.items() if role not in ("bias", "gain")} == {
        "patches.weight": "filter bank",
        "cls": "embedding",
        "pos": "embedding",
        "attention.in_proj_weight": "hidden matrix",
        "attention.out_proj.weight": "hidden matrix",
        "embed.weight": "hidden matrix",
        "gate.weight": "hidden matrix",  # gates, but chooses nothing
        "out.weight": "head",
    }
    assert by_role["scale"] == by_role["norm.weight"] == "gain"
    (remark,) = (row.remark for row in roles.rows if row.remark)
    assert remark.endswith("embed.weight is a hidden matrix by its use, though its name says embedding")


class Several(nn.Module):
    """Two heads, a stack of matrices, and a matrix that is made of a direction and a length."""

    def __init__(self):
        super().__init__()
        self.direction, self.length = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.rand(6, 1))
        self.stack = nn.Parameter(torch.randn(3, 6, 6))
        self.first, self.second = nn.Linear(6, 2), nn.Linear(6, 1, bias=False)

    def forward(self, x):
        x = F.linear(x, self.length * F.normalize(self.direction, dim=1)).relu()
        x = torch.einsum("bi,sij->bj", x, self.stack)
        return {"a": self.first(x), "b": self.second(x).softmax(-1)}


def test_several_heads_and_matrices_that_are_made():
    roles = find_roles(Several(), torch.randn(5, 4))
    assert roles.of("head") == ["first.weight", "second.weight"]
    assert roles.of("hidden matrix") == ["direction", "stack"] and roles["length"] == "gain"


class Pooled(nn.Module):
    """The largest number over a set of points, which chooses no expert."""

    def __init__(self):
        super().__init__()
        self.points, self.out = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.points(x).max(1).values)


def test_a_pooling_is_no_choice():
    assert find_roles(Pooled(), torch.randn(2, 5, 3)).of("hidden matrix") == ["points.weight"]


def test_an_encoder_without_a_head_has_none():
    model = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
    assert not find_roles(model, torch.randn(2, 5, 8)).of("head")


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.idle = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(3))
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return self.out(x * self.w + self.w)


def test_what_does_not_go_together_is_unclear_and_what_is_not_used_is_said():
    roles = find_roles(Both(), torch.randn(3, 4))
    assert roles["w"] == "unclear" and roles["idle"] == "unused"
    assert "bias, gain" in roles.rows[0].remark and roles.rows[0].remark in repr(roles)
    assert len(roles.to_frame()) == len(roles.to_dict()["rows"]) == 4


def test_no_parameters_and_a_wrong_call_are_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        find_roles(nn.ReLU(), torch.randn(2))
    with pytest.raises(ValueError, match="the forward pass failed on the batch given"):
        find_roles(nn.Linear(3, 2), torch.randn(2, 4))
