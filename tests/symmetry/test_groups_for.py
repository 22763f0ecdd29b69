"""Groups of a search on a twin, and groups whose tensors were replaced: mapped by name, or refused."""

import doctest
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor

import onsphere
from onsphere.symmetry import mapping, result
from zoo import ZOO

SPHERES = ("joint", "groups", "rows")


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def batch(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def net(width=8):
    """Of every kind: alone, in a pair, invariant by rows, without effect, in a rescaling."""
    block = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, width), nn.LayerNorm(width))
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), block, nn.Linear(width, 3))


def searched(model=None, rows=True, **changes):
    model = seeded(net) if model is None else model
    found = onsphere.find_symmetries(model, batch(16, 6), rows=rows, unused="ignore")
    return onsphere.Symmetries.from_dict(found.to_dict() | changes)


@pytest.fixture(scope="module")
def found():
    return searched()


def listed(groups):
    return [(group["sphere"], group["names"], [id(p) for p in group["params"]]) for group in groups]


def named(groups):
    return [(group["sphere"], group["names"]) for group in groups]


def refused(found, model, words, **options):
    with pytest.raises(ValueError) as error:
        found.groups_for(model, **options)
    for word in words if isinstance(words, list) else [words]:
        assert word in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


# -- the same as sphere_groups -----------------------------------------------------------------------------------

KINDS = (
    *("pre_activation_resnet", "depthwise_and_transposed", "pre_norm_transformer_with_qk_norm", "tied_embeddings"),
    *("layer_norm_lstm_cell", "weight_normalised", "frozen_parameters"),
)


@pytest.mark.parametrize("spheres", SPHERES)
@pytest.mark.parametrize("name", KINDS)
def test_groups_are_those_of_sphere_groups(name, spheres):
    model, call = ZOO[name].make()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="at their present norms")
        want = onsphere.sphere_groups(model, *call.args, spheres=spheres, **call.kwargs)
    found = onsphere.find_symmetries(model, *call.args, rows=spheres == "rows", unused="ignore", **call.kwargs)
    groups = found.groups_for(model, spheres=spheres)
    assert listed(groups) == listed(want)
    assert all(set(group) == {"params", "names", "sphere"} for group in groups)


def checkpointed():
    model = seeded(net)
    model[2] = checkpoint_wrapper(model[2])
    return model


def compiled_inside():
    model = seeded(net)
    model[2][0] = torch.compile(model[2][0])
    return nn.DataParallel(model)


WRAPPED = {
    "plain": lambda: seeded(net),
    "compiled": lambda: torch.compile(seeded(net)),
    "data parallel": lambda: nn.DataParallel(seeded(net)),
    "distributed": lambda: nn.parallel.DistributedDataParallel(seeded(net)),
    "compiled and distributed": lambda: torch.compile(nn.parallel.DistributedDataParallel(seeded(net))),
    "compiled inside data parallel": compiled_inside,
    "checkpointed": lambda: checkpoint_wrapper(seeded(net)),
    "checkpointed inside": checkpointed,
}


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("way", WRAPPED)
def test_wrappers_change_nothing_on_either_side(way, found):
    model = WRAPPED[way]()
    own = dict(model.named_parameters())
    assert (set(own) != set(found.names)) == (way not in ("plain", "checkpointed"))
    there = searched(model)
    for spheres in SPHERES:
        groups = found.groups_for(model, spheres=spheres)
        want = onsphere.sphere_groups(model, batch(16, 6), spheres=spheres)
        assert listed(groups) == listed(want)
        assert all(p is own[name] for group in groups for name, p in zip(group["names"], group["params"], strict=True))
        # and a search of the wrapped one serves the plain one
        plain = seeded(net)
        assert listed(there.groups_for(plain, spheres=spheres)) == listed(found.groups_for(plain, spheres=spheres))


