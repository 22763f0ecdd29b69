"""An eps is left out wherever a norm has it; where it cannot be seen the search says that it cannot tell."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere import SymmetryError, find_symmetries

WIDTH = 16
aten = torch.ops.aten
CLOSURE = torch.tensor(1e-5)


def data(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


class Held(nn.Module):
    """An RMS norm whose eps is a buffer or a frozen parameter."""

    def __init__(self, eps, *, buffer=True):
        super().__init__()
        if buffer:
            self.register_buffer("eps", torch.tensor(eps))
        else:
            self.eps = nn.Parameter(torch.tensor(eps), requires_grad=False)

    def forward(self, h):
        return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)


def net(norm):
    torch.manual_seed(0)
    norm = norm if isinstance(norm, nn.Module) else Call(norm)
    return nn.Sequential(nn.Linear(8, WIDTH), norm, nn.GELU(), nn.Linear(WIDTH, 3))


def ms(h):
    return h.pow(2).mean(-1, keepdim=True)


SPELLINGS = {
    "buffer": Held(1e-5),
    "large buffer": Held(0.05),
    "frozen parameter": Held(1e-5, buffer=False),
    "0-d": lambda h: h * torch.rsqrt(ms(h) + torch.tensor(1e-5)),
    "closure": lambda h: h / (ms(h) + CLOSURE).sqrt(),
    "full_like": lambda h: h * torch.rsqrt(ms(h) + torch.full_like(ms(h), 1e-5)),
    "numpy float32": lambda h: h * torch.rsqrt(ms(h) + np.float32(1e-5)),
    "numpy array": lambda h: h * torch.rsqrt(ms(h) + torch.from_numpy(np.array([1e-5]))),
    "alpha": lambda h: h * torch.add(ms(h), torch.ones(()), alpha=1e-5).rsqrt(),
    "alpha of an integer": lambda h: h * torch.add(ms(h), 1, alpha=1e-5).rsqrt(),
    "addcmul": lambda h: h * torch.addcmul(ms(h), torch.ones(1), torch.ones(1), value=1e-5).rsqrt(),
    "addcmul's first": lambda h: h * torch.addcmul(CLOSURE.to(h), h, h).mean(-1, keepdim=True).rsqrt(),
    "addcdiv": lambda h: h * torch.addcdiv(ms(h), torch.ones(1), torch.ones(1), value=1e-5).rsqrt(),
    "addmm": lambda h: (
        h * torch.addmm(CLOSURE.to(h).reshape(1, 1), h**2, torch.full((WIDTH, 1), 1 / WIDTH).to(h)).rsqrt()
    ),
    "subtracted": lambda h: h * (ms(h) - (-1e-5)).rsqrt(),
    "subtracted tensor": lambda h: h * torch.sub(ms(h), torch.tensor(-1e-5)).rsqrt(),
    "subtracted from": lambda h: h * (1e-5 - (-ms(h))).rsqrt(),
    "in place": lambda h: h * ms(h).add_(CLOSURE).rsqrt_(),
    "large": lambda h: h * (ms(h) + 0.05).pow(-0.5),
    "large beside std": lambda h: h / (h.std(-1, keepdim=True) + 0.01),
    "hypot": lambda h: h / torch.hypot(h.norm(dim=-1, keepdim=True), torch.tensor(1e-3)),
    "maximum": lambda h: h / torch.maximum(h.norm(dim=-1, keepdim=True), torch.tensor(1e-4)),
    "torch.layer_norm": lambda h: torch.layer_norm(h, (WIDTH,)),
    "native_layer_norm": lambda h: torch.native_layer_norm(h, (WIDTH,), None, None, 0.02)[0],
    "torch.group_norm": lambda h: torch.group_norm(h, 2),
    "torch.rms_norm": lambda h: torch.rms_norm(h, (WIDTH,), None, 1e-5),
    "aten.layer_norm": lambda h: aten.layer_norm.default(h, [WIDTH]),
    "aten by hand": lambda h: aten.mul.Tensor(
        h, aten.rsqrt.default(aten.add.Scalar(aten.mean.dim(aten.pow.Tensor_Scalar(h, 2), [-1], True), 1e-5))
    ),
}


@pytest.mark.parametrize("norm", SPELLINGS.values(), ids=SPELLINGS)
def test_an_eps_is_left_out_however_it_is_written(norm):
    found = find_symmetries(net(norm), data(32, 8))
    assert ("0.weight", "0.bias") in found.groups
    assert any("was left out" in note or "and left out" in note for note in found.notes)


@pytest.mark.parametrize(
    "norm",
    [
        lambda h: torch.batch_norm(h, None, None, None, None, True, 0.1, 1e-5, False),
        lambda h: torch.native_batch_norm(h, None, None, None, None, True, 0.1, 1e-5)[0],
        lambda h: aten.batch_norm.default(h, None, None, None, None, True, 0.1, 1e-5, False),
    ],
)
def test_batch_norms_below_functions(norm):
    found = find_symmetries(net(norm), data(32, 8))
    assert found.groups == [("0.weight",)] and found.without_effect == ("0.bias",)


@pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")  # torch's own, when its programs are copied
def test_exported_programs():
    torch.manual_seed(0)
    narrow = Call(lambda h: (h.float() * torch.rsqrt(h.float().pow(2).mean(-1, keepdim=True) + 1e-6)).to(h.dtype))
    model = nn.Sequential(
        nn.Linear(8, WIDTH), narrow, nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
    )
    for dtype in (torch.float32, torch.bfloat16):
        x = data(16, 8).to(dtype)
        program = torch.export.export(model.to(dtype), (x,)).module()
        found = find_symmetries(program, x)
        assert found.groups == [("0.weight", "0.bias"), ("2.weight", "2.bias")]


class Numpy(torch.autograd.Function):
    """An RMS norm in numpy: no mode sees its eps."""

    @staticmethod
    def forward(ctx, h, eps, beside_std):
        a = h.detach().numpy()
        size = (a**2).mean(-1, keepdims=True)
        ctx.inverse = 1 / (np.sqrt(size) + eps) if beside_std else 1 / np.sqrt(size + eps)
        ctx.save_for_backward(h)
        ctx.beside_std = beside_std
        return torch.from_numpy(a * ctx.inverse)

    @staticmethod
    def backward(ctx, g):
        (h,) = ctx.saved_tensors
        inverse, along = torch.from_numpy(ctx.inverse), (g * h).mean(-1, keepdim=True)
        slope = inverse**2 / (h**2).mean(-1, keepdim=True).sqrt() if ctx.beside_std else inverse**3
        return inverse * g - h * slope * along, None, None


class Residual(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm, self.linear = norm, nn.Linear(WIDTH, WIDTH)

    def forward(self, h):
        return h + self.linear(self.norm(h))


def hidden(eps, *, beside_std=False):
    return Call(lambda h: Numpy.apply(h, eps, beside_std))


@pytest.mark.parametrize(
    ("layers", "who", "fall"),
    [
        (lambda: [hidden(1e-5)], r"0\.weight, 0\.bias", 4),
        (lambda: [hidden(2e-3)], r"0\.weight, 0\.bias", 4),
        (lambda: [hidden(1e-5, beside_std=True)], r"0\.weight, 0\.bias", 2),
        (lambda: [Residual(hidden(1e-5)), nn.RMSNorm(WIDTH)], r"0\.weight, 0\.bias, 1\.linear\.weight", 4),
        (lambda: [nn.Tanh(), nn.Linear(WIDTH, WIDTH), hidden(1e-6)], r"2\.weight, 2\.bias", 4),
    ],
)
def test_a_slope_that_fades_as_an_eps_fades_is_no_answer(layers, who, fall):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, WIDTH), *layers(), nn.Linear(WIDTH, 3))
    with pytest.raises(
        SymmetryError, match=rf"cannot be told whether scaling {who}.* by {fall} times less.*out of sight"
    ):
        find_symmetries(model, data(32, 8))


class Weak(nn.Module):
    """A norm, and a dependence that is weak and real."""

    def __init__(self, size, function):
        super().__init__()
        self.first, self.head = nn.Linear(8, WIDTH, bias=False), nn.Linear(WIDTH, 3)
        self.size, self.function = size, function

    def forward(self, x):
        h = self.first(x)
        return self.head(F.gelu(F.rms_norm(h, (WIDTH,)) + self.size * self.function(h)))


@pytest.mark.parametrize("size", [1e-6, 1e-5, 3e-3])
@pytest.mark.parametrize(
    "function",
    [torch.tanh, torch.sigmoid, F.softplus, F.softsign, lambda h: h, lambda h: h.softmax(-1), lambda h: h.abs().log()],
)
def test_a_weak_dependence_is_one(size, function):
    torch.manual_seed(0)
    found = find_symmetries(Weak(size, function), data(32, 8))
    assert found.dimension == 0 and found.fixed == found.names


class LayerScale(nn.Module):
    """A branch that starts at a millionth of its stream, as in CaiT and ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.linear, self.gain = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.full((WIDTH,), 1e-6))

    def forward(self, h):
        return h + self.gain * F.gelu(self.linear(F.rms_norm(h, (WIDTH,))))


