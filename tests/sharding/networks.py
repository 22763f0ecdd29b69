"""Networks with norms, and the ways in which they are spread over processes."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional

import onsphere


class Attention(nn.Module):
    """Queries and keys of unit size, so that their projections are scale-invariant, by head."""

    def __init__(self, width, heads):
        super().__init__()
        self.size = width // heads
        self.q, self.k = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.v, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x):
        q, k, v = (p(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = (functional.rms_norm(y, (self.size,), eps=1e-12) for y in (q, k))
        return self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """One block; a head without a norm ahead of it."""

    def __init__(self, width=12, heads=4, classes=5):
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(1))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x).mean(1)


class Perceptron(nn.Module):
    """Layers with biases ahead of layer norms, of sizes that do not divide by the number of processes."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 11), nn.Linear(11, 7), nn.Linear(7, 3)])
        self.norms = nn.ModuleList(nn.LayerNorm(n, eps=1e-12, elementwise_affine=False) for n in (11, 7, 3))
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x)).tanh()
        return self.head(x).mean(1)


NETWORKS = {"layer norm": Perceptron, "transformer": Transformer}


def network(name, dtype):
    torch.manual_seed(0)
    return NETWORKS[name]().to(dtype)


def data(dtype, steps):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(steps, 8, 4, 6, dtype=torch.float64, generator=random).to(dtype)
    y = torch.randint(5, (steps, 8), generator=random)
    return x, y


def groups_of(model, spheres, dtype):
    """Groups from a search; names are those of the plain model."""
    return onsphere.sphere_groups(model, data(dtype, 1)[0][0], spheres=spheres)


def _units(model):
    return model.layers if isinstance(model, Perceptron) else model.blocks


def _fsdp(model, mesh):
    for unit in _units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _tensor_parallel(model, mesh):
    for block in model.blocks:
        columns = dict.fromkeys(("attention.q", "attention.k", "attention.v", "up"), ColwiseParallel())
        parallelize_module(block, mesh, columns | {"attention.o": RowwiseParallel(), "down": RowwiseParallel()})


def spread(model, how):
    """Spread a model over the processes; which share of a batch this one takes: (its number, of how many)."""
    if how == "fsdp":
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        _fsdp(model, mesh)
        return model, (mesh.get_local_rank(), mesh.size())
    if how == "hsdp":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        _fsdp(model, mesh)
        return model, (torch.distributed.get_rank(), 4)
    if how == "tp":
        _tensor_parallel(model, init_device_mesh("cpu", (2,), mesh_dim_names=("tp",)))
        return model, (0, 1)
    if how == "fsdp x tp":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        _tensor_parallel(model, mesh["tp"])
        _fsdp(model, mesh["dp"])
        return model, (mesh["dp"].get_local_rank(), 2)
    assert how == "ddp"
    wrapped = nn.parallel.DistributedDataParallel(model)
    return wrapped, (torch.distributed.get_rank(), torch.distributed.get_world_size())


def trained(model, optimizer, share, dtype, steps, *, of=slice(None), watch=None):
    """Train on this process's share of every batch (or those ``of`` all); shares' losses average to the batch's."""
    number, shares = share
    for step, (x, y) in enumerate(list(zip(*data(dtype, steps), strict=True))[of]):
        x, y = x.chunk(shares)[number], y.chunk(shares)[number]
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if watch is not None:
            watch(step)


def whole(model):
    """All parameters by name, whole, on every process."""
    found = {}
    for name, p in model.named_parameters():
        p = p.detach()
        found[name.removeprefix("module.")] = (p.full_tensor() if hasattr(p, "full_tensor") else p).clone()
    return found


# -- optimisers ------------------------------------------------------------------------------------------------------

#: What is compared: which spheres, which optimiser and its options.
RECIPES = {
    "SphereSGD with momentum": ("joint", onsphere.SphereSGD, {"lr": 0.02, "momentum": 0.9}),
    "SphereSGD on great circles": ("joint", onsphere.SphereSGD, {"lr": 0.02, "momentum": 0.9, "geodesic": True}),
    "AdamW, kept": ("joint", torch.optim.AdamW, {"lr": 0.003}),
    "SphereSGD, a sphere a group": ("groups", onsphere.SphereSGD, {"lr": 0.002}),
    "SGD, kept, a sphere a group": ("groups", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "SphereSGD, rows": ("rows", onsphere.SphereSGD, {"lr": 0.02}),
    "SphereSGD, rows, on great circles": ("rows", onsphere.SphereSGD, {"lr": 0.02, "momentum": 0.9, "geodesic": True}),
    "AdamW, kept, rows": ("rows", torch.optim.AdamW, {"lr": 0.003}),
    "AdamW at an angle": ("both", torch.optim.AdamW, {"lr": 0.01, "kept": {"angle": True}}),
    "SGD, tangent and braked": (
        "both",
        torch.optim.SGD,
        {"lr": 0.1, "kept": {"tangent": True, "policy": onsphere.optim.Brake(0.5)}},
    ),
    "SphereSGD, rows and a joint sphere": ("both", onsphere.SphereSGD, {"lr": 0.002, "momentum": 0.9}),
}


def named_groups(name, spheres):
    """(names, kind of sphere) of a network's groups; as rows come tensors that are invariant as a whole."""
    model = network(name, torch.float64)
    groups = groups_of(model, "groups" if spheres == "groups" else "joint", torch.float64)
    found = [(list(group["names"]), group["sphere"]) for group in groups]
    if spheres in ("joint", "groups"):
        return found
    parameters = dict(model.named_parameters())
    (invariant, _), (rest, _) = found
    joint = [n for n in rest if spheres == "both" and parameters[n].dim() > 1 and "head" not in n]
    joint = joint or rest[:1]
    return [(invariant, "rows"), (joint, "joint"), ([n for n in rest if n not in joint], None)]


def grouped(model, named):
    """Param groups of a model from names, whatever wraps it."""
    parameters = {name.removeprefix("module."): p for name, p in model.named_parameters()}
    return [{"params": [parameters[n] for n in names], "names": names, "sphere": kind} for names, kind in named]


def optimizer_of(groups, maker, options):
    if maker is onsphere.SphereSGD:
        return maker(groups, other_lr=0.05, **options)
    kept = options.get("kept", {})
    options = {name: value for name, value in options.items() if name != "kept"}
    return onsphere.keep_on_sphere(maker([{"params": list(g["params"])} for g in groups], **options), groups, **kept)


def trained_network(name, how, recipe, named, dtype, steps=20):
    """Weights after training, of a network that is spread as ``how`` says (None: not), on every process."""
    _, maker, options = RECIPES[recipe]
    model = network(name, dtype)
    model, share = (model, (0, 1)) if how is None else spread(model, how)
    optimizer = optimizer_of(grouped(model, named), maker, options)
    trained(model, optimizer, share, dtype, steps)
    return whole(model)
