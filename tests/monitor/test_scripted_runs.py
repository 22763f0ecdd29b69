"""Runs with known answers, each on a language model and a perceptron: what is to be found is, and no false alarm.

Every run trains in earnest. What a run is expected to say is a set of kinds; of alarms and warnings no other may come.
"""

import math
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
from scripted_nets import GPT, NETS, loss_of, made
from torch import nn

from onsphere import Monitor, SphereSGD, correct_decay, keep_on_sphere, norm_groups, sphere_groups


def adamw(lr=1e-3, decay=0.1, eps=1e-8):
    return lambda model, groups: torch.optim.AdamW(model.parameters(), lr, weight_decay=decay, eps=eps, fused=True)


def sgd(lr, decay=0.0, momentum=0.0, dampening=0.0):
    return lambda model, groups: torch.optim.SGD(model.parameters(), lr, momentum, dampening, decay)


def split(model, chosen, lr, other_lr, decay=0.1):
    """AdamW with another lr for the tensors whose names are chosen."""
    named = dict(model.named_parameters())
    mine = [p for name, p in named.items() if chosen(name)]
    rest = [p for name, p in named.items() if not chosen(name)]
    parts = [{"params": rest}, {"params": mine, "lr": other_lr}]
    return torch.optim.AdamW(parts, lr, weight_decay=decay, fused=True)


def settling(model, groups):
    """Settings under which norms come to rest within the run."""
    if isinstance(model, GPT):
        return torch.optim.AdamW(model.parameters(), 2e-2, weight_decay=0.5, fused=True)
    return torch.optim.SGD(model.parameters(), 0.01, weight_decay=0.05, momentum=0.9)


def jumping(model, groups):
    """Settings under which decay raises the ELR until training is thrown off."""
    return torch.optim.SGD(model.parameters(), 1.0, weight_decay=3e-3 if isinstance(model, GPT) else 1e-2)


def one_layer(name):
    return name in ("layers.1.q.weight", "layers.1.weight")


def chosen_spheres(model, groups):
    return keep_on_sphere(torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0, fused=True), groups)


def two_optimizers(model, groups):
    hidden = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name and "head" not in name]
    rest = [p for p in model.parameters() if all(p is not q for q in hidden)]
    return [torch.optim.Muon(hidden, 1e-2, weight_decay=0.1), torch.optim.AdamW(rest, 1e-3, weight_decay=0.1)]


@dataclass(frozen=True)
class Script:
    """What is trained, and what the monitor has to say of it: kinds of findings, and a word of one of them."""

    expected: set = field(default_factory=set)
    make: object = adamw()
    steps: int = 105
    lr: object = staticmethod(lambda part: 1.0)
    groups: str | None = "joint"
    every: int = 1
    micro: int = 1
    clip: float | None = None
    dtype: torch.dtype = torch.float32
    before: object = None  # called with the model ahead of everything
    disturb: object = None  # called with step, model and optimiser ahead of a step
    says: str = ""
    silent: bool = False  # nothing but what is expected, information included


def warm_up(part):
    return min(part / 0.5 + 0.01, 1.0)


def cosine(part):
    return min(part / 0.1 + 0.02, 1.0) * (0.02 + 0.98 * (1 + math.cos(math.pi * part)) / 2)


def to_zero(part):
    return max(1.0 - 1.1 * part, 0.0)


def decoupled(model, groups):
    """AdamW under another name, settling."""
    return torch.optim.Adam(model.parameters(), 2e-2, weight_decay=0.5, decoupled_weight_decay=True, fused=True)


def tie(model):
    if isinstance(model, GPT):
        model.head.weight = model.embed.weight
    else:
        model.layers[2].weight = model.layers[1].weight


def poison(step, model, optimizer):
    if step == 100:
        model.layers[0].get_parameter("weight" if hasattr(model.layers[0], "weight") else "v.weight").grad[0, 0] = (
            math.nan
        )


def freeze_one(model):
    model.get_parameter("layers.0.o.weight" if isinstance(model, GPT) else "layers.1.weight").requires_grad_(False)


def add_a_group(step, model, optimizer):
    if step == 50:
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})


def wide_eps(model):
    for module in model.modules():
        if isinstance(module, nn.RMSNorm | nn.LayerNorm):
            module.eps = 1e-3
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.3 if p.dim() == 2 else 1.0)


