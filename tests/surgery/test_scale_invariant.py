"""make_scale_invariant: what it removes, freezes and refuses, and that the result is invariant."""

import copy
import io
import logging
from collections import OrderedDict

import pytest
import torch
from torch import nn

from onsphere.normalisation import norm_layers
from onsphere.surgery import Changes, make_scale_invariant


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 4, 3),
            bn1=nn.BatchNorm2d(4),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(4, 6, 3),
            drop=nn.Dropout(0.1),
            pool=nn.MaxPool2d(2),
            gn=nn.GroupNorm(2, 6),
            flatten=nn.Flatten(),
            hidden=nn.Linear(6 * 2 * 2, 5),
            relu2=nn.ReLU(),
            head=nn.Linear(5, 3),
        )
    )


class Block(nn.Module):
    """A pre-activation residual block with biases everywhere, registered in another order than it is used."""

    def __init__(self, width: int, traceable: bool) -> None:
        super().__init__()
        self.conv2 = nn.Conv1d(width, width, 1)
        self.conv1 = nn.Conv1d(width, width, 1)
        self.bn1, self.bn2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.traceable = traceable

    def forward(self, x):
        if not self.traceable and x.sum() == 12345:
            return x
        return x + self.conv2(torch.relu(self.bn2(self.conv1(torch.relu(self.bn1(x))))))


class ResNet(nn.Module):
    def __init__(self, traceable: bool = True) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)  # registered first: order alone would not find it
        self.stem = nn.Linear(6, 4)
        self.block = Block(4, traceable)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        x = self.block(self.stem(x).unsqueeze(-1)).squeeze(-1)
        return {"logits": self.head(torch.relu(self.norm(x))).log_softmax(-1)}


def test_norms_biases_and_head_of_a_convnet():
    model = convnet()
    state = copy.deepcopy(model.state_dict())
    result = make_scale_invariant(model, head_norm=7.0)

    for norm in norm_layers(result).values():
        assert (norm.weight, norm.bias, norm.affine, norm.eps) == (None, None, False, 1e-12)
    assert [n for n, _ in result.named_parameters()] == [
        "conv1.weight",
        "conv2.weight",
        "hidden.weight",
        "hidden.bias",
        "head.weight",
        "head.bias",
    ]
    assert float(result.head.weight.norm()) == pytest.approx(7.0, rel=1e-6)
    torch.testing.assert_close(result.head.weight / 7, model.head.weight / model.head.weight.norm())
    assert [p.requires_grad for p in result.head.parameters()] == [False, False]
    assert all(p.requires_grad for n, p in result.named_parameters() if not n.startswith("head"))

    # the original as it was
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.bn1.affine
    assert model.bn1.eps == 1e-5
    assert all(p.requires_grad for p in model.parameters())
    assert not hasattr(model, "scale_invariance")


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
@pytest.mark.parametrize("training", [True, False])
def test_doubling_a_weight_leaves_the_output(layer, training):
    result = make_scale_invariant(convnet()).double().train(training)
    result.drop.p = 0.0
    if not training:
        for norm in result.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = result(x)
    with torch.no_grad():
        result.get_submodule(layer).weight.mul_(2)
    torch.testing.assert_close(result(x), before, rtol=1e-9, atol=1e-9)


def test_the_graph_decides_what_feeds_what_not_the_order():
    result = make_scale_invariant(ResNet())
    changes = result.scale_invariance
    assert changes.traced
    assert changes.head == "head"
    # stem and conv2 feed the residual stream, which is added to before a norm reads it
    assert changes.biases == ("block.conv1.bias",)
    assert set(changes.kept_biases) == {"stem.bias", "block.conv2.bias"}


def test_without_a_graph_the_order_of_registration_decides_and_the_changes_say_so():
    result = make_scale_invariant(ResNet(traceable=False), head="head")
    changes = result.scale_invariance
    assert not changes.traced
    assert changes.biases == ("block.conv1.bias",)  # registered straight before bn1
    assert "cannot be traced" in str(changes)
    model = nn.Sequential(OrderedDict(block=Block(4, False), fc=nn.Linear(4, 2), tail=nn.Identity()))
    assert make_scale_invariant(model).scale_invariance.head == "fc"


def test_a_traceable_part_of_an_untraceable_model_is_still_read_off_its_graph():
    part = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4), nn.ReLU()))
    model = nn.Sequential(OrderedDict(part=part, block=Block(4, False), fc=nn.Linear(4, 2)))
    changes = make_scale_invariant(model).scale_invariance
    assert not changes.traced
    assert "part.0.bias" in changes.biases  # the norm sits in another container: order within a parent is blind


def test_functional_norms_and_reused_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm, self.head = (
                nn.Linear(4, 4),
                nn.Linear(4, 4),
                nn.LayerNorm(4),
                nn.Linear(4, 2),
            )

        def forward(self, x):
            x = nn.functional.layer_norm(self.a(x), (4,))
            x = self.norm(self.b(x))
            return self.head(self.b(x).relu())  # the second time nothing normalises b

    changes = make_scale_invariant(Net()).scale_invariance
    assert changes.biases == ("a.bias",)
    assert changes.kept_biases == ("b.bias",)


