"""make_scale_invariant on language models and on norms of other people's making: what it does, and that it is true."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from onsphere import find_symmetries, make_scale_invariant, sphere_groups

LAYERS = 2
COMMON = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def gpt2(tied=True):
    sizes = {"vocab_size": 37, "n_embd": 16, "n_layer": LAYERS, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied))


def llama():
    return LlamaForCausalLM(LlamaConfig(**COMMON))


def qwen3():
    return Qwen3ForCausalLM(Qwen3Config(**COMMON, head_dim=8))


def olmo2():
    return Olmo2ForCausalLM(Olmo2Config(**COMMON))


def gemma3(tied=True):
    sizes = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
    return Gemma3ForCausalLM(Gemma3TextConfig(**COMMON, **sizes, tie_word_embeddings=tied))


@pytest.fixture
def tokens():
    return torch.randint(3, 37, (4, 9), generator=torch.Generator().manual_seed(0))


def layers(*names):
    return {f"model.layers.{i}.{name}" for i in range(LAYERS) for name in names}


QK = ("self_attn.q_norm", "self_attn.k_norm")
POST = ("post_attention_layernorm", "post_feedforward_layernorm")


@pytest.mark.parametrize(
    ("make", "removed", "kept"),
    [
        (llama, layers("input_layernorm", "post_attention_layernorm"), set()),
        (qwen3, layers("input_layernorm", "post_attention_layernorm"), layers(*QK)),
        (olmo2, set(), layers(*QK, *POST)),
        (lambda: gemma3(tied=False), layers("input_layernorm", "pre_feedforward_layernorm"), layers(*QK, *POST)),
    ],
    ids=["llama", "qwen3", "olmo2", "gemma3"],
)
def test_gains_go_where_a_linear_layer_reads_them_and_stay_elsewhere(make, removed, kept, tokens):
    torch.manual_seed(0)
    model = make()
    changed = make_scale_invariant(model, check=tokens)
    changes = changed.scale_invariance
    assert (set(changes.affine), set(changes.kept_gains)) == (removed | {"model.norm"}, kept)
    assert changes.head == "lm_head" and changes.traced and not changes.hidden_eps
    assert all(name in str(changes) for name in kept)
    # What it says of the result is true of the result.
    found = find_symmetries(changed, tokens)
    assert set(changes.not_invariant) == set(found.names) - set(found.invariant)
    assert {f"{name}.weight" for name in kept} <= set(found.names)
    assert not {f"{name}.weight" for name in removed} & set(found.names)
    # The gains of a fresh model do nothing, so that but for eps and the head's scale the function is the same.
    for module in model.modules():
        for name in {"eps", "variance_epsilon"} & set(vars(module)):
            setattr(module, name, 1e-12)
    scale = changes.head_norm / changes.head_norm_before
    torch.testing.assert_close(changed(tokens).logits, model(tokens).logits * scale, rtol=1e-3, atol=1e-3)


def test_a_llama_keeps_one_joint_sphere_and_trains_on_it(tokens):
    torch.manual_seed(0)
    changed = make_scale_invariant(llama(), check=tokens)
    groups = sphere_groups(changed, tokens)
    stream = {"model.embed_tokens.weight"} | {f"{name}.weight" for name in layers("self_attn.o_proj", "mlp.down_proj")}
    assert set(groups[0]["names"]) == stream
    optimizer, losses = torch.optim.Adam([p for g in groups for p in g["params"]], lr=3e-3), []
    for _ in range(40):
        loss = F.cross_entropy(changed(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("make", [gpt2, gemma3])
def test_a_tied_head_is_not_frozen_in_silence(make, tokens):
    torch.manual_seed(0)
    model = make()
    with pytest.raises(ValueError, match=r"shared by .* and lm_head.weight.*untie it before.*head=False"):
        make_scale_invariant(model, check=tokens)
    changed = make_scale_invariant(model, head=False, check=tokens)
    changes = changed.scale_invariance
    assert changes.head is None and "no head was frozen" in str(changes)
    assert all(p.requires_grad for p in changed.lm_head.parameters())
    assert changed.lm_head.weight is changed.get_input_embeddings().weight
    found = find_symmetries(changed, tokens)
    assert "lm_head.weight" not in found.invariant and set(changes.not_invariant) == set(found.names) - set(
        found.invariant
    )
    # And the way that the message names works.
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    assert make_scale_invariant(model, check=tokens).scale_invariance.head == "lm_head"


def test_an_untied_gpt2_has_its_stream_on_one_sphere(tokens):
    torch.manual_seed(0)
    changed = make_scale_invariant(gpt2(tied=False), check=tokens)
    ends = [f"transformer.h.{i}.{name}.c_proj.{kind}" for i in range(LAYERS) for name in ("attn", "mlp") for kind in
            ("weight", "bias")]  # fmt: skip
    assert set(sphere_groups(changed, tokens)[0]["names"]) == {
        "transformer.wte.weight",
        "transformer.wpe.weight",
        *ends,
    }
    assert not any("ln_" in name for name, _ in changed.named_parameters())


def test_without_a_batch_the_unknown_is_said_and_not_guessed(tokens):
    torch.manual_seed(0)
    changes = make_scale_invariant(qwen3()).scale_invariance
    assert changes.affine == () and len(changes.kept_gains) == 4 * LAYERS + 1
    assert not changes.traced and "check=" in str(changes)
    headless = LlamaModel(LlamaConfig(**COMMON))
    with pytest.raises(ValueError, match=r"no head found.*order of registration"):
        make_scale_invariant(headless)
    with pytest.raises(ValueError, match="no head found: no linear"):
        make_scale_invariant(headless, check={"input_ids": tokens})
    assert make_scale_invariant(headless, head=False, check={"input_ids": tokens}).scale_invariance.traced


def test_a_batch_that_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError, match="the forward pass failed on the batch given"):
        make_scale_invariant(llama(), check=torch.randn(3, 4))


class Own(nn.Module):
    """An RMS norm with its eps written into the forward pass."""

    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.full((width,), 1.5))

    def forward(self, x):
        return self.gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


class Attention(nn.Module):
    """Query and key norms between biased projections, in a forward pass without a graph."""

    def __init__(self, width, norm):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.before, self.q_norm, self.k_norm = norm(width), norm(width), norm(width)
        self.after, self.head = norm(width), nn.Linear(width, 3)

    def forward(self, x):
        if bool(x.isnan().any()):
            return x
        h = self.before(x)
        x = x + self.o(F.scaled_dot_product_attention(self.q_norm(self.q(h)), self.k_norm(self.k(h)), self.v(h)))
        return self.head(F.gelu(self.after(x)).mean(1))


@pytest.mark.parametrize("norm", [Own, nn.LayerNorm, nn.RMSNorm])
def test_one_pass_over_a_batch_shows_what_feeds_what(norm):
    torch.manual_seed(0)
    x = torch.randn(8, 5, 6)
    changes = make_scale_invariant(Attention(6, norm), check=x).scale_invariance
    assert changes.biases == ("q.bias", "k.bias")
    assert set(changes.kept_gains) == {"q_norm", "k_norm"} and set(changes.affine) == {"before", "after"}
    assert changes.head == "head"
    assert set(changes.hidden_eps) == ({"before", "q_norm", "k_norm", "after"} if norm is Own else set())
    if norm is Own:
        assert "eps written into the forward pass" in str(changes)
        assert all(eps == pytest.approx(1e-5, rel=0.8) for eps in changes.hidden_eps.values())


def test_a_norm_that_reads_nothing_linear_keeps_its_gain_in_a_traced_model_too():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.n, self.m, self.head = (
                nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm(6), nn.RMSNorm(6), nn.Linear(6, 2))  # fmt: skip

        def forward(self, x):
            return self.head(torch.relu(self.m(self.b(x * self.n(self.a(x))))))

    changes = make_scale_invariant(Gate()).scale_invariance
    assert changes.kept_gains == ("n",) and changes.affine == ("m",)
    assert set(changes.biases) == {"a.bias", "b.bias"}


def test_a_product_with_a_parameter_as_head_is_named():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.n = nn.Embedding(7, 4), Own(4)

        def forward(self, ids):
            if ids.max() > 6:
                return ids
            return self.n(self.e(ids)) @ self.e.weight.T

    ids = torch.arange(7)
    with pytest.raises(ValueError, match=r"made by a product with a parameter.*head=False"):
        make_scale_invariant(Tied(), check=ids)
    assert make_scale_invariant(Tied(), head=False).scale_invariance.head is None


@pytest.mark.parametrize("traced", [True, False])
def test_frozen_norms_are_left_as_they_are(traced):
    class Net(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if traced or x.sum() != 12345 else x

    model = Net(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model[1].eval()
    changes = make_scale_invariant(model).scale_invariance
    assert changes.frozen == ("1",) and changes.norms == changes.affine == ("4",)
    assert changes.biases == ("3.bias",) and "left as they are: 1" in str(changes)
    model[4].eval()
    with pytest.raises(ValueError, match="are frozen"):
        make_scale_invariant(model)
    # A model that is looked at in evaluation mode is one that will train.
    assert make_scale_invariant(model.eval()).scale_invariance.norms == ("1", "4")