def test_small_tensors_that_grow_are_no_eps():
    torch.manual_seed(0)
    head = [nn.RMSNorm(WIDTH, elementwise_affine=False), nn.Linear(WIDTH, 3)]
    found = find_symmetries(nn.Sequential(nn.Linear(8, WIDTH), LayerScale(), LayerScale(), *head), data(32, 8))
    assert found.groups == [("0.weight", "0.bias", "1.gain", "2.gain")]
    model = nn.Sequential(nn.Linear(8, WIDTH), *head)
    with torch.no_grad():
        model[0].bias.mul_(1e-5)
    assert find_symmetries(model, data(32, 8)).groups == [("0.weight", "0.bias")]


@pytest.mark.parametrize(
    "function",
    [
        nn.Softsign(),
        Call(lambda h: h / (1 + h.abs())),
        Call(lambda h: 1 / (1 + torch.exp(-h))),
        Call(lambda h: h * h.norm(dim=-1, keepdim=True) / (1 + h.pow(2).sum(-1, keepdim=True))),  # squash
        Call(lambda h: h.exp() / (1 + h.exp().sum(-1, keepdim=True))),  # softmax with a one
    ],
)
def test_constants_that_are_no_eps_stay(function):
    found = find_symmetries(net(function), data(32, 8))
    assert found.dimension == 0 and found.notes == ()