def test_a_layer_that_makes_a_norms_gain_keeps_its_bias():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain, self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.norm = nn.LayerNorm(4)

        def forward(self, x):
            x = self.norm(self.body(x))
            return self.head(nn.functional.layer_norm(x, (4,), self.gain(x).mean(0)))

    assert make_scale_invariant(Net()).scale_invariance.biases == ("body.bias",)


def test_a_head_can_be_named_or_given():
    model = convnet()
    assert make_scale_invariant(model, head="head").scale_invariance.head == "head"
    assert make_scale_invariant(model, head=model.head).scale_invariance.head == "head"
    assert make_scale_invariant(model, head=model.hidden).scale_invariance.head == "hidden"


def test_a_convolutional_head_before_global_pooling():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1))
    assert make_scale_invariant(model).scale_invariance.head == "3"


def test_changes_are_reported_logged_and_survive_copies(caplog):
    with caplog.at_level(logging.INFO, logger="onsphere"):
        result = make_scale_invariant(convnet())
    changes = result.scale_invariance
    assert changes == Changes(
        norms=("bn1", "gn"),
        affine=("bn1", "gn"),
        biases=("conv1.bias", "conv2.bias"),
        kept_biases=("hidden.bias",),
        head="head",
        head_norm=10.0,
        head_norm_before=pytest.approx(float(convnet().head.weight.detach().norm())),
        eps=1e-12,
        traced=True,
    )
    text = str(changes)
    for piece in (
        "2 norm layers: eps 1e-12",
        "conv1.bias, conv2.bias",
        "head 'head'",
        "frozen",
        "hidden.bias",
    ):
        assert piece in text
    assert [record.getMessage() for record in caplog.records] == [text]

    buffer = io.BytesIO()
    torch.save(result, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (copy.deepcopy(result), loaded):
        assert other.scale_invariance == changes
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), result.parameters(), strict=True))
    fresh = make_scale_invariant(convnet())
    fresh.load_state_dict(result.state_dict())


def test_every_norm_layer_works_without_affine_in_both_modes():
    x4 = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    for norm in (
        nn.BatchNorm2d(6),
        nn.GroupNorm(2, 6),
        nn.InstanceNorm2d(6, affine=True),
        nn.LayerNorm(5),
        nn.RMSNorm(5),
    ):
        model = nn.Sequential(nn.Conv2d(6, 6, 1), norm, nn.Flatten(), nn.Linear(150, 2))
        result = make_scale_invariant(model)
        assert result.scale_invariance.biases == ("0.bias",)
        assert result.scale_invariance.affine == ("1",)
        assert result[1].eps == 1e-12
        for mode in (True, False):
            assert result.train(mode)(x4).isfinite().all()


def test_torchs_transformer_runs_in_evaluation_mode_without_the_norms_weights():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8))
    model = nn.Sequential(OrderedDict(encoder=encoder, head=nn.Linear(8, 3)))
    result = make_scale_invariant(model, head="head").eval()
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert result(x).shape == (2, 5, 3)
        mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        assert result.encoder(x, src_key_padding_mask=mask).shape == (2, 5, 8)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 5))
    model[2].weight = model[0].weight
    return model


def zero_head() -> nn.Module:
    model = convnet()
    nn.init.zeros_(model.head.weight)
    return model


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.left, self.right = nn.LayerNorm(4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = self.norm(x)
        return self.left(x), self.right(x)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2)), {}, "has no norm layer"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), {}, "no head found"),
        (lambda: nn.Sequential(nn.LayerNorm(2), nn.ReLU()), {}, "no head found"),
        (TwoHeads, {}, r"2 layers make the output \(left, right\)"),
        (convnet, {"head": "classifier"}, "no module named 'classifier'.*conv1, conv2, hidden, head"),
        (convnet, {"head": ""}, "no module named ''"),
        (convnet, {"head": nn.Linear(2, 2)}, "not a module of this model"),
        (convnet, {"head": "conv1"}, "'conv1' is followed by a norm"),
        (convnet, {"head": "bn1"}, "'bn1' is a norm layer"),
        (convnet, {"head": "relu"}, r"'relu' \(ReLU\) has no weight"),
        (convnet, {"head_norm": 0.0}, "head_norm must be positive and finite, not 0.0"),
        (convnet, {"head_norm": float("inf")}, "head_norm must be positive and finite, not inf"),
        (convnet, {"eps": 0.0}, "eps must be positive and finite, not 0.0"),
        (convnet, {"eps": float("nan")}, "eps must be positive and finite, not nan"),
        (tied, {}, "shared by 0.weight and 2.weight"),
        (zero_head, {}, "has norm 0.0"),
        (lambda: nn.Sequential(nn.LayerNorm(2), nn.LazyLinear(2)), {}, "lazy parameters"),
        (
            lambda: nn.Sequential(nn.LayerNorm(2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
            {},
            "parametrised weight",
        ),
    ],
)
def test_errors_say_what_to_do(make, options, message):
    with pytest.raises(ValueError, match=message):
        make_scale_invariant(make(), **options)


def test_a_batch_checks_the_result():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(16, 6)
    changes = make_scale_invariant(model, check=x).scale_invariance
    assert changes.not_invariant == ("3.weight", "3.bias") and "not scale-invariant: 3.weight" in str(changes)
    model[4] = nn.LayerNorm(8)
    changes = make_scale_invariant(model, check=(x,)).scale_invariance
    assert changes.not_invariant == () and "certified" in str(changes)
    assert make_scale_invariant(model).scale_invariance.not_invariant is None