def shrink(name, by):
    def change(model):
        with torch.no_grad():
            for own, p in model.named_parameters():
                if own == name:
                    p.mul_(by)

    return change


LITTLE = {"time scale"}
SCRIPTS = {
    "settled": Script({"equilibrium"}, settling, 400, says="at equilibrium, decay and growth balance"),
    "not settled": Script({"equilibrium"}, adamw(3e-3, 1.0), 200, says="on its way to equilibrium"),
    "decay too slow for the run": Script(
        LITTLE, adamw(1e-3, 0.1), says="adds up to 0.011 over the 105 steps", silent=True
    ),
    "no decay": Script(set(), adamw(1e-3, 0.0), silent=True),
    "no decay, and the norm grows": Script(
        {"schedule"}, adamw(3e-2, 0.0), 250, says="the lr did not change and the ELR"
    ),
    "one layer at ten times the lr": Script(
        {"rotation"} | LITTLE, lambda m, g: split(m, one_layer, 1e-3, 1e-2), says="turns faster than the rest"
    ),
    "one layer at a twentieth of the lr": Script(
        {"rotation"} | LITTLE, lambda m, g: split(m, one_layer, 1e-3, 5e-5), says="turns slower than the rest"
    ),
    "gains at ten times the lr": Script(
        LITTLE, lambda m, g: split(m, lambda name: "norm" in name, 1e-3, 1e-2), silent=True
    ),
    "warm-up": Script(LITTLE, lr=warm_up, silent=True),
    "cosine end": Script(LITTLE, lr=cosine, silent=True),
    "spheres by choice": Script({"spheres by choice"}, chosen_spheres, groups="chosen", silent=True),
    "kept on exact spheres": Script(
        set(),
        lambda m, g: keep_on_sphere(torch.optim.AdamW(m.parameters(), 1e-3, weight_decay=0, fused=True), g),
        silent=True,
    ),
    "kept at an angle": Script(
        set(),
        lambda m, g: keep_on_sphere(torch.optim.AdamW(g[:1], 1e-2, weight_decay=0), g[:1], angle=True),
        groups="spheres",
        silent=True,
    ),
    "SphereSGD": Script(set(), lambda m, g: SphereSGD(g[:1], 1e-3), groups="spheres", silent=True),
    "bf16 swallows the steps": Script({"precision"}, sgd(1e-5), dtype=torch.bfloat16, says="rounding swallows"),
    "bf16 with steps that arrive": Script(set(), sgd(0.3), dtype=torch.bfloat16),
    "the ELR rises until it jumps": Script({"jump"}, jumping, 720, says="lower the weight decay"),
    "lr is 0": Script({"lr"}, adamw(0.0, 0.1), says="the learning rate is 0"),
    "a gradient that is not finite": Script({"non-finite"}, disturb=poison, says="the first at step 100"),
    "a layer frozen": Script(
        {"invariance"}, adamw(1e-3, 0.0), before=freeze_one, says="train or freeze a group as a whole"
    ),
    "a group that is not invariant": Script(
        {"invariance"}, adamw(1e-3, 0.0), groups="wrong", says="not scale-invariant"
    ),
    "an eps that shows": Script({"invariance"}, adamw(1e-4, 0.0), before=wide_eps, says="a smaller eps"),
    "spheres chosen and not kept": Script(
        {"invariance"}, adamw(1e-3, 0.0), groups="chosen", says="keep the weights on them", silent=True
    ),
    "a layer frozen, and no groups": Script(
        {"no gradient"}, adamw(1e-3, 0.0), before=freeze_one, groups=None, says="no gradient at any of", silent=True
    ),
    "eps above the gradients": Script({"eps"}, adamw(1e-3, 0.0, 1.0), says="lower eps", silent=True),
    "a schedule that ends at zero": Script({"schedule"}, adamw(0.1, 0.0), 150, to_zero, says="and the ELR fell to"),
    "Adam, whose decay is decoupled": Script({"equilibrium"}, decoupled, 250, says="rad a step, 0.033 at equilibrium"),
    "tied weights": Script(LITTLE, before=tie, silent=True),
    "dampened momentum": Script(LITTLE, sgd(0.01, 0.05, 0.9, 0.9), silent=True),
    "momentum": Script({"equilibrium"}, sgd(0.01, 0.05, 0.9), 200),
    "clipped gradients": Script(LITTLE, clip=0.05, silent=True),
    "accumulated gradients": Script(LITTLE, micro=2, silent=True),
    "sparse reading": Script(LITTLE, every=5, silent=True),
    "a param group added": Script({"param groups"} | LITTLE, disturb=add_a_group, says="attach a new monitor"),
    "no groups at all": Script(LITTLE, groups=None, silent=True),
    "Adam, whose decay is scaled": Script(
        set(), lambda m, g: torch.optim.Adam(m.parameters(), 1e-3, weight_decay=1e-3, fused=True), silent=True
    ),
    "Muon beside AdamW": Script(LITTLE, two_optimizers, groups="joint"),
    "corrected decay": Script(
        LITTLE,
        lambda m, g: correct_decay(torch.optim.AdamW(g, 1e-3, weight_decay=0.1, fused=True), g, peak_lr=1e-3),
        lr=cosine,
    ),
}


