"""Symmetries of random compositions of layers against an independent Jacobian; planted biases."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from onsphere import find_symmetries

WIDTH, LENGTH, BATCH, CLASSES = 5, 4, 6, 3
EPS = 1e-200


def data(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- random compositions --------------------------------------------------------------------------------------


class RMS(nn.Module):
    def __init__(self, affine):
        super().__init__()
        self.eps, self.weight = 1e-6, nn.Parameter(torch.ones(WIDTH, 1)) if affine else None

    def forward(self, x):
        y = x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
        return y if self.weight is None else y * self.weight


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Act(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def squared_relu(x):
    return F.relu(x).square()


ACTS = {"relu": F.relu, "tanh": torch.tanh, "squared_relu": squared_relu, "leaky": F.leaky_relu, "abs": torch.abs}


def layer(spec):
    kind, *how = spec
    if kind == "conv":
        return nn.Conv1d(WIDTH, WIDTH, how[0], padding=how[0] // 2, bias=how[1])
    if kind == "batch":
        return nn.BatchNorm1d(WIDTH, affine=how[0], track_running_stats=False)
    if kind == "layer":
        return nn.GroupNorm(1, WIDTH, affine=how[0])
    if kind == "instance":
        return nn.InstanceNorm1d(WIDTH, affine=how[0])
    if kind == "rms":
        return RMS(how[0])
    if kind == "residual":
        return Residual(*map(layer, how[0]))
    return Act(ACTS[kind])


class Net(nn.Module):
    def __init__(self, specs):
        super().__init__()
        self.body, self.head = nn.Sequential(*map(layer, specs)), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        # ReLU: channels of a norm have the mean zero, and the mean over positions would show nothing
        return self.head(F.relu(self.body(x)).mean(2))


def joined(parts):
    return [spec for part in parts for spec in part]


flag = st.booleans()
convs = st.tuples(st.just("conv"), st.sampled_from([1, 3]), flag).map(lambda spec: [spec])
norms = st.tuples(st.sampled_from(["batch", "layer"]), flag).map(lambda spec: [spec])
acts = st.sampled_from(["relu", "tanh", "squared_relu"]).map(lambda name: [(name,)])
# These look at few numbers at a time, which are all zero now and then after a ReLU: a convolution in between.
small_norms = st.tuples(flag, st.sampled_from(["rms", "instance"]), flag).map(lambda f: [("conv", 3, f[0]), f[1:]])
simple = st.one_of(convs, convs, norms, acts, small_norms)
branches = st.lists(simple, min_size=1, max_size=3).map(lambda parts: [("residual", joined(parts))])
compositions = st.lists(st.one_of(simple, simple, branches), min_size=1, max_size=5).map(joined)


def made(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def exact_twin(model):
    """Our own copy without eps, for an independent look."""
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = EPS
    return model


def varies(model, x):
    """No norm sees a constant slice: without eps it would divide rounding by rounding."""
    least = [float("inf")]
    axes = {nn.BatchNorm1d: (0, 2), nn.GroupNorm: (1, 2), nn.InstanceNorm1d: (2,)}

    def measure(module, args):
        (y,) = args
        sizes = y.square().mean(1) if isinstance(module, RMS) else y.var(axes[type(module)])
        least.append(float(sizes.detach().min()))

    for module in model.modules():
        if hasattr(module, "eps"):
            module.register_forward_pre_hook(measure)
    model(x)
    return min(least) > 1e-12


def perturbed(model, names, seed):
    """Parameters by name, moved off ones, zeros and the like."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    for name in names:
        noise = torch.randn(parameters[name].shape, generator=generator, dtype=torch.float64)
        parameters[name] = parameters[name] + 0.3 * noise
    return parameters


def output(model, parameters, x, log_scales=None, names=()):
    scaled = dict(parameters)
    for i, name in enumerate(names):
        scaled[name] = parameters[name] * torch.exp(log_scales[i])
    return torch.func.functional_call(model, scaled, (x,)).flatten()


