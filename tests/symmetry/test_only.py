"""Which of the scale-invariant tensors form the sphere: convolutions and matrices only, globs, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import onsphere


class Affine(nn.Module):
    """Two convolutions before affine norms; the first norm's pair is scale-invariant too, the second one's is not."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, eps=1e-12)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-12)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


CONVOLUTIONS, PAIR = ["conv1.weight", "conv2.weight"], ["bn1.weight", "bn1.bias"]


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def images(n=12):
    return torch.randn(n, 1, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def stream():
    """A stream with a bias: weight and bias are scale-invariant only together."""
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3))


def named(groups):
    return [(group["sphere"], sorted(group["names"])) for group in groups]


@pytest.mark.parametrize(
    ("only", "spheres", "on"),
    [
        (None, "joint", [("joint", CONVOLUTIONS + PAIR)]),
        ("weights", "joint", [("joint", CONVOLUTIONS)]),
        ("conv*", "groups", [("joint", ["conv1.weight"]), ("joint", ["conv2.weight"])]),
        (["conv2.*", "bn1.*"], "joint", [("joint", ["conv2.weight", *PAIR])]),
        (["conv2.*", "bn1.*"], "rows", [("rows", ["conv2.weight"]), ("joint", PAIR)]),
        ("weights", "rows", [("rows", CONVOLUTIONS)]),
    ],
)
def test_the_sphere_holds_what_was_picked_and_the_rest_is_ordinary(only, spheres, on):
    model = seeded(Affine)
    groups = onsphere.sphere_groups(model, images(), spheres=spheres, only=only)
    inside = {name for _, names in on for name in names}
    rest = [name for name, _ in model.named_parameters() if name not in inside]
    assert named(groups) == [*((kind, sorted(names)) for kind, names in on), (None, sorted(rest))]
    twin = onsphere.find_symmetries(seeded(Affine), images(), rows=True)
    assert named(twin.groups_for(model, spheres=spheres, only=only)) == named(groups)


@pytest.mark.parametrize(
    ("make", "shape", "only", "spheres", "said"),
    [
        (
            Affine,
            None,
            "bn1.weight",
            "joint",
            "'bn1.weight' picks bn1.weight without bn1.bias, and these are scale-inv",
        ),
        (Affine, None, ["conv*", "bn1.bias"], "groups", "picks bn1.bias without bn1.weight"),
        (Affine, None, "head.*", "joint", "picks none of the 4 scale-invariant tensors (conv1.weight, "),
        (
            stream,
            (16, 6),
            "weights",
            "joint",
            "only='weights' picks 0.weight without 0.bias, and these are scale-invari",
        ),
    ],
)
def test_a_part_of_what_is_invariant_only_together_is_refused(make, shape, only, spheres, said):
    """As it must be: multiplying the picked tensors alone changes the output."""
    x = images() if shape is None else torch.randn(shape, dtype=torch.float64)
    model = seeded(make)
    with pytest.raises(onsphere.SymmetryError) as found:
        onsphere.sphere_groups(model, x, spheres=spheres, only=only)
    with pytest.raises(onsphere.SymmetryError) as of_twin:
        onsphere.find_symmetries(model, x).groups_for(model, spheres=spheres, only=only)
    assert said in str(found.value) and said in str(of_twin.value)
    assert "\n" not in str(found.value)


def test_what_is_no_choice_is_refused():
    for wrong, kind, said in ((3, TypeError, "only is 3; it must be"), ([], ValueError, "names no tensor")):
        with pytest.raises(kind, match=said):
            onsphere.sphere_groups(seeded(Affine), images(), only=wrong)
        with pytest.raises(kind, match=said):
            onsphere.Monitor(torch.optim.SGD(seeded(Affine).parameters(), 0.1), only=wrong)


def test_training_is_that_of_the_published_recipe():
    """SGD on everything with two learning rates, and after each step the convolutions put back to their first norm."""
    elr, others, x = 3e-3, 0.05, images()
    y = torch.arange(len(x)) % 3
    model, plain = seeded(Affine), seeded(Affine)
    groups = onsphere.sphere_groups(model, x, only="weights")
    groups[1]["lr"] = others
    optimizer = onsphere.SphereSGD(groups, lr=elr)
    convolutions = [plain.conv1.weight, plain.conv2.weight]
    norm = sum(float(w.detach().square().sum()) for w in convolutions) ** 0.5
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        gradients = torch.autograd.grad(cross_entropy(plain(x), y), list(plain.parameters()))
        with torch.no_grad():
            for p, g in zip(plain.parameters(), gradients, strict=True):
                p -= (elr * norm**2 if any(p is w for w in convolutions) else others) * g
            factor = norm / sum(float(w.square().sum()) for w in convolutions) ** 0.5
            for w in convolutions:
                w *= factor
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)
    whole = onsphere.sphere_groups(seeded(Affine), x)[0]["params"]
    assert sum(float(p.detach().square().sum()) for p in whole) == pytest.approx(
        norm**2 + 4
    )  # gains of one: another ELR


def test_the_monitor_reads_the_elr_of_what_counts():
    x, model = images(), seeded(Affine)
    y = torch.arange(len(x)) % 3
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    monitor = onsphere.Monitor(optimizer, onsphere.sphere_groups(model, x), every=1, only="weights", model=model)
    norms = []
    for _ in range(3):
        norms.append([float(torch.cat([p.detach().flatten() for p in ps]).norm()) for ps in parts(model)])
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    read = {name: monitor.readings(select=name) for name in ("sphere", "rest")}
    assert read["sphere"]["norm"] == pytest.approx([one for one, _ in norms], rel=1e-12)
    assert read["rest"]["norm"] == pytest.approx([other for _, other in norms], rel=1e-12)
    assert read["sphere"]["elr"][0] == pytest.approx(0.1 / norms[0][0] ** 2, rel=1e-9)  # the buffer is the gradient yet
    assert read["sphere"]["noether_residual"].max() < 1e-9
    assert "sphere: 2 tensors" in repr(monitor) and "rest: 6 tensors" in repr(monitor)


def parts(model):
    inside = [p for name, p in model.named_parameters() if name in CONVOLUTIONS]
    return inside, [p for name, p in model.named_parameters() if name not in CONVOLUTIONS]


def test_a_monitor_with_a_choice_that_cannot_be_is_refused():
    model = seeded(Affine)
    groups = onsphere.sphere_groups(model, images())
    with pytest.raises(ValueError, match="leaves no tensor on a sphere"):
        onsphere.Monitor(torch.optim.SGD(model.parameters(), 0.1), groups, only="head*")
    with pytest.raises(ValueError, match="splits a sphere that an optimizer keeps"):
        onsphere.Monitor(onsphere.SphereSGD(groups, lr=0.1), groups, only="weights")
    onsphere.Monitor(onsphere.SphereSGD(groups[:1], lr=0.1), groups[:1], only="*").detach()
