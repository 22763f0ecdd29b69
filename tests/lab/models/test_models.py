"""The reference networks against the papers' numbers, and build(): names, paths, seeds, errors."""

import sys

import pytest
import torch
from torch import nn

from onsphere.lab.models import MODELS, SCALE_INVARIANT, ModelError, build, convnet, mlp, resnet18, vgg16, wrn28

CIFAR, FASHION = (3, 32, 32), (1, 28, 28)


def trainable(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in model.parameters() if p.requires_grad]


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in trainable(model))


def joint_norm(model: nn.Module) -> float:
    return float(sum(p.double().square().sum() for p in trainable(model)).sqrt())


@pytest.mark.parametrize(
    ("name", "width", "parameters", "norm"),
    [
        ("convnet", 8, 24_408, 6.32),
        ("convnet", 32, 387_936, 12.65),
        ("convnet", 64, 1_550_016, 17.9),
        ("resnet18", 32, 2_790_240, 28.28),
        ("resnet18", 64, 11_159_232, 40.0),
    ],
)
def test_sizes_and_initial_norms_of_the_papers(name, width, parameters, norm):
    model = build(name, input_shape=CIFAR, classes=10, width=width)
    assert count(model) == parameters
    # the norm is a mean over random draws: within 2 % for one seed
    assert joint_norm(model) == pytest.approx(norm, rel=0.02)


@pytest.mark.parametrize(
    ("factory", "width", "parameters"),
    [
        (vgg16, 64, 15_291_300),
        (vgg16, 16, 3_719 * 16**2 + 909 * 16 + 100),
        (wrn28, 160, 36_755_940),
        (wrn28, 40, 2_315_460),
    ],
)
def test_sizes_of_the_memory_split_families(factory, width, parameters):
    with torch.device("meta"):
        model = factory(CIFAR, 100, width=width)
    assert count(model) == parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["vgg16", "wrn28"])
@pytest.mark.parametrize("shape", [CIFAR, FASHION, (3, 8, 8), (3, 64, 64)])
def test_memory_split_families_take_images_of_any_side(name, shape):
    model = build(name, input_shape=shape, classes=4, width=2)
    assert model(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))).shape == (2, 4)
    # the side changes the poolings and never the parameters
    same = build(name, input_shape=(shape[0], 32, 32), classes=4, width=2)
    assert count(model) == count(same)


def test_vgg_has_no_norm_and_the_wide_resnet_is_the_published_one():
    vgg, wrn = vgg16(CIFAR, 10, width=2, dropout=0.25), wrn28(CIFAR, 10, width=2, dropout=0.1)
    assert [m.p for m in vgg.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]
    assert [m.kernel_size for m in vgg.modules() if isinstance(m, nn.MaxPool2d)] == [2] * 5
    assert not any(isinstance(m, nn.BatchNorm2d) for m in vgg.modules())
    convolutions = [m for m in wrn.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 3 * 4 * 2 + 2
    assert all(m.bias is not None for m in convolutions)
    assert {m.p for m in wrn.modules() if isinstance(m, nn.Dropout)} == {0.1}
    # the stride is on the second convolution of the first block of a stage, and on its shortcut
    first = [stage[0] for stage in wrn.stages]
    assert [(b.conv1.stride[0], b.conv2.stride[0]) for b in first] == [(1, 1), (1, 2), (1, 2)]
    assert [b.shortcut and b.shortcut.stride[0] for b in first] == [None, 2, 2]
    assert (wrn.bn.momentum, wrn.stages[0][0].bn1.momentum, wrn.pool.kernel_size) == (0.9, 0.1, 8)


def test_vgg_starts_as_published():
    model = build("vgg16", input_shape=CIFAR, classes=10, width=16)
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            assert not layer.bias.any()
            # of at least 432 draws
            assert float(layer.weight.detach().std()) == pytest.approx((2 / (9 * layer.out_channels)) ** 0.5, rel=0.12)
    x = torch.randn(32, *CIFAR, generator=torch.Generator().manual_seed(0))
    assert float(model(x).detach().std(0).mean()) > 3e-4  # 1e-7 with PyTorch's default: nothing of the image arrives


def test_the_papers_width_is_the_default():
    assert count(convnet(CIFAR, 10)) == 387_936
    assert count(resnet18(CIFAR, 10)) == 2_790_240
    assert [m.out_features for m in mlp((64,), 10) if isinstance(m, nn.Linear)] == [64, 64, 10]


@pytest.mark.parametrize("name", SCALE_INVARIANT)
@pytest.mark.parametrize("shape", [CIFAR, FASHION, (2, 8, 8), (1, 9, 9), (1, 17, 17)])
def test_structure(name, shape):
    size = {"widths": (6, 5)} if name.endswith("mlp") else {"width": 2}
    model = build(name, input_shape=shape, classes=4, head_norm=3.0, eps=1e-9, **size)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    assert model(x).shape == (3, 4)
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        f"head.{n}" for n, _ in model.head.named_parameters()
    ]
    assert (model.head.bias is not None) == (name == "convnet")
    assert float(model.head.weight.double().norm()) == pytest.approx(3.0, rel=1e-6)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (module.affine, module.eps, module.track_running_stats) == (False, 1e-9, True)
    assert not any(n.endswith("bias") and not n.startswith("head") for n, _ in model.named_parameters())


