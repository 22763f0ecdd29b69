"""Norms in random spellings, put into random small nets: their groups are found, and none is invented.

python -m pytest --hypothesis-profile=search -m hypothesis tests/symmetry/test_norm_spellings.py
"""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onsphere import find_symmetries

WIDTH, BATCH, CLASSES = 8, 24, 3
aten = torch.ops.aten


# -- how an eps gets to a variance or a standard deviation --------------------------------------------------------


def plus(kind, eps):
    """A function that adds eps to a tensor, in one of many ways."""
    return {
        "float": lambda v: v + eps,
        "float first": lambda v: eps + v,
        "add": lambda v: torch.add(v, eps),
        "in place": lambda v: v.clone().add_(eps),
        "0-d": lambda v: v + torch.tensor(eps),
        "full_like": lambda v: torch.full_like(v, eps) + v,
        "new_tensor": lambda v: v + v.new_tensor(eps),
        "ones": lambda v: v + torch.ones_like(v) * eps,
        "numpy": lambda v: v + np.float32(eps),
        "numpy array": lambda v: v + torch.from_numpy(np.full(1, eps)),
        "alpha": lambda v: torch.add(v, torch.ones((), dtype=v.dtype), alpha=eps),
        "alpha of an integer": lambda v: v.add(1, alpha=eps),
        "addcmul": lambda v: torch.addcmul(v, torch.ones_like(v), torch.ones_like(v), value=eps),
        "addcdiv": lambda v: torch.addcdiv(v, torch.ones_like(v), torch.full_like(v, 2.0), value=2 * eps),
        "subtracted": lambda v: v - (-eps),
        "subtracted tensor": lambda v: torch.sub(v, torch.tensor(-eps)),
        "subtracted from": lambda v: torch.rsub(-v, eps),
        "aten": lambda v: aten.add.Scalar(v, eps),
        "aten tensor": lambda v: aten.add.Tensor(v, torch.scalar_tensor(eps, dtype=v.dtype)),
    }[kind]


ADDITIONS = [
    "float",
    "float first",
    "add",
    "in place",
    "0-d",
    "full_like",
    "new_tensor",
    "ones",
    "numpy",
    "numpy array",
]
ADDITIONS += [
    "alpha",
    "alpha of an integer",
    "addcmul",
    "addcdiv",
    "subtracted",
    "subtracted tensor",
    "subtracted from",
]
ADDITIONS += ["aten", "aten tensor"]

#: From a variance to what a tensor is multiplied by.
INVERSES = {
    "rsqrt": lambda v, add: torch.rsqrt(add(v)),
    "sqrt and divide": lambda v, add: 1 / torch.sqrt(add(v)),
    "pow": lambda v, add: add(v).pow(-0.5),
    "power": lambda v, add: 1 / add(v) ** 0.5,
    "reciprocal": lambda v, add: add(v).sqrt().reciprocal(),
    "std + eps": lambda v, add: 1 / add(v.sqrt()),
    "clamp_min": lambda v, add: 1 / v.sqrt().clamp_min(1e-6),
    "clamp": lambda v, add: torch.rsqrt(v.clamp(min=1e-9)),
    "maximum": lambda v, add: 1 / torch.maximum(v.sqrt(), torch.tensor(1e-6, dtype=v.dtype)),
    "max": lambda v, add: torch.max(v, torch.full_like(v, 1e-9)).rsqrt(),
}


def centred(h, dims):
    return h - h.mean(dims, keepdim=True)


#: Norms of [N, WIDTH]: what is centred, over which dimensions.
WRITTEN_OUT = {
    "layer": (True, lambda h: h, (-1,)),
    "rms": (False, lambda h: h, (-1,)),
    "batch": (True, lambda h: h, (0,)),
    "group": (True, lambda h: h.unflatten(-1, (2, -1)), (-1,)),
}

#: Kernels and functions, by the eps they are given.
CALLED = {
    "F.layer_norm": lambda h, e: F.layer_norm(h, (WIDTH,), eps=e),
    "torch.layer_norm": lambda h, e: torch.layer_norm(h, (WIDTH,), None, None, e),
    "native_layer_norm": lambda h, e: torch.native_layer_norm(h, (WIDTH,), None, None, e)[0],
    "aten.native_layer_norm": lambda h, e: aten.native_layer_norm.default(h, [WIDTH], None, None, e)[0],
    "F.rms_norm": lambda h, e: F.rms_norm(h, (WIDTH,), eps=e),
    "torch.rms_norm": lambda h, e: torch.rms_norm(h, (WIDTH,), None, e),
    "F.batch_norm": lambda h, e: F.batch_norm(h, None, None, training=True, eps=e),
    "torch.batch_norm": lambda h, e: torch.batch_norm(h, None, None, None, None, True, 0.1, e, False),
    "native_batch_norm": lambda h, e: torch.native_batch_norm(h, None, None, None, None, True, 0.1, e)[0],
    "F.group_norm": lambda h, e: F.group_norm(h, 2, eps=e),
    "torch.group_norm": lambda h, e: torch.group_norm(h, 2, None, None, e),
    "F.instance_norm": lambda h, e: F.instance_norm(h.unflatten(-1, (2, -1)), eps=e).flatten(-2),
    "F.normalize": lambda h, e: F.normalize(h, dim=-1, eps=min(e, 1e-3)),
    "cosine_similarity": lambda h, e: F.cosine_similarity(
        h[:, None], torch.eye(WIDTH, dtype=h.dtype)[None], dim=-1, eps=min(e, 1e-3)
    ),
    "module": lambda h, e: nn.LayerNorm(WIDTH, eps=e, elementwise_affine=False)(h),
}


