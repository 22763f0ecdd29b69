"""sphere_groups: alone, jointly, not at all; and that nothing of the user's is touched."""

import copy
import random
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from onsphere.lab.models import build
from onsphere.surgery import make_scale_invariant
from onsphere.symmetry import INVARIANT_BELOW, SymmetryError, find_symmetries, scale_deviations, sphere_groups


def batch(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def names(groups) -> tuple[set[str], set[str]]:
    return set(groups[0]["names"]), set(groups[1]["names"]) if len(groups) > 1 else set()


def affine_mlp() -> nn.Sequential:
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.Linear(8, 3),
        )
    )


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet18"])
@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_every_trainable_tensor_of_the_reference_networks_is_on_the_sphere(name, eps):
    size = {"widths": (6, 5)} if name == "mlp" else {"width": 2}
    model = build(name, input_shape=(2, 8, 8), classes=4, eps=eps, **size)
    groups = sphere_groups(model, batch(6, 2, 8, 8))
    expected = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert len(groups) == 1
    assert groups[0]["names"] == [n for n, _ in expected]
    assert all(a is b for a, (_, b) in zip(groups[0]["params"], expected, strict=True))
    assert groups[0]["sphere"] == "joint"


def test_affine_pairs_join_and_what_batch_norm_cancels_does_not():
    groups = sphere_groups(affine_mlp(), batch(16, 6))
    sphere, rest = names(groups)
    # weights alone, the first norm's weight and bias together; the first bias has no effect at all
    assert sphere == {"0.weight", "1.weight", "1.bias", "3.weight"}
    assert rest == {"0.bias", "4.weight", "4.bias", "5.weight", "5.bias"}
    assert groups[1]["sphere"] is None
    assert set(groups[0]) == {"params", "names", "sphere"}
    assert set(groups[1]) == {"params", "names", "sphere"}


def test_deviations_are_either_nothing_or_plain():
    deviations = scale_deviations(affine_mlp(), batch(16, 6))
    invariant = {n for n, d in deviations.items() if d < 1e-9}
    assert invariant == {"0.weight", "0.bias", "3.weight"}
    assert all(d > 1e-3 for n, d in deviations.items() if n not in invariant)
    assert 1e-9 < INVARIANT_BELOW < 1e-6


class PreLN(nn.Module):
    """A residual stream written by embedding, attention and MLP outputs and read by norms alone."""

    def __init__(self, head: bool = True):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.n1, self.n2, self.n3 = (nn.RMSNorm(8, elementwise_affine=False) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.up, self.down, self.unembed = (
            nn.Linear(8, 8, bias=False),
            nn.Linear(8, 8, bias=False),
            nn.Linear(8, 11),
        )

    def forward(self, tokens, scale=1.0):
        x = self.embedding(tokens)
        h = self.n1(x)
        attention = (self.q(h) @ self.k(h).mT).softmax(-1)
        x = x + self.o(attention @ self.v(h))
        x = x + self.down(torch.relu(self.up(self.n2(x)))) * scale
        return {"logits": self.unembed(self.n3(x)), "tokens": tokens}


def test_a_residual_stream_is_found_among_tensors_that_are_not_invariant():
    tokens = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(0))
    sphere, rest = names(sphere_groups(seeded(PreLN), tokens, scale=1.0))
    assert "embedding.weight" in sphere
    # f keeps when exactly one of value and output (and of up and down) scales with the stream
    assert len({"v.weight", "o.weight"} & sphere) == 1
    assert len({"up.weight", "down.weight"} & sphere) == 1
    assert {"q.weight", "k.weight", "unembed.weight", "unembed.bias"} <= rest


def test_zero_initialised_and_constant_tensors_do_not_look_invariant():
    model = affine_mlp()
    with torch.no_grad():
        model[5].weight.zero_()
        model[5].bias.zero_()
        model[4].weight.zero_()
    _, rest = names(sphere_groups(model, batch(16, 6)))
    assert {"4.weight", "4.bias", "5.weight", "5.bias"} <= rest
    assert float(model[5].weight.detach().abs().sum()) == 0


def test_frozen_parameters_appear_nowhere_and_tied_ones_once():
    model = affine_mlp()
    model[0].weight.requires_grad_(False)
    groups = sphere_groups(model, batch(16, 6))
    assert not any("0.weight" in g["names"] for g in groups)

    shared = nn.Linear(6, 6, bias=False)
    tied = nn.Sequential(shared, nn.BatchNorm1d(6), nn.ReLU(), shared, nn.BatchNorm1d(6), nn.Linear(6, 2))
    sphere, _ = names(sphere_groups(tied, batch(16, 6)))
    assert "0.weight" in sphere
    assert "3.weight" not in sphere


