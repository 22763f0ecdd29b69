"""Small networks and data shared by the tests of the landscape."""

from functools import cache

import torch
from torch import nn

import onsphere
from onsphere.lab.models.mlp import mlp

CROSS_ENTROPY = nn.functional.cross_entropy


def network(seed, widths=(8, 8)):
    """A scale-invariant perceptron with batch norm, 6 inputs and 3 classes, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp((6,), 3, widths=widths).double()


X = torch.randn(60, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
Y = (X @ torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))).argmax(1)
BATCHES = [(X[:40], Y[:40]), (X[40:], Y[40:])]


@cache
def digits():
    """Images [1797, 64] in about [-1, 1.4], classes [1797]."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32).sub(8).div(6), torch.tensor(y)


@cache
def trained(seed, steps=200, width=64):
    """A perceptron trained on the sphere on the first 1,300 digits; the frozen heads of all seeds are alike."""
    x, y = digits()
    with torch.random.fork_rng():
        torch.manual_seed(1000)
        head = mlp((64,), 10, widths=(width, width)).head.weight.detach()
        torch.manual_seed(seed)
        model = mlp((64,), 10, widths=(width, width))
        with torch.no_grad():
            model.head.weight.copy_(head)
        optimizer = onsphere.SphereSGD(onsphere.sphere_groups(model, x[:64]), lr=3e-3)
        for _ in range(steps):
            rows = torch.randint(1300, (128,))
            optimizer.zero_grad()
            CROSS_ENTROPY(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


class Direction(nn.Module):
    """Returns the direction of its one weight, w / |w|, for every example."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(w, dtype=torch.float64))

    def forward(self, x):
        return (self.w / self.w.norm()).expand(len(x), -1)