def test_sharded_models_have_the_same_groups_and_other_tensors(mesh, found):
    model, plain = seeded(net), seeded(net)
    fully_shard(model[2], mesh=mesh)
    fully_shard(model, mesh=mesh)
    for spheres in SPHERES:
        groups = found.groups_for(model, spheres=spheres)
        assert named(groups) == named(found.groups_for(plain, spheres=spheres))
        assert all(isinstance(p, DTensor) for group in groups for p in group["params"])
        own = {id(p) for p in model.parameters()}
        assert {id(p) for group in groups for p in group["params"]} == own


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`", "ignore:.*FSDP1.*:FutureWarning")
def test_models_of_the_first_fsdp_have_the_same_groups(mesh, found):
    model = FullyShardedDataParallel(seeded(net), use_orig_params=True, device_id=torch.device("cpu"))
    groups = found.groups_for(model)
    assert groups[0]["names"] == [f"_fsdp_wrapped_module.{name}" for name in found.invariant]


def test_models_without_weights_and_of_other_sizes(found):
    with torch.device("meta"):
        model = net(width=1000)
    for spheres in SPHERES:
        groups = found.groups_for(model, spheres=spheres)
        assert named(groups) == named(onsphere.sphere_groups(seeded(net), batch(16, 6), spheres=spheres))
        assert all(p.is_meta for group in groups for p in group["params"])
    assert found.groups_for(model)[0]["params"][0].shape == (1000, 6)


def test_groups_are_listed_in_the_order_of_the_model():
    class Two(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                setattr(self, name, {"a": nn.Linear(6, 6, bias=False), "b": nn.Linear(6, 6, bias=False)}[name])
            self.norm = nn.LayerNorm(6, elementwise_affine=False)

        def forward(self, x):
            return self.norm(self.b(self.norm(self.a(x))))

    found, other = searched(Two("ab")), Two("ba")
    for spheres in SPHERES:
        assert listed(found.groups_for(other, spheres=spheres)) == listed(
            onsphere.sphere_groups(other, batch(16, 6), spheres=spheres)
        )
    assert found.groups_for(other)[0]["names"] == ["b.weight", "a.weight"]


class Tied(nn.Module):
    """One tensor under two names; the order of registration says which is the first."""

    def __init__(self, names="inside outside", tie=True):
        super().__init__()
        for name in names.split():
            setattr(self, name, nn.Linear(6, 6, bias=False))
        self.head = nn.Linear(6, 2)
        if tie:
            self.outside.weight = self.inside.weight

    def forward(self, x):
        for layer in (self.inside, self.outside):
            x = nn.functional.layer_norm(layer(x), (6,))
        return self.head(x)


def test_tied_tensors_are_one_under_any_of_their_names(mesh):
    found = searched(Tied())
    assert found.invariant == ("inside.weight",)
    other = Tied("outside inside")
    assert found.groups_for(other)[0]["names"] == ["outside.weight"]
    assert found.groups_for(torch.compile(other))[0]["names"] == ["_orig_mod.outside.weight"]
    fully_shard(other, mesh=mesh)
    (tensor,) = found.groups_for(other)[0]["params"]
    assert tensor is other.inside.weight and tensor is other.outside.weight
    refused(found, Tied(tie=False), "the search has not seen the model's outside.weight. Search a twin")
    refused(
        searched(Tied(tie=False)),
        Tied(),
        "the model has tied inside.weight = outside.weight. Search a twin that has the same layers, frozen and tied",
    )


class Module(nn.Module):
    """A model with a module that it calls "module" itself, beside a tensor that would have its name without that."""

    def __init__(self):
        super().__init__()
        self.module, self.weight = nn.Linear(6, 6, bias=False), nn.Parameter(torch.ones(6))

    def forward(self, x):
        return nn.functional.layer_norm(self.module(x), (6,)) * self.weight


def test_a_module_called_module_is_not_taken_for_a_wrapper():
    model = nn.Sequential(seeded(Module), nn.Linear(6, 2))
    found = searched(model)
    assert found.invariant == ("0.module.weight",)
    assert found.groups_for(model)[0]["names"] == ["0.module.weight"]
    groups = found.groups_for(nn.DataParallel(model))
    assert groups[0]["names"] == ["module.0.module.weight"] and groups[0]["params"] == [model[0].module.weight]


# -- refusals ----------------------------------------------------------------------------------------------------


def test_what_spheres_may_be(found):
    refused(found, net(), "spheres is 'all'; it must be one of joint, groups, rows", spheres="all")
    refused(searched(rows=False), net(), "needs a search of rows: onsphere.find_symmetries(twin, batch", spheres="rows")


def test_a_search_that_found_no_sphere_makes_no_groups():
    with pytest.raises(onsphere.SymmetryError, match="the search found no scale-invariant tensor"):
        searched(nn.Linear(6, 3)).groups_for(nn.Linear(6, 3))


def test_a_deeper_model_is_not_its_twin():
    class Stack(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.layers, self.head = nn.Sequential(*(net() for _ in range(depth))), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(torch.cat([layer(x) for layer in self.layers]))

    found = searched(seeded(lambda: Stack(2)))
    refused(
        found,
        nn.DataParallel(Stack(3)),
        [
            "are not those of the search: the search has not seen the model's module.layers.2.0.weight, ",
            "module.layers.2.2.0.weight and others, 14 in all. Search a twin that has the same layers, frozen and tied",
        ],
    )
    refused(
        found, Stack(1), "the model lacks layers.1.0.weight (scale-invariant), layers.1.0.bias, layers.1.1.weight ("
    )


def test_frozen_tensors_must_be_frozen_in_the_twin(found):
    model = net()
    model[0].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    refused(found, model, "the model has frozen 0.weight (scale-invariant), 0.bias. Search a twin")
    refused(searched(model), net(), "the search has not seen the model's 0.weight, 0.bias. Search a twin")
    assert named(searched(model).groups_for(model)) == named(onsphere.sphere_groups(model, batch(16, 6)))


def test_tensors_of_one_name_have_one_number_of_dimensions(found):
    model = net()
    model[0].weight = nn.Parameter(torch.ones(8, 6, 1))
    refused(found, model, "other numbers of dimensions in the search and in the model: 0.weight (8, 6) and (8, 6, 1).")
    refused(found, nn.Sequential(nn.LazyLinear(8)), "lazy parameters without a shape (0.weight, 0.bias)")


def test_a_twin_of_one_row_does_not_say_whether_rows_can_be_rescaled():
    def row(width):
        return nn.Sequential(nn.Linear(6, width, bias=False), nn.BatchNorm1d(width), nn.Linear(width, 2))

    one, many = searched(row(1)), searched(row(4))
    assert one.groups_for(row(4))[0]["names"] == ["0.weight"]
    refused(
        one, row(4), "tensors of one row in the search have several in the model: 0.weight. Whether", spheres="rows"
    )
    assert named(one.groups_for(row(1), spheres="rows"))[0] == ("joint", ["0.weight"])
    assert named(many.groups_for(row(1), spheres="rows"))[0] == ("joint", ["0.weight"])
    assert named(many.groups_for(row(9), spheres="rows"))[0] == ("rows", ["0.weight"])


# -- groups whose tensors were replaced --------------------------------------------------------------------------


def trains(model, optimizer):
    """Which of the model's parameters a step moves."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.zero_grad()
    model(batch(16, 6)).square().mean().backward()
    optimizer.step()
    return [name for name, p in model.named_parameters() if not torch.equal(_whole(p), _whole(before[name]))]


def _whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def test_groups_from_before_fully_shard_train_nothing_until_they_are_regrouped(mesh):
    model = seeded(net)
    groups = onsphere.sphere_groups(model, batch(16, 6), spheres="groups")
    groups[0]["radius"], groups[-1]["lr"] = 2.0, 0.01
    fully_shard(model[2], mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert trains(model, torch.optim.SGD(groups, 0.1)) == []
    regrouped = onsphere.regroup(groups, model)
    assert named(regrouped) == named(groups) and regrouped[0]["radius"] == 2.0 and regrouped[-1]["lr"] == 0.01
    assert listed(onsphere.regroup(regrouped, model)) == listed(regrouped)
    assert not any(isinstance(p, DTensor) for group in groups for p in group["params"])  # as they were
    moved = trains(model, torch.optim.SGD(regrouped, 0.1))
    assert set(moved) == {name for name, _ in model.named_parameters()} - {"0.bias", "2.0.bias"}  # of no effect


def test_groups_are_found_again_through_wrappers_and_from_an_optimiser():
    model = seeded(net)
    optimizer = torch.optim.SGD(onsphere.sphere_groups(model, batch(16, 6)), lr=0.1)
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()}, assign=True)
    wrapped = nn.DataParallel(torch.compile(model))
    regrouped = onsphere.regroup(optimizer.param_groups, wrapped)
    own = dict(wrapped.named_parameters())
    assert all(own[n] is p for group in regrouped for n, p in zip(group["names"], group["params"], strict=True))
    assert regrouped[0]["lr"] == 0.1 and regrouped[0]["sphere"] == "joint"
    by_torch = torch.optim.SGD(seeded(net).named_parameters(), lr=0.1)
    assert [id(p) for p in onsphere.regroup(by_torch.param_groups, model)[0]["params"]] == [
        *map(id, model.parameters())
    ]


def test_groups_that_cannot_be_found_again():
    model, weight = Tied(), nn.Parameter(torch.ones(6, 6))
    for groups, words in (
        ([{"params": [weight]}], "param group 0 has no 'names', one for each of its params"),
        ([{"params": [weight], "names": ["nobody"]}], "the model has no parameter of the name of nobody"),
        ([{"params": [weight[:3]], "names": ["inside.weight"]}], r"shape \(3, 6\) in the groups and \(6, 6\) in the"),
        (
            [{"params": [weight], "names": ["inside.weight"]}, {"params": [weight], "names": ["outside.weight"]}],
            "inside.weight and outside.weight are one tensor in the model",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            onsphere.regroup(groups, model)


@pytest.mark.parametrize("module", [mapping, result])
def test_examples_run(module):
    names = {"torch": torch, "nn": nn, "onsphere": onsphere}
    assert doctest.testmod(module, extraglobs=names).failed == 0
    assert doctest.testmod(module, extraglobs=names).attempted >= 3
