"""Small float64 networks with and without normalisation, their batches, and what must not change in them."""

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """A block around which the signal also passes unchanged."""

    def __init__(self, width):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x):
        return x + self.block(x)


NETS = {
    "batch_norm": lambda: nn.Sequential(
        *(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, eps=1e-12), nn.Tanh()),
        *(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
    ),
    "layer_norm": lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)),
    "residual": lambda: nn.Sequential(nn.Linear(4, 5), Residual(5), nn.Linear(5, 3)),
}


def net(name, seed=0):
    """A network of that name, the same for the same seed, with running statistics that differ from any batch's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETS[name]().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.1, 0.6)
    return model


def batches_for(name, count, size=16, seed=1):
    """``count`` batches of ``size`` examples with three classes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(size, 4, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()) for x in inputs]


def fingerprint(model):
    """Everything about a model, and torch's random state, that a measurement must leave as it was."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        {name: (t.detach().clone().numpy().tobytes(), t.data_ptr(), t.requires_grad) for name, t in tensors.items()},
        {name: p.grad for name, p in model.named_parameters()},
        [module.training for module in model.modules()],
        torch.get_rng_state().numpy().tobytes(),
    )


LOSSES = {
    "cross_entropy": F.cross_entropy,
    "mse": lambda out, y: F.mse_loss(out, F.one_hot(y, 3).to(out)),
}


def set_mode(model, mode):
    """The flags under which plain torch computes what a mode means."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d) and mode == "train":
            module.train()
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return model


def true_hessian(model, loss, batches, mode, names=None):
    """Double backward, entry by entry, on a copy in plain torch."""
    model = set_mode(model, mode)
    params = [p for n, p in model.named_parameters() if names is None or n in names]
    total = sum(len(y) for _, y in batches)
    value = sum(len(y) / total * loss(model(x), y) for x, y in batches)
    grads = torch.autograd.grad(value, params, create_graph=True)
    gradient = torch.cat([g.reshape(-1) for g in grads])
    rows = [
        torch.autograd.grad(g, params, retain_graph=True, allow_unused=True, materialize_grads=True) for g in gradient
    ]
    return torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows]).detach(), gradient.detach()