def log_scale_jacobian(model, names, x, points=3):
    """Forward mode: d output / d log-scale of each tensor, [points * outputs, tensors], and the points."""
    rows, places = [], [perturbed(model, names, seed) for seed in range(1, points + 1)]
    zero = torch.zeros(len(names), dtype=torch.float64)
    for seed, parameters in enumerate(places):
        x = x + 0.1 * data(*x.shape, seed=50 + seed)

        def along(direction, parameters=parameters, x=x):
            def f(scales):
                return output(model, parameters, x, scales, names)

            return torch.func.jvp(f, (zero,), (direction,))

        with torch.no_grad():
            pairs = [along(direction) for direction in torch.eye(len(names), dtype=torch.float64)]
        rows.append(torch.stack([tangent for _, tangent in pairs], 1) / pairs[0][0].norm())
    return torch.cat(rows).numpy(), places


def checked_rank(jacobian):
    """The rank where it is beyond doubt."""
    values = np.linalg.svd(jacobian, compute_uv=False)
    rank = int((values > 1e-7 * values[0]).sum())
    floor = values[rank] if rank < len(values) else 0.0
    assume(values[rank - 1] > 1e5 * max(floor, 1e-15))
    return rank


def subsets(n):
    """All 0/1 vectors but zero, [2^n - 1, n]."""
    return (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1


@settings(max_examples=30 if settings.default.derandomize else 300)  # the search profile draws new ones, and more
@given(compositions, st.integers(0, 2**20))
def test_random_compositions(specs, seed):
    x = data(BATCH, WIDTH, LENGTH)
    assume(varies(made(lambda: Net(specs)), x))
    found = find_symmetries(made(lambda: Net(specs)), x)
    names, n = found.names, len(found.names)
    twin = exact_twin(made(lambda: Net(specs)))
    jacobian, places = log_scale_jacobian(twin, names, x)
    rank = checked_rank(jacobian)

    # all are found, and none is invented
    assert rank + found.dimension == n
    assert np.linalg.matrix_rank(found.generators, tol=1e-9) == len(found.generators) == found.dimension
    assert np.abs(jacobian @ found.generators.T).max(initial=0) < 1e-9

    # each passes rescaling by random factors, and so does a random mixture of all
    rng = np.random.default_rng(seed)
    mixtures = [*np.eye(found.dimension), rng.uniform(-1, 1, found.dimension)] if found.dimension else []
    with torch.no_grad():
        for mixture in mixtures:
            scales = torch.tensor(mixture @ found.generators * rng.uniform(-1, 1))
            before = output(twin, places[0], x)
            after = output(twin, places[0], x, scales, names)
            assert float((after - before).norm()) <= 1e-9 * float(before.norm())

    # groups are disjoint, cannot be split, and hold as many numbers as any 0/1 vector
    assert len(found.invariant) == sum(map(len, found.groups))
    assume(n <= 16)
    candidates = subsets(n)
    idle = np.isin(names, found.without_effect)
    null = np.linalg.svd(jacobian, full_matrices=True)[2][:rank]
    candidates = candidates[np.abs(candidates @ null.T).max(1, initial=0) < 1e-9]
    candidates = candidates[~(candidates[:, idle] != 0).any(1)]
    sizes = np.array([np.prod(shape, dtype=int) for shape in found.shapes])
    held = np.isin(names, found.invariant) @ sizes
    assert held == max(candidates @ sizes, default=0)
    for group in found.groups:
        inside = np.isin(names, group)
        assert (candidates[~candidates[:, ~inside].any(1)].sum(1) == len(group)).all()


# -- planted biases -------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Linear layers without biases, functions of degree 1 or 2 between them, a norm, a head; and one bias somewhere."""

    def __init__(self, widths, functions, norm, place, bias):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in zip([4, *widths], widths, strict=False))
        self.functions, self.place = functions, place
        self.norm = {
            "layer": nn.LayerNorm(widths[-1], elementwise_affine=False),
            "rms": nn.RMSNorm(widths[-1], elementwise_affine=False),
            "batch": nn.BatchNorm1d(widths[-1], affine=False),
        }[norm]
        self.head = nn.Linear(widths[-1], CLASSES)
        if bias != "none":
            # small, so that units behind it are on both sides of zero over the batch: where none is, the bias is only
            # a shift there, which a batch norm takes away
            self.bias = nn.Parameter(0.1 * torch.randn(widths[place]), requires_grad=bias == "trainable")

    def forward(self, x):
        for i, matrix in enumerate(self.layers):
            x = matrix(x)
            if i == self.place and hasattr(self, "bias"):
                x = x + self.bias
            if i < len(self.functions):
                x = ACTS[self.functions[i]](x)
        return self.head(self.norm(x))


