"""What somebody writes who uses the package and checks the types of it (mypy --strict)."""

import torch
from torch import nn

import onsphere
from onsphere.dynamics import equilibrium
from onsphere.monitor import Finding
from onsphere.optim import RegimeSchedule


def train(model: nn.Module, batch: torch.Tensor, steps: int) -> list[Finding]:
    groups = onsphere.sphere_groups(model, batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    monitor = onsphere.Monitor(optimizer, groups, every=1, model=model)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    report: str = monitor.report()
    print(report)
    return monitor.diagnose()


def on_the_sphere(model: nn.Module, batch: torch.Tensor) -> float:
    found: onsphere.Symmetries = onsphere.find_symmetries(model, batch)
    optimizer = onsphere.SphereSGD(onsphere.sphere_groups(model, batch), lr=1e-2)
    schedule = RegimeSchedule(optimizer, start=6e-3, end=1e-3, total_steps=10)
    model(batch).square().mean().backward()
    optimizer.step()
    schedule.step()
    angle: float = equilibrium("adamw", lr=1e-3, weight_decay=0.1).angular_update
    return angle * len(found.groups)


if __name__ == "__main__":
    net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 2))
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    print(len(train(net, inputs, 30)), on_the_sphere(net, inputs))
