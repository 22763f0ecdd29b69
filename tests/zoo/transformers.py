"""Transformers and their parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from zoo.entry import against, on_paper
from zoo.layers import (
    RMSInFloat32,
    attention,
    floats,
    linear,
    merge_heads,
    rms,
    split_heads,
    squared_relu,
    tokens,
)


# A norm by hand. Each token's row of the embedding is normalised by itself; a gain meets a linear layer and a norm.
@on_paper(
    groups=[["0.weight"], ["1.weight"], ["2.weight"]],
    rescalings=[against("3.weight", "4.weight")],
    row_invariant=["0.weight"],
)
def rms_norm_by_hand():
    layers = [nn.Embedding(11, 8), RMSInFloat32(8), linear(8, 8), RMSInFloat32(8), linear(8, 3)]
    return nn.Sequential(*layers), tokens(4, 5)


class QKNormBlock(nn.Module):
    def __init__(self, width: int = 8, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.norm1, self.q, self.k, self.v = RMSInFloat32(width), *(linear(width, width) for _ in range(3))
        self.q_norm, self.k_norm = RMSInFloat32(width // heads), RMSInFloat32(width // heads)
        self.o, self.norm2 = linear(width, width), RMSInFloat32(width)
        self.up, self.down = linear(width, 2 * width), linear(2 * width, width)

    def forward(self, x):
        h = self.norm1(x)
        q, k, v = (split_heads(f(h), self.heads) for f in (self.q, self.k, self.v))
        q, k = self.q_norm(q), self.k_norm(k)
        x = x + self.o(merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return x + self.down(squared_relu(self.up(self.norm2(x))))


def qk_norm_symmetries(block: str):
    return [
        against(f"{block}.norm1.weight", f"{block}.v.weight"),
        against(f"{block}.v.weight", f"{block}.o.weight"),
        against(f"{block}.q_norm.weight", f"{block}.k_norm.weight"),
        against(f"{block}.norm2.weight", f"{block}.up.weight"),
        {f"{block}.up.weight": 1, f"{block}.down.weight": -2},
    ]


# The stream is written by the embedding, every o and every down. q and k are normalised, so alone; their gains multiply
# each other in the softmax. norm1 reaches the stream through v alone: norm1 + v + o = stream, v and o equally large.
# norm2 + up counts twice: 2 (norm2 + up) + down = stream.
@on_paper(
    groups=[
        ["0.weight", "1.o.weight", "1.down.weight", "2.o.weight", "2.down.weight"],
        *([f"{i}.{name}.weight"] for i in (1, 2) for name in ("q", "k")),
    ],
    rescalings=[*qk_norm_symmetries("1"), *qk_norm_symmetries("2"), against("3.weight", "4.weight")],
)
def pre_norm_transformer_with_qk_norm():
    layers = [nn.Embedding(11, 8), QKNormBlock(), QKNormBlock(), RMSInFloat32(8), linear(8, 11)]
    return nn.Sequential(*layers), tokens(4, 5)


class GPT(nn.Module):
    """With biases everywhere, learned positions, GELU, and the embedding as its head."""

    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.ln1, self.qkv, self.o = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.ln2, self.fc, self.proj = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.lnf, self.head = nn.LayerNorm(8), linear(8, 11)
        self.head.weight = self.wte.weight

    def forward(self, idx):
        x = self.wte(idx) + self.wpe.weight[: idx.shape[1]]
        q, k, v = (split_heads(t, 2) for t in self.qkv(self.ln1(x)).chunk(3, -1))
        x = x + self.o(merge_heads(F.scaled_dot_product_attention(q, k, v, dropout_p=0.1, is_causal=True)))
        x = x + self.proj(F.gelu(self.fc(self.ln2(x))))
        return self.head(self.lnf(x))


# The stream's writers scale together: wte, wpe, o and proj with their biases. But wte is the head too, so the last norm
# must shrink: no scale-invariant group at all. Norms' pairs against what reads them (its bias stays). GELU and one
# matrix for q, k and v leave nothing else.
@on_paper(
    rescalings=[
        against("wte.weight wpe.weight o.weight o.bias proj.weight proj.bias", "lnf.weight lnf.bias"),
        against("ln1.weight ln1.bias", "qkv.weight"),
        against("ln2.weight ln2.bias", "fc.weight"),
    ],
    fixed=["qkv.bias", "fc.bias"],
)
def gpt_with_tied_embeddings():
    return GPT(), tokens(4, 6)


class TiedWithoutStream(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.middle, self.gain = nn.Embedding(11, 8), linear(8, 8), nn.Parameter(torch.ones(8))

    def forward(self, idx):
        h = rms(self.middle(rms(self.embedding(idx))))
        return F.linear(h * self.gain, self.embedding.weight)


# As input the embedding is normalised, as output it stands against the gain.
@on_paper(groups=[["middle.weight"]], rescalings=[against("embedding.weight", "gain")])
def tied_embeddings():
    return TiedWithoutStream(), tokens(4, 5)


class EncoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x))


# Post-norm, with the input as it is on the first stream: nothing of the attention can scale. Then norm1's pair (a)
# writes the second stream, with linear2.bias a, linear1.weight u, linear1.bias a + u, linear2.weight -u. norm2 against
# the head.
@on_paper(
    groups=[["layer.norm1.weight", "layer.norm1.bias", "layer.linear1.bias", "layer.linear2.bias"]],
    rescalings=[
        against("layer.linear1.weight layer.linear1.bias", "layer.linear2.weight"),
        against("layer.norm2.weight layer.norm2.bias", "head.weight"),
    ],
    fixed=[
        "layer.self_attn.in_proj_weight",
        "layer.self_attn.in_proj_bias",
        "layer.self_attn.out_proj.weight",
        "layer.self_attn.out_proj.bias",
        "head.bias",
    ],
)
def torch_post_norm_encoder_layer():
    return EncoderLayer(), floats(4, 5, 8)


class PostNormBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.q, self.k, self.v, self.o = (linear(8, 8) for _ in range(4))
        self.norm1, self.up, self.down, self.norm2 = nn.RMSNorm(8), linear(8, 16), linear(16, 8), nn.RMSNorm(8)
        self.head = linear(8, 11)

    def forward(self, idx):
        x = self.embedding(idx)
        x = self.norm1(x + self.o(attention(self.q(x), self.k(x), self.v(x))))
        x = self.norm2(x + self.down(F.relu(self.up(x))))
        return self.head(x)


# Attention reads the bare embedding: q + k = -2 embedding in the softmax, v + o = 0 on the stream. norm1 writes the
# second stream, up + down = 0; norm2 takes its scale away.
@on_paper(
    groups=[["norm1.weight"]],
    rescalings=[
        against("q.weight", "k.weight"),
        against("embedding.weight", "q.weight k.weight"),
        against("v.weight", "o.weight"),
        against("up.weight", "down.weight"),
        against("norm2.weight", "head.weight"),
    ],
)
def post_norm_transformer():
    return PostNormBlock(), tokens(4, 5)


class Sandwich(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.pre, self.up = nn.Embedding(11, 8), nn.RMSNorm(8), linear(8, 16)
        self.down, self.post, self.final, self.head = linear(16, 8), nn.RMSNorm(8), nn.RMSNorm(8), linear(8, 11)

    def forward(self, idx):
        x = self.embedding(idx)
        x = x + self.post(self.down(F.relu(self.up(self.pre(x)))))
        return self.head(self.final(x))


# A norm before and one after the branch: all inside is alone, and the later norm's gain writes the stream.
@on_paper(
    groups=[["embedding.weight", "post.weight"], ["pre.weight"], ["up.weight"], ["down.weight"]],
    rescalings=[against("final.weight", "head.weight")],
)
def sandwich_norms():
    return Sandwich(), tokens(4, 5)


class CosineAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(6, 8), linear(6, 8), linear(6, 8), linear(8, 3)
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        q, k = F.normalize(self.q(x), dim=-1), F.normalize(self.k(x), dim=-1)
        return self.o(attention(q, k, self.v(x), self.log_scale.exp()))


# Queries and keys are normalised, the temperature is not; values and output multiply each other.
@on_paper(
    groups=[["q.weight", "q.bias"], ["k.weight"]],
    rescalings=[against("v.weight", "o.weight")],
    fixed=["log_scale"],
)
def cosine_attention():
    return CosineAttention(), floats(4, 5, 6)


class BERTEmbeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.positions, self.kinds = nn.Embedding(11, 8), nn.Embedding(5, 8), nn.Embedding(2, 8)
        self.norm, self.dense, self.decoder = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 11)

    def forward(self, input_ids, token_type_ids):
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1])) + self.kinds(token_type_ids)
        return {"logits": self.decoder(F.gelu(self.dense(self.norm(x))))}


# Three embeddings, one sum, one norm. Its pair stands against what reads it; GELU ends the story.
@on_paper(
    groups=[["words.weight", "positions.weight", "kinds.weight"]],
    rescalings=[against("norm.weight norm.bias", "dense.weight")],
    fixed=["dense.bias", "decoder.weight", "decoder.bias"],
)
def sum_of_embeddings():
    return BERTEmbeddings(), tokens(4, 5), tokens(4, 5, vocabulary=2, seed=1)