def bends(chain):
    """Some unit where the bias is added has both signs over the batch, or the bias would be a mere shift there."""
    model, x = made(lambda: Chain(*chain, "frozen")), data(48, 4)
    for i, matrix in enumerate(model.layers[: model.place + 1]):
        x = matrix(x)
        x = ACTS[model.functions[i]](x) if i < model.place else x + model.bias
    positive = (x > 0).double().mean(0)
    return bool(((positive > 0.2) & (positive < 0.8)).any())


@st.composite
def chains(draw):
    depth = draw(st.integers(1, 4))
    widths = draw(st.lists(st.integers(4, 7), min_size=depth, max_size=depth))
    functions = st.sampled_from(["leaky", "abs", "relu", "squared_relu"])
    between = draw(st.lists(functions, min_size=depth - 1, max_size=depth - 1))
    return widths, between, draw(st.sampled_from(["layer", "rms", "batch"])), draw(st.integers(0, depth - 1))


@settings(max_examples=24 if settings.default.derandomize else 300)
@given(chains())
def test_a_planted_bias_removes_exactly_the_groups_it_should(chain):
    widths, functions, norm, place = chain
    depth = len(widths)
    weights = [f"layers.{i}.weight" for i in range(depth)]
    sizes = [a * b for a, b in zip([4, *widths], widths, strict=False)]
    head = {"head.weight", "head.bias"}

    def search(bias):
        found = find_symmetries(made(lambda: Chain(*chain, bias)), data(48, 4))
        return found, {frozenset(group) for group in found.groups}

    every = {frozenset([name]) for name in weights}
    found, groups = search("none")
    assert groups == every
    assert found.dimension == depth
    assert set(found.fixed) == head

    if norm == "batch" and place == depth - 1:  # batch norm takes the bias away: nothing is planted
        for bias, idle in (("frozen", ()), ("trainable", ("bias",))):
            found, groups = search(bias)
            assert groups == every
            assert found.without_effect == idle
        return

    # Frozen, the bias forbids any factor where it is added: the layers up to it can only make good for each other.
    assume(norm != "batch" or bends(chain))
    behind = {frozenset([name]) for name in weights[place + 1 :]}
    found, groups = search("frozen")
    assert groups == behind
    assert found.dimension == depth - 1
    assert set(found.fixed) == head | ({weights[0]} if place == 0 else set())

    # Trainable, it scales along, with the degree that the weight has there; only a degree of 1 makes a group, and one
    # bias is in one group.
    found, groups = search("trainable")
    degrees = [2 ** functions[i:place].count("squared_relu") for i in range(place + 1)]
    partner = max((i for i in range(place + 1) if degrees[i] == 1), key=lambda i: (sizes[i], i))
    assert groups == behind | {frozenset([weights[partner], "bias"])}
    assert found.dimension == depth
    assert set(found.fixed) == head
    for i, degree in enumerate(degrees):
        vector = np.zeros(len(found.names))
        vector[[found.names.index(weights[i]), found.names.index("bias")]] = 1, degree
        assert np.linalg.matrix_rank(np.concatenate([found.generators, vector[None]]), tol=1e-9) == depth


def test_a_bias_shared_between_two_places_ends_both_groups():
    """The bias cannot have two degrees: what was {first}, {second} with a bias each is one group less."""

    class Twice(nn.Module):
        def __init__(self, *, shared):
            super().__init__()
            self.first, self.second = nn.Linear(4, 5, bias=False), nn.Linear(5, 5, bias=False)
            self.a = nn.Parameter(torch.randn(5))
            self.b = self.a if shared else nn.Parameter(torch.randn(5))
            self.head = nn.Linear(5, CLASSES)

        def forward(self, x):
            x = F.layer_norm(F.relu(self.first(x) + self.a), (5,))
            return self.head(F.layer_norm(self.second(x) + self.b, (5,)))

    apart = find_symmetries(made(lambda: Twice(shared=False)), data(8, 4))
    assert set(map(frozenset, apart.groups)) == {frozenset({"first.weight", "a"}), frozenset({"second.weight", "b"})}
    together = find_symmetries(made(lambda: Twice(shared=True)), data(8, 4))
    assert set(map(frozenset, together.groups)) == {frozenset({"first.weight", "a", "second.weight"})}
    assert together.dimension == 1
