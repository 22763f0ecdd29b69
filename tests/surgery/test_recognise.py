"""Norm layers are told by what they compute: every spelling of one, and nothing that merely looks like one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import GELUActivation
from transformers.models.convnext.modeling_convnext import ConvNextLayerNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from onsphere.surgery.recognise import NormForm, hidden_eps, norm_form, norm_forms, set_eps


class Unit(nn.Module):
    def forward(self, x):
        return F.normalize(x, dim=-1)


class VarMean(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.g, self.b = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def forward(self, x):
        variance, mean = torch.var_mean(x, -1, keepdim=True, correction=0)
        return self.g * (x - mean) / torch.sqrt(variance + 1e-6) + self.b


class OneGain(nn.Module):
    """Nguyen and Salazar's ScaleNorm: one number for all channels."""

    def __init__(self):
        super().__init__()
        self.scale, self.epsilon = nn.Parameter(torch.tensor(3.0)), 1e-5

    def forward(self, x):
        return self.scale * x / (x.norm(dim=-1, keepdim=True) + self.epsilon)


class HandmadeBatchNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma, self.beta = (
            nn.Parameter(torch.ones(1, channels, 1, 1)),
            nn.Parameter(torch.zeros(1, channels, 1, 1)),
        )
        self.register_buffer("eps", torch.tensor(1e-5))

    def forward(self, x):
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        return self.gamma * (x - mean) * torch.rsqrt(variance + self.eps) + self.beta


class Calm(nn.LayerNorm):
    """A subclass with another name."""


@pytest.mark.parametrize(
    ("module", "form"),
    [
        (LlamaRMSNorm(6), NormForm("weight", None, 1.0, ("variance_epsilon",))),
        (LlamaRMSNorm(6).bfloat16(), NormForm("weight", None, 1.0, ("variance_epsilon",))),
        (Qwen3RMSNorm(6), NormForm("weight", None, 1.0, ("variance_epsilon",))),
        (Olmo2RMSNorm(6), NormForm("weight", None, 1.0, ("variance_epsilon",))),
        (T5LayerNorm(6), NormForm("weight", None, 1.0, ("variance_epsilon",))),
        (Gemma3RMSNorm(6), NormForm("weight", None, 0.0, ("eps",))),
        (ConvNextLayerNorm(6, data_format="channels_first"), NormForm("weight", "bias", 1.0, ("eps",))),
        (Unit(), NormForm(None, None, 1.0, ())),
        (VarMean(5), NormForm("g", "b", 1.0, ())),
        (OneGain(), NormForm("scale", None, 1.0, ("epsilon",))),
        (HandmadeBatchNorm(4), NormForm("gamma", "beta", 1.0, ("eps",))),
        (Calm(7), NormForm("weight", "bias", 1.0, ("eps",))),
        (nn.RMSNorm(7), NormForm("weight", None, 1.0, ("eps",))),
        (nn.BatchNorm2d(3, affine=False), NormForm(None, None, 1.0, ("eps",))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_normalises_is_recognised_with_its_parameters(module, form):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert norm_form(module) == form
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Softmax(nn.Module):
    def forward(self, x):
        return x.softmax(-1)


class SoftmaxOfDirection(nn.Module):
    """Does not see the scale of its input, and is no normalisation all the same."""

    def forward(self, x):
        return F.normalize(x, dim=-1).softmax(-1)


class Sign(nn.Module):
    def forward(self, x):
        return x.sign()


class RMSNorm(nn.Module):
    """Only its name says so."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x):
        return self.weight * x


class FrozenBatchNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x):
        return self.weight * (x - self.running_mean) / (self.running_var + 1e-5).sqrt()


class TwoInputs(nn.Module):
    def forward(self, x, z):
        return F.normalize(x + z, dim=-1)


@pytest.mark.parametrize(
    "module",
    [
        Softmax(),
        SoftmaxOfDirection(),
        Sign(),
        RMSNorm(6),
        FrozenBatchNorm(6),
        TwoInputs(),
        GELUActivation(),
        nn.Tanh(),
        nn.Dropout(),
        nn.PReLU(4),
        nn.Linear(6, 1),
        nn.Sequential(nn.LayerNorm(4)),
        nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)),
        nn.Identity(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_normalise_is_not_taken_for_it(module):
    assert norm_form(module) is None


def test_an_eps_is_set_where_it_is_kept_and_seen_where_it_is_not():
    for module in (LlamaRMSNorm(6), HandmadeBatchNorm(4), nn.LayerNorm(6)):
        form = norm_form(module)
        assert hidden_eps(module, form) == pytest.approx(1e-6 if isinstance(module, LlamaRMSNorm) else 1e-5, rel=0.8)
        set_eps(module, form, 1e-12)
        assert hidden_eps(module, form) < 1e-10
    written = VarMean(5)
    set_eps(written, norm_form(written), 1e-12)
    assert hidden_eps(written, norm_form(written)) == pytest.approx(1e-6, rel=0.8)


def test_names_of_a_model_come_in_order_and_a_shared_norm_once():
    shared = Gemma3RMSNorm(4)
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Sequential(nn.Linear(4, 4), shared, nn.LayerNorm(4)), Softmax())
    state = torch.get_rng_state()
    assert list(norm_forms(model)) == ["1", "2.2"]
    assert torch.equal(torch.get_rng_state(), state)