@pytest.mark.parametrize("name", SCALE_INVARIANT)
def test_all_trainable_weights_are_scale_invariant_together(name):
    size = {"widths": (6, 5)} if name.endswith("mlp") else {"width": 2}
    model = build(name, input_shape=(2, 8, 8), classes=4, **size).double()
    x = torch.randn(6, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = model(x)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.mul_(3)
    assert float((model(x) - before).detach().norm() / before.detach().norm()) < 1e-7


def test_the_residual_stream_is_invariant_jointly_and_not_one_by_one():
    model = resnet18((2, 8, 8), 4, width=2).double()
    x = torch.randn(6, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = model(x)

    def deviation(*names: str) -> float:
        with torch.no_grad():
            for name in names:
                model.get_parameter(name).mul_(2)
            after = model(x)
            for name in names:
                model.get_parameter(name).div_(2)
        return float((after - before).detach().norm() / before.detach().norm())

    stream = [n for n, p in model.named_parameters() if p.requires_grad and "conv1" not in n]
    assert len(stream) == 1 + 8 + 3  # stem, second convolutions, shortcuts
    assert all(deviation(name) > 1e-3 for name in stream)
    assert deviation(*stream) < 1e-7
    first = [n for n, _ in model.named_parameters() if "conv1" in n]
    assert len(first) == 8
    assert all(deviation(name) < 1e-7 for name in first)


def test_the_convnet_pools_after_the_second_third_and_fourth_convolution():
    model = convnet(FASHION, 10, width=2)
    pools = [n for n, m in model.named_children() if isinstance(m, nn.MaxPool2d)]
    assert pools == ["pool2", "pool3", "pool4", "global_pool"]
    assert model.global_pool.kernel_size == 3
    assert convnet(CIFAR, 10, width=2).global_pool.kernel_size == 4


def test_the_seed_decides_the_weights_and_no_random_state_changes():
    state = torch.random.get_rng_state()
    a, b, c = (build("mlp", input_shape=(4,), classes=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for p, q, r in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_dtype_decides_nothing_and_stays(default):
    options = {name: {"widths": (3,)} for name in ("mlp", "layer-norm-mlp", "plain-mlp")}
    for name in MODELS:
        expected = build(name, input_shape=(1, 8, 8), classes=2, seed=3, **options.get(name, {"width": 1}))
        before = torch.get_default_dtype()
        torch.set_default_dtype(default)
        try:
            found = build(name, input_shape=(1, 8, 8), classes=2, seed=3, **options.get(name, {"width": 1}))
            assert torch.get_default_dtype() == default
            with pytest.raises(ModelError):
                build("mlp", input_shape=(8,), classes=2, widths=(0,))
            assert torch.get_default_dtype() == default
        finally:
            torch.set_default_dtype(before)
        for (key, a), (_, b) in zip(found.state_dict().items(), expected.state_dict().items(), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b), (name, key)


def factory(input_shape, classes, *, widths=(2,), colour="red"):
    model = nn.Linear(input_shape[0], classes)
    model.options = (widths, colour)
    return model


def test_a_callable_gets_the_arguments_it_names():
    model = build(factory, input_shape=(4,), classes=2)
    assert model.options == ((2,), "red")
    assert build(factory, input_shape=[4], classes=2, widths=[3, 5]).options == ((3, 5), "red")
    seen = {}

    def everything(**arguments):
        seen.update(arguments)
        return nn.Identity()

    build(everything, input_shape=(4,), classes=2, width=3, head_norm=5.0, eps=1e-6)
    assert seen == {"input_shape": (4,), "classes": 2, "width": 3, "head_norm": 5.0, "eps": 1e-6}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    (tmp_path / "my_own_nets.py").write_text(
        "from torch import nn\n"
        "number = 3\n"
        "instance = nn.Identity()\n"
        "def tiny(input_shape, classes, width=1): return nn.Linear(input_shape[0], classes * width)\n"
        "def nothing(): return None\n"
        "def demanding(input_shape, depth): return nn.Identity()\n"
        "class Nets:\n"
        "    @staticmethod\n"
        "    def small(classes): return nn.Linear(classes, classes)\n"
    )
    (tmp_path / "my_broken_nets.py").write_text("1 / 0\n")
    yield
    sys.modules.pop("my_own_nets", None)
    assert sys.path == path


def test_a_factory_in_the_current_folder(folder):
    model = build("my_own_nets:tiny", input_shape=(4,), classes=2, width=3)
    assert (model.in_features, model.out_features) == (4, 6)
    assert build("my_own_nets:Nets.small", input_shape=(4,), classes=2).in_features == 2
    assert isinstance(build("onsphere.lab.models.mlp:mlp", input_shape=(4,), classes=2), nn.Sequential)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            "vgg",
            {},
            "no model named 'vgg'; there are mlp, layer-norm-mlp, plain-mlp, convnet, resnet18, vgg16, wrn28, and",
        ),
        ("my_own_nets:", {}, "no model named 'my_own_nets:'"),
        ("no_such_nets:tiny", {}, "cannot import 'no_such_nets'.*ModuleNotFoundError"),
        ("my_broken_nets:tiny", {}, "cannot import 'my_broken_nets'.*ZeroDivisionError"),
        ("my_own_nets:huge", {}, "'my_own_nets' has no 'huge'"),
        ("my_own_nets:number", {}, "names a int; it must name a function written in Python"),
        ("my_own_nets:instance", {}, "names a Identity; it must name a function written in Python"),
        ("my_own_nets:nothing", {}, "my_own_nets:nothing must return an nn.Module, and returned a NoneType"),
        ("my_own_nets:demanding", {}, "requires depth, and this call gives it input_shape"),
        ("my_own_nets:tiny", {"widths": (3,)}, "my_own_nets:tiny does not take widths; it takes width"),
        (nn.Identity(), {}, "not a Identity"),
        (3, {}, "not a int"),
        ("mlp", {"width": 3}, "mlp does not take width; it takes widths"),
        ("convnet", {"widths": (3,)}, "convnet does not take widths; it takes width"),
        (factory, {"width": 3}, "factory does not take width; it takes widths"),
        ("mlp", {"widths": ()}, "widths must name at least one layer"),
        ("mlp", {"widths": (4, 0)}, "every entry of widths must be a positive integer, not 0"),
        ("mlp", {"widths": (4, 2.5)}, "every entry of widths must be a positive integer, not 2.5"),
        ("convnet", {"width": -1}, "width must be a positive integer, not -1"),
        ("convnet", {"width": True}, "width must be a positive integer, not True"),
        ("mlp", {"classes": 0}, "classes must be a positive integer, not 0"),
        ("mlp", {"input_shape": ()}, "input_shape must name at least one dimension"),
        ("mlp", {"input_shape": (3, 0)}, "every entry of input_shape must be a positive integer, not 0"),
        ("mlp", {"head_norm": 0.0}, "head_norm must be positive and finite, not 0.0"),
        ("mlp", {"eps": float("nan")}, "eps must be positive and finite, not nan"),
        ("convnet", {"input_shape": (3, 7, 7)}, "convnet needs images of at least 8 x 8, not 7 x 7"),
        ("resnet18", {"input_shape": (3, 4, 4)}, "resnet18 needs images of at least 8 x 8, not 4 x 4"),
        ("convnet", {"input_shape": (3, 8, 9)}, r"square images, .* not \(3, 8, 9\)"),
        ("convnet", {"input_shape": (64,)}, r"square images, .* not \(64,\)"),
        ("vgg16", {"input_shape": (3, 7, 7)}, "vgg16 needs images of at least 8 x 8, not 7 x 7"),
        ("wrn28", {"input_shape": (3, 8, 9)}, r"square images, .* not \(3, 8, 9\)"),
        ("wrn28", {"width": 0}, "width must be a positive integer, not 0"),
    ],
)
def test_errors_are_one_clear_line(folder, model, options, message):
    with pytest.raises(ModelError, match=message) as caught:
        build(model, **{"input_shape": CIFAR, "classes": 10, **options})
    assert "\n" not in str(caught.value)


def test_direct_calls_check_their_sizes_too():
    for make in (
        lambda: mlp((4,), 2, widths=()),
        lambda: mlp((4,), 2, widths=(0,)),
        lambda: convnet(CIFAR, 10, width=0),
        lambda: resnet18(CIFAR, 10, width=0),
        lambda: vgg16(CIFAR, 10, width=2.0),
        lambda: vgg16(CIFAR, 10, dropout=1.0),
        lambda: wrn28(CIFAR, 10, dropout=-0.1),
        lambda: wrn28(CIFAR, 0),
    ):
        with pytest.raises(ModelError):
            make()