@cache
def names_of(kind, how, tied):
    """The groups of a network as it should be, with names in the place of tensors: the search is the dear part."""
    model = made(kind)
    if tied:
        tie(model)
    x, _ = model.batch(torch.Generator().manual_seed(9))
    found = norm_groups(model, x) if how == "chosen" else sphere_groups(model, x)
    return [{key: value for key, value in group.items() if key != "params"} for group in found]


def grouped(model, how, tied=False):
    """Groups of a model: spheres that were found, or norm_groups'."""
    named = dict(model.named_parameters())
    plan = names_of(type(model).__name__, how, tied)
    return [group | {"params": [named[name] for name in group["names"]]} for group in plan]


def run(kind, script):
    """The monitor of a run."""
    model = made(kind)
    if script.before:
        script.before(model)
    groups = None
    if script.groups == "wrong":
        groups = [{"params": [model.head.weight], "names": ["head.weight"], "sphere": "joint"}]
    elif script.groups:
        groups = grouped(model, "chosen" if script.groups == "chosen" else "found", tied=script.before is tie)
    model.to(script.dtype)
    optimizer = script.make(model, groups)
    watched = groups if script.groups in ("joint", "wrong", "chosen") else None
    monitor = Monitor(optimizer, watched, every=script.every, model=model)
    several = optimizer if isinstance(optimizer, list) else [optimizer]
    rates = [[group["lr"] for group in one.param_groups] for one in several]
    generator = torch.Generator().manual_seed(1)
    for step in range(script.steps):
        model.zero_grad()
        for _ in range(script.micro):
            (loss_of(model, *model.batch(generator)) / script.micro).backward()
        if script.clip:
            nn.utils.clip_grad_norm_(model.parameters(), script.clip)
        if script.disturb:
            script.disturb(step, model, several[0])
        for one, initial in zip(several, rates, strict=True):
            for group, lr in zip(one.param_groups, initial, strict=False):
                group["lr"] = lr * script.lr(step / script.steps)
            one.step()
    return monitor


PAGE = (Path(__file__).parents[2] / "docs" / "monitor.md").read_text(encoding="utf-8")
ROWS = dict(
    re.findall(r"^\| ([^|]+) \| (.*) \|$", PAGE.split("\n| run | what it says |\n|---|---|\n")[1], re.MULTILINE)
)


def without_numbers(sentence):
    """What a sentence says on any machine."""
    return re.sub(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?", "#", sentence)


def test_the_page_quotes_every_run_in_this_order():
    assert list(ROWS) == list(SCRIPTS)


def check_quotes(name, found):
    """The page's row holds sentences of the run, but for the numbers."""
    if name != "the ELR rises until it jumps":  # how often is another thing on another machine
        for quoted in re.findall("“(.*?)”", ROWS[name]):
            assert without_numbers(quoted) in {without_numbers(one.message) for one in found}, quoted
    if ROWS[name] == "nothing":
        assert not found


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_there_is_found_and_nothing_else(kind, name):
    script = SCRIPTS[name]
    found = run(kind, script).diagnose()
    told = [f"{one.severity} {one.kind}: {one.message}" for one in found]
    assert script.expected <= {one.kind for one in found}, told
    loud = {one.kind for one in found if script.silent or one.severity != "info"}
    assert loud <= script.expected, told
    assert any(script.says in one.message for one in found) or not script.says, told
    assert all(one.advice and one.message.endswith(one.advice) for one in found), told
    if kind == "GPT":
        check_quotes(name, found)
    severities = [("alarm", "warning", "info").index(one.severity) for one in found]
    assert severities == sorted(severities)
