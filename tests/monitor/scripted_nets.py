"""Two small networks for scripted runs, a language model and a perceptron, each with a task that can be learned."""

import torch
import torch.nn.functional as F
from torch import nn

WORDS, LENGTH, WIDTH = 11, 8, 16


class Block(nn.Module):
    """Pre-norm attention with normalised queries and keys, then two hidden matrices."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH, eps=1e-12), nn.RMSNorm(WIDTH, eps=1e-12)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        y = self.norm1(x)
        q, k = (F.rms_norm(f(y), (WIDTH,), eps=1e-12) for f in (self.q, self.k))
        x = x + self.o(F.scaled_dot_product_attention(q, k, self.v(y), is_causal=True))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A language model with gains and biases, an untied head, and normalised queries and keys."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-12)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))

    @staticmethod
    def batch(generator, size=8):
        start = torch.randint(WORDS, (size, 1), generator=generator)
        step = torch.randint(1, 4, (size, 1), generator=generator)
        words = (start + step * torch.arange(LENGTH + 1)) % WORDS
        return words[:, :-1], words[:, 1:]


class MLP(nn.Module):
    """A perceptron with layer norms with gains and biases."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, WIDTH) for n in (6, WIDTH, WIDTH, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, eps=1e-12) for _ in range(4))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return self.head(x)

    @staticmethod
    def batch(generator, size=32):
        x = torch.randn(size, 6, generator=generator)
        noise = torch.randn(size, generator=generator)
        return x, (x[:, 0] * x[:, 1] + 0.3 * noise > 0).long() + (x[:, 2] + 0.3 * noise > 1).long()


NETS = {"GPT": GPT, "MLP": MLP}


def made(kind, seed=0):
    """The network with its initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETS[kind]()


def loss_of(model, x, y):
    """Cross entropy of a batch."""
    out = model(x.to(model.head.weight.dtype) if x.is_floating_point() else x)
    return F.cross_entropy(out.flatten(0, -2), y.flatten())
