"""Members that vmap does not take, with several inputs or outputs of their own: equal to the loop, and said once."""

import copy
import warnings

import pytest
import torch
from torch import nn

from onsphere.ensembles import Ensemble

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # old, and still in use


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.head = kind(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x[:, 0]) * (1.0 if self.head.weight.sum().item() > 0 else -2.0)


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.norm.running_mean.normal_()

    def forward(self, x):
        return self.head(self.norm(x[:, 0]))


def members(build, count=3):
    torch.manual_seed(0)
    return [build() for _ in range(count)]


def images():
    return torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(1))


def by_hand(networks, *args, **kwargs):
    with torch.no_grad():
        return torch.stack([copy.deepcopy(n).eval()(*args, **kwargs) for n in networks])


LOOPED = {
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "item": Branches,
    "scripted": lambda: torch.jit.script(Scripted()),
    "traced": lambda: torch.jit.trace(Scripted().eval(), images()),
}


@pytest.mark.parametrize("kind", LOOPED)
def test_members_without_a_vmap_rule_run_one_after_another_and_it_is_said_once(kind):
    networks, x = members(LOOPED[kind]), images()
    logits = by_hand(networks, x)
    assert (logits[0] - logits[1]).abs().max() > 1e-2  # they differ, so that taking one for all would show
    ensemble = Ensemble.from_members(networks)
    assert "one after another" not in repr(ensemble)
    with pytest.warns(UserWarning, match="one after another, because their code does not run under torch.vmap: ."):
        first = ensemble.member_logits(x)
    torch.testing.assert_close(first.detach(), logits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            with torch.no_grad():
                found = ensemble(x)
            torch.testing.assert_close(found, logits.softmax(-1).mean(0).log())
    assert "members=3, one after another: " in repr(ensemble)
    # A change of the weights shows, and so does one of their type.
    ensemble.load_state_dict(Ensemble.from_members(networks[::-1]).state_dict())
    torch.testing.assert_close(ensemble.member_logits(x).detach(), logits.flip(0))
    if kind not in ("traced",):
        assert ensemble.double().member_logits(x.double()).dtype == torch.float64
    again = copy.deepcopy(ensemble.float())
    torch.testing.assert_close(again.member_logits(x).detach(), logits.flip(0), atol=1e-5, rtol=1e-5)


def test_members_with_something_scripted_inside():
    networks, x = members(lambda: nn.Sequential(torch.jit.script(Scripted()), nn.Linear(3, 3))), images()
    torch.testing.assert_close(Ensemble.from_members(networks).member_logits(x).detach(), by_hand(networks, x))


def test_gradients_of_the_loop_are_those_of_the_members():
    networks, x = members(LOOPED["lstm"], 2), images()
    ensemble = Ensemble.from_members(networks)
    with pytest.warns(UserWarning, match="one after another"):
        ensemble.member_logits(x).square().sum().backward()
    for i, n in enumerate(networks):
        n.eval()(x).square().sum().backward()
        for name, p in n.named_parameters():
            torch.testing.assert_close(ensemble.stacked.get_parameter(name).grad[i], p.grad)
    assert ensemble.stacked.layer._flat_weights[0] is ensemble.stacked.layer.weight_ih_l0  # as it was


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, u, v, scale=1.0):
        return self.a(u) + scale * self.b(v)


def test_several_inputs_by_place_and_by_name():
    networks = members(Two)
    u, v = torch.randn(5, 4), torch.randn(5, 2)
    ensemble = Ensemble.from_members(networks)
    logits = by_hand(networks, u, v)
    torch.testing.assert_close(ensemble.member_logits(u, v).detach(), logits)
    torch.testing.assert_close(ensemble(u, v=v).detach(), logits.softmax(-1).mean(0).log())
    torch.testing.assert_close(ensemble.member_logits(u, v, scale=3.0).detach(), by_hand(networks, u, v, scale=3.0))
    with torch.no_grad():
        for _ in range(3):  # nothing traced for one call answers another
            torch.testing.assert_close(ensemble(u, v), logits.softmax(-1).mean(0).log())
            torch.testing.assert_close(ensemble(u, 2 * v), by_hand(networks, u, 2 * v).softmax(-1).mean(0).log())


class Named(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.head, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x):
        return self.wrap(self.head(x))


def test_outputs_that_hold_logits():
    x = torch.randn(5, 4)
    for wrap in (lambda z: {"logits": z, "loss": None}, lambda z: type("Out", (), {"logits": z})()):
        networks = members(lambda wrap=wrap: Named(wrap))
        expected = torch.stack([n.head(x) for n in networks])
        torch.testing.assert_close(Ensemble.from_members(networks).member_logits(x), expected)
    for wrap, said in ((lambda z: (z, z), "returns tuple"), (lambda z: {"scores": z}, "returns dict")):
        with pytest.raises(ValueError, match=said):
            Ensemble.from_members(members(lambda wrap=wrap: Named(wrap)))(x)


def test_models_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20, num_labels=3
    )
    networks = members(lambda: transformers.BertForSequenceClassification(config), 2)
    tokens = torch.randint(20, (4, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 6, dtype=torch.long)
    mask[:, 4:] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether vmap takes them depends on the version
        found = Ensemble.from_members(networks).member_logits(tokens, attention_mask=mask).detach()
    expected = torch.stack([n.eval()(tokens, attention_mask=mask).logits.detach() for n in networks])
    torch.testing.assert_close(found, expected)
    assert (expected[0] - expected[1]).abs().max() > 1e-4


@pytest.mark.parametrize("build", [lambda: nn.Linear(4, 1), lambda: Named(lambda z: {"logits": z[:, :1]})])
def test_members_of_a_single_logit_are_refused(build):
    ensemble, x = Ensemble.from_members(members(build)), torch.randn(5, 4)
    for ask in (ensemble, ensemble.member_logits, ensemble.member_log_probabilities):
        with pytest.raises(ValueError, match=r"logits of shape \[5, 1\]; there must be at least two classes"):
            ask(x)


def test_single_logits_in_the_loop_and_in_a_file(tmp_path):
    networks = members(lambda: nn.Sequential(Branches(), nn.Linear(3, 1)))
    with pytest.raises(ValueError, match="at least two classes"):
        Ensemble.from_members(networks)(images())
    with pytest.raises(ValueError, match="at least two classes"):
        Ensemble.from_members(members(lambda: nn.Linear(4, 1))).export(tmp_path / "a.pt2", torch.randn(3, 4))


def test_what_fails_for_a_member_alone_is_its_own_error():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Ensemble.from_members(members(Branches))(torch.randn(5, 7, 9))


def test_an_ensemble_in_a_loop_is_exported(tmp_path):
    networks, x = members(LOOPED["gru"]), images()
    ensemble = Ensemble.from_members(networks)
    with pytest.warns(UserWarning, match="one after another"):
        ensemble.export(tmp_path / "e.pt2", x, dynamic_batch=False)
    found = torch.export.load(tmp_path / "e.pt2").module()(x)
    torch.testing.assert_close(found.detach(), by_hand(networks, x).softmax(-1).mean(0).log())


def test_tensors_that_would_not_be_stacked():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.scale = nn.Linear(4, 3), torch.randn(3)

        def forward(self, x):
            return self.head(x) * self.scale

    networks = members(Holds)
    with pytest.raises(ValueError, match="member 1 differs from member 0: scale is another tensor"):
        Ensemble.from_members(networks)
    for n in networks:
        n.scale = networks[0].scale
    x = torch.randn(5, 4)
    torch.testing.assert_close(Ensemble.from_members(networks).member_logits(x).detach(), by_hand(networks, x))
