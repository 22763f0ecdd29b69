"""Weight decay in proportion to the learning rate, for scale-invariant weights alone."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

import onsphere


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(6, 8), (8, 4), (4,)]
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]


def made(maker, params, **options):
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    return maker(groups, **options), [{"params": params[:2], "sphere": "joint"}, {"params": params[2:]}]


def set_gradients(params, step):
    generator = torch.Generator().manual_seed(step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)


def test_it_is_adamc_written_by_hand():
    """Defazio 2025, algorithm 2: decay lr² λ / lr_max on normalised layers, lr λ elsewhere."""
    params, hand = weights(), [p.detach().clone() for p in weights()]
    optimizer, groups = made(torch.optim.AdamW, params, lr=0.05, weight_decay=0.3)
    scheduler = CosineAnnealingLR(optimizer, 10)
    assert onsphere.correct_decay(optimizer, groups) is optimizer
    firsts, seconds = [torch.zeros_like(p) for p in hand], [torch.zeros_like(p) for p in hand]
    for step in range(1, 11):
        lr = optimizer.param_groups[0]["lr"]
        set_gradients(params, step)
        for i, p in enumerate(params):
            hand[i] -= lr * 0.3 * (lr / 0.05 if i < 2 else 1.0) * hand[i]
            firsts[i] = 0.9 * firsts[i] + 0.1 * p.grad
            seconds[i] = 0.999 * seconds[i] + 0.001 * p.grad**2
            root = (seconds[i] / (1 - 0.999**step)).sqrt() + 1e-8
            hand[i] -= lr * firsts[i] / (1 - 0.9**step) / root
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close([p.detach() for p in params], hand, rtol=1e-12, atol=1e-13)
    assert optimizer.param_groups[1]["weight_decay"] == 0.3


def test_the_ratio_of_gradient_and_weight_stays_where_plain_decay_lets_it_grow():
    """Scale-invariant weights under noise: at equilibrium |gradient| / |weights| = sqrt(2 decay / lr)."""
    ratios = {}
    for corrected in (False, True):
        weight = nn.Parameter(torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=0.5, weight_decay=0.02)
        if corrected:
            onsphere.correct_decay(optimizer, [{"params": [weight], "sphere": "joint"}])
        noise, found = torch.Generator().manual_seed(1), []
        for step in range(3000):
            optimizer.param_groups[0]["lr"] = 0.5 if step < 1000 else 0.1
            x = weight.detach()
            pull = torch.randn(400, generator=noise, dtype=torch.float64)
            tangent = pull - x * (x @ pull) / (x @ x)
            weight.grad = 20 * tangent / tangent.norm() / x.norm()
            found.append(float(weight.grad.norm() / x.norm()))
            optimizer.step()
        ratios[corrected] = sum(found[-500:]) / sum(found[500:1000])
    assert ratios[False] == pytest.approx(5**0.5, rel=0.05)
    assert ratios[True] == pytest.approx(1.0, rel=0.05)


def test_the_peak_is_the_schedules():
    params = weights()
    optimizer, groups = made(torch.optim.AdamW, params, lr=1e-4, weight_decay=0.2)
    OneCycleLR(optimizer, max_lr=0.1, total_steps=50)
    onsphere.correct_decay(optimizer, groups)
    set_gradients(params, 0)
    optimizer.step()
    lr = optimizer.param_groups[0]["lr"]
    assert lr < 0.05
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.2 * lr / 0.1)


def test_a_checkpoint_goes_on():
    whole, half = weights(), weights()
    runs = []
    for params in (whole, half):
        optimizer, groups = made(torch.optim.AdamW, params, lr=0.1, weight_decay=0.3)
        scheduler = CosineAnnealingLR(optimizer, 8)
        onsphere.correct_decay(optimizer, groups)
        runs.append((params, optimizer, scheduler))

    def train(params, optimizer, scheduler, steps):
        for step in steps:
            set_gradients(params, step)
            optimizer.step()
            scheduler.step()

    train(*runs[0], range(8))
    train(*runs[1], range(4))
    saved, times = copy.deepcopy(runs[1][1].state_dict()), runs[1][2].state_dict()
    fresh = [nn.Parameter(p.detach().clone()) for p in half]
    optimizer, groups = made(torch.optim.AdamW, fresh, lr=0.1, weight_decay=0.3)
    scheduler = CosineAnnealingLR(optimizer, 8)
    onsphere.correct_decay(optimizer, groups)
    optimizer.load_state_dict(saved)
    scheduler.load_state_dict(times)
    train(fresh, optimizer, scheduler, range(4, 8))
    torch.testing.assert_close(fresh, whole, rtol=0, atol=0)


def test_it_is_released_and_goes_with_spheres():
    params = weights()
    optimizer, groups = made(torch.optim.AdamW, params, lr=0.1, weight_decay=0.3)
    onsphere.correct_decay(optimizer, groups, peak_lr=0.2)
    onsphere.keep_on_sphere(optimizer, groups)
    set_gradients(params, 0)
    optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.15)
    onsphere.release(optimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3]
    with pytest.raises(ValueError, match="not kept"):
        onsphere.release(optimizer)


def test_what_cannot_be_is_refused():
    params = weights()
    optimizer, groups = made(torch.optim.AdamW, params, lr=0.1, weight_decay=0.3)
    with pytest.raises(ValueError, match="own"):
        onsphere.correct_decay(torch.optim.AdamW(params, 0.1), groups)
    with pytest.raises(ValueError, match="nothing to correct"):
        onsphere.correct_decay(torch.optim.AdamW(params, 0.1, weight_decay=0.0), groups)
    with pytest.raises(ValueError, match="peak of the learning rate is 0"):
        onsphere.correct_decay(optimizer, groups, peak_lr=0.0)
    onsphere.correct_decay(optimizer, groups)
    with pytest.raises(ValueError, match="corrected already"):
        onsphere.correct_decay(optimizer, groups)
    with pytest.raises(TypeError, match="correct_decay was given a list"):
        onsphere.correct_decay([1], groups)