def test_a_layer_never_called_is_not_on_the_sphere():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.spare = affine_mlp(), nn.Linear(3, 3)

        def forward(self, x):
            return self.body(x)

    _, rest = names(sphere_groups(Net(), batch(16, 6)))
    assert {"spare.weight", "spare.bias"} <= rest


@pytest.mark.filterwarnings("ignore:at their present norms the model's eps")  # true: see the inputs
@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8), nn.InstanceNorm1d(4)])
def test_every_kind_of_norm_and_its_default_eps(norm):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(6, 8, bias=False), norm, nn.Linear(8, 2)

        def forward(self, x):
            h = self.first(x)
            h = self.norm(h.view(-1, 4, 2)).flatten(1) if isinstance(norm, nn.InstanceNorm1d) else self.norm(h)
            return self.head(h)

    # inputs so small that the real eps would hide the symmetry
    sphere, _ = names(sphere_groups(seeded(Net), 1e-3 * batch(16, 6)))
    assert sphere == {"first.weight"}


def test_parametrised_and_spectrally_normalised_weights():
    plain = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
    sphere, rest = names(sphere_groups(plain, batch(16, 6)))
    assert sphere == {"parametrizations.weight.original1"}
    assert "parametrizations.weight.original0" in rest
    spectral = seeded(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)))
    u = spectral.parametrizations.weight[0]._u.clone()
    assert names(sphere_groups(spectral, batch(16, 6)))[0] == {"parametrizations.weight.original"}
    assert torch.equal(spectral.parametrizations.weight[0]._u, u)


@dataclass
class Output:
    logits: torch.Tensor
    extras: tuple


def test_any_nest_of_outputs_and_inputs_in_half_precision():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.side = affine_mlp(), nn.Linear(3, 2, bias=False)

        def forward(self, data, *, mask=None):
            y = self.body(data["x"][0])
            # only the second of the outputs depends on `side`
            return Output(y, ({"side": [self.side(y) * mask]}, y.argmax(-1), "text", None))

    model = seeded(Net).to(torch.bfloat16)
    x = batch(16, 6).to(torch.bfloat16)
    sphere, rest = names(sphere_groups(model, {"x": (x,)}, mask=torch.ones(16, 2, dtype=torch.bool)))
    assert sphere == {"body.0.weight", "body.1.weight", "body.1.bias", "body.3.weight"}
    assert "side.weight" in rest
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())


def test_nothing_of_the_users_is_touched():
    model = nn.Sequential(affine_mlp(), nn.Dropout(0.5)).train()
    model[0][4].eval()
    x = batch(16, 6).requires_grad_()
    model(x).sum().backward()
    calls = []
    model[0][0].register_forward_hook(lambda *a: calls.append("forward"))
    model.register_forward_pre_hook(lambda *a: calls.append("pre"))
    model[0][3].register_full_backward_hook(lambda *a: calls.append("backward"))
    state = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters()]
    flags = [m.training for m in model.modules()]
    x_before, x_grad = x.detach().clone(), x.grad.clone()
    versions = [p._version for p in model.parameters()]
    torch_state, numpy_state, python_state = (
        torch.random.get_rng_state(),
        np.random.get_state(),
        random.getstate(),
    )

    with torch.no_grad():
        sphere_groups(model, x)
    scale_deviations(model, x)

    assert calls == []
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert [p._version for p in model.parameters()] == versions
    assert [m.training for m in model.modules()] == flags
    assert model[0][1].eps == 1e-5
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(x, x_before)
    assert torch.equal(x.grad, x_grad)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == str(numpy_state)
    assert random.getstate() == python_state


def test_attention_and_recurrent_dropout_are_switched_off():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    model = make_scale_invariant(nn.Sequential(layer, nn.Linear(8, 3)), head="1")
    with pytest.raises(SymmetryError, match="none of the"):
        # attention's biases and the stream's identity path leave nothing invariant ahead of post-norms
        sphere_groups(nn.Sequential(nn.LSTM(8, 4, 2, dropout=0.4)), batch(5, 2, 8))
    assert scale_deviations(model, batch(2, 5, 8)) == scale_deviations(model, batch(2, 5, 8))


def test_the_groups_feed_any_optimiser_of_torch():
    model = affine_mlp()
    x = batch(16, 6)
    for make in (lambda g: torch.optim.SGD(g, lr=0.1), lambda g: torch.optim.AdamW(g, lr=0.1)):
        groups = sphere_groups(model, x)
        optimizer = make(groups)
        model(x).pow(2).sum().backward()
        optimizer.step()
        assert optimizer.param_groups[0]["sphere"] == "joint"
        assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.generator = affine_mlp(), torch.Generator()

    def forward(self, x):
        return self.body(x) * (1 + torch.rand(1, generator=self.generator))

    def __deepcopy__(self, memo):
        return Noisy()