class Norm(nn.Module):
    """A norm without gains, spelled at random."""

    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling
        if spelling[0] == "held":
            self.register_buffer("eps", torch.tensor(spelling[-1]))

    def forward(self, h):
        kind, *how, eps = self.spelling
        if kind == "called":
            return CALLED[how[0]](h, eps)
        centre, view, dims = WRITTEN_OUT[how[0]]
        viewed = view(h)
        shifted = centred(viewed, dims) if centre else viewed
        add = (lambda v: v + self.eps) if kind == "held" else plus(how[2], eps)
        return (shifted * INVERSES[how[1]](shifted.square().mean(dims, keepdim=True), add)).reshape(h.shape)


class Standardised(nn.Module):
    """A linear layer whose weight is standardised, with an eps like those of the norms."""

    def __init__(self, spelling):
        super().__init__()
        self.weight, (_, _, inverse, addition, self.eps) = nn.Parameter(torch.randn(WIDTH, WIDTH)), spelling
        self.inverse, self.addition = inverse, addition

    def forward(self, h):
        w = centred(self.weight, (1,))
        return h @ (w * INVERSES[self.inverse](w.var(1, keepdim=True), plus(self.addition, self.eps))).T


def per_channel(spelling):
    return spelling[1] in ("batch", "F.batch_norm", "torch.batch_norm", "native_batch_norm")


class Body(nn.Module):
    """[linear, norm or none, activation] several times, and a head.

    Each layer followed by a norm is a group, with its bias unless the norm takes that away; each other is none: tanh
    and sigmoid are not homogeneous, and a tensor that is standardised is a group alone.
    """

    def __init__(self, layers):
        super().__init__()
        parts = []
        for layer in layers:
            standardised, bias, norm, activation = layer
            parts.append(Standardised(standardised) if standardised else nn.Linear(WIDTH, WIDTH, bias=bias))
            parts.append(nn.Identity() if norm is None else Norm(norm))
            parts.append({"tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "gelu": nn.GELU()}[activation])
        self.parts, self.head = nn.Sequential(*parts), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.parts(x))


def expected(layers):
    """Groups, and parameters without effect."""
    groups, idle = set(), set()
    for i, (standardised, bias, norm, _) in enumerate(layers):
        weight, shift = f"parts.{3 * i}.weight", f"parts.{3 * i}.bias"
        if standardised:
            groups.add(frozenset({weight}))
        elif norm is not None and bias and per_channel(norm):
            groups.add(frozenset({weight}))
            idle.add(shift)
        elif norm is not None:
            groups.add(frozenset({weight, shift} if bias else {weight}))
    return groups, idle


epsilons = st.sampled_from([1e-12, 1e-8, 1e-6, 1e-5, 1e-3, 5e-3])
written = st.tuples(
    st.just("written"), st.sampled_from(sorted(WRITTEN_OUT)), st.sampled_from(sorted(INVERSES)),
    st.sampled_from(ADDITIONS), epsilons,
)  # fmt: skip
held = st.tuples(st.just("held"), st.sampled_from(sorted(WRITTEN_OUT)), st.sampled_from(sorted(INVERSES)), epsilons)
called = st.tuples(st.just("called"), st.sampled_from(sorted(CALLED)), epsilons)
norms = st.one_of(written, written, held, called)
layers = st.tuples(
    st.one_of(st.none(), st.none(), st.none(), written),
    st.booleans(),
    st.one_of(st.none(), norms, norms),
    st.sampled_from(["tanh", "sigmoid", "gelu"]),
)


@settings(max_examples=40 if settings.default.derandomize else 300)  # the search profile draws new ones, and more
@given(st.lists(layers, min_size=1, max_size=3), st.integers(0, 2**20))
def test_norms_in_any_spelling(layers, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, x = Body(layers), torch.randn(BATCH, WIDTH)
    found = find_symmetries(model, x)
    groups, idle = expected(layers)
    assert {frozenset(group) for group in found.groups} == groups
    assert set(found.without_effect) == idle
    assert found.rescalings == []