class Silent(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.w, self.output = nn.Parameter(torch.ones(2)), output

    def forward(self, x):
        return self.output(x)


def broken() -> nn.Module:
    model = affine_mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Noisy, "not deterministic: two runs on one batch from one random state differ by"),
        (
            lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)),
            r"none of the 4 .*make_scale_invariant",
        ),
        (lambda: nn.Linear(6, 2).requires_grad_(False), "no trainable parameter"),
        (lambda: Silent(lambda x: x.argmax(-1)), r"\(Tensor\) holds no floating-point tensor"),
        (lambda: Silent(lambda x: x * 0), "output is zero"),
        (lambda: Silent(lambda x: x / 0), "not finite, even in float64"),
        (lambda: Silent(lambda x: x), "none of the 1 "),
        (broken, "not finite: 0.weight"),
        (lambda: nn.LazyLinear(2), "lazy parameters"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(SymmetryError, match=message):
        sphere_groups(make(), batch(16, 6))


def test_a_failing_forward_is_chained():
    with pytest.raises(SymmetryError, match=r"forward pass failed .*RuntimeError.*more than one example") as caught:
        sphere_groups(affine_mlp(), batch(16, 7))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(SymmetryError, match="TypeError"):
        sphere_groups(affine_mlp())


def test_a_model_without_a_backward_pass_is_probed_by_differences():
    class NoBackward(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = affine_mlp()

        def forward(self, x):
            return self.body(x).detach()

    sphere, _ = names(sphere_groups(NoBackward(), batch(16, 6)))
    assert sphere == {"body.0.weight", "body.1.weight", "body.1.bias", "body.3.weight"}
    found = find_symmetries(NoBackward(), batch(16, 6))
    assert found.dimension == find_symmetries(affine_mlp(), batch(16, 6)).dimension
    assert any("differences" in note for note in found.notes)


# -- spheres whose invariance the model's own eps has broken -----------------------------------------------------


def small_weights(norm, scale):
    def make():
        model = nn.Sequential(nn.Linear(6, 8), norm(), nn.Tanh(), nn.Linear(8, 8), norm(), nn.Linear(8, 3))
        with torch.no_grad():
            for p in (*model[0].parameters(), *(model[3].parameters() if scale < 0.1 else ())):
                p.mul_(scale)
        return model

    return seeded(make)


@pytest.mark.parametrize("spheres", ["joint", "groups", "rows"])
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.LayerNorm(8, elementwise_affine=False),
        lambda: nn.RMSNorm(8, eps=1e-5, elementwise_affine=False),
        lambda: nn.GroupNorm(2, 8, affine=False),
    ],
)
@pytest.mark.parametrize("scale", [1e-2, 1e-5])
def test_norms_that_eps_has_broken_are_named_with_those_that_would_do(spheres, norm, scale):
    model, x = small_weights(norm, scale), batch(16, 6)
    with pytest.warns(UserWarning, match=r"eps breaks the scale invariance of 2 of 2 groups.*up to \d+") as caught:
        sphere_groups(model, x, spheres=spheres)
    (warning,) = caught
    said = re.findall(r"(\S+) with 1 others \(norm (\S+); (\S+) would do\)", str(warning.message))
    assert [name for name, _, _ in said] == ["0.weight", "3.weight"]
    layers = [model[0], model[3]]
    twin = copy.deepcopy(model).double()
    for layer, other, (_, norm_now, enough) in zip(layers, (twin[0], twin[3]), said, strict=True):
        now = float(torch.stack([p.norm() for p in layer.parameters()]).norm().detach())
        assert float(norm_now) == pytest.approx(now, rel=1e-2)
        with torch.no_grad():
            for p, q in zip(layer.parameters(), other.parameters(), strict=True):
                p.mul_(float(enough) / now)
                q.mul_(float(enough) / now)
    # from there on nobody warns, and scaling up moves the output by about a thousandth at most, but not by much less
    sphere_groups(model, x, spheres=spheres)
    with torch.no_grad():
        for layer in (twin[0], twin[3]):
            before = twin(x.double())
            for p in layer.parameters():
                p.mul_(2.0**20)
            change = float((twin(x.double()) - before).norm() / before.norm())
            for p in layer.parameters():
                p.mul_(2.0**-20)
            assert 2e-4 < change < 2e-3


def test_ordinary_norms_are_not_spoken_of():
    sphere_groups(small_weights(lambda: nn.LayerNorm(8, elementwise_affine=False), 1.0), batch(16, 6))
    sphere_groups(affine_mlp(), batch(16, 6))
