"""One meaning of ``parameters=``, whatever takes them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onsphere
from onsphere import curvature
from onsphere.functional.selection import select_among, select_parameters
from onsphere.functional.wrappers import matched_names, plain_name
from onsphere.landscape import SphereAverage, angle, average, barrier, geodesic, slice_along, slice_through, train_curve

X = torch.randn(24, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def network(seed=0):
    """Three layers, the second frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Tanh()),
            *(nn.Linear(8, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3)),
        ).double()
    for parameter in model[3].parameters():
        parameter.requires_grad_(False)
    return model


def chosen(model, parameters):
    """The names that everything with ``parameters=`` makes of them, which must be the same."""
    other, batch = copy.deepcopy(model), (X, Y)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    found = {
        select_parameters(model, parameters),
        curvature.hessian_operator(model, F.cross_entropy, batch, parameters).names,
        tuple(curvature.SharpnessTracker(F.cross_entropy, batch, parameters=parameters)(model).slices),
        barrier(model, model, other, F.cross_entropy, batch, 3, parameters=parameters).on_sphere,
        train_curve(model, model, other, F.cross_entropy, batch, 1, parameters=parameters).ends.on_sphere,
    }
    assert len(found) == 1, found
    (names,) = found
    flat = torch.cat([dict(model.named_parameters())[n].detach().flatten() for n in names])
    there = torch.cat([dict(other.named_parameters())[n].detach().flatten() for n in names])
    expected = torch.acos(flat @ there / flat.norm() / there.norm())
    assert angle(model, other, parameters) == pytest.approx(float(expected), rel=1e-6)
    # The norm of what is on the sphere is that between the ends.
    middle = geodesic(model, other, 0.5, parameters)
    assert float(torch.cat([middle[n].flatten() for n in names]).norm()) == pytest.approx(
        float(flat.norm() + there.norm()) / 2
    )
    mean = average([model, other], parameters=parameters)
    assert float(torch.cat([mean[n].flatten() for n in names]).norm()) == pytest.approx(
        float(flat.norm() + there.norm()) / 2
    )
    assert slice_along(model, model, F.cross_entropy, batch, 2, parameters=parameters).radius == pytest.approx(
        float(flat.norm())
    )
    return names


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ("*.weight", ("0.weight", "5.weight")),
        ("3.weight", ("3.weight",)),
        (["3.*", "0.bias"], None),
        (["5.weight", "0.*"], ("0.weight", "0.bias", "5.weight")),
        ({"names": ["3.bias", "0.weight"]}, ("0.weight", "3.bias")),
        ([{"names": ["3.bias"]}, "5.*"], ("3.bias", "5.weight", "5.bias")),
    ],
)
def test_patterns_match_what_is_trainable_and_names_what_they_name(parameters, names):
    model = network()
    if names is None:
        for call in (select_parameters, lambda m, p: angle(m, m, p), lambda m, p: SphereAverage(p).update(m)):
            with pytest.raises(ValueError, match="only frozen ones match"):
                call(model, parameters)
        return
    assert chosen(model, parameters) == names


def test_none_is_what_is_trainable():
    model = network()
    trainable = ("0.weight", "0.bias", "5.weight", "5.bias")
    assert select_parameters(model) == trainable
    assert barrier(model, model, network(1), F.cross_entropy, (X, Y), 3, "chord").on_sphere == trainable
    found = slice_through(model, [network(s) for s in range(3)], F.cross_entropy, (X, Y), 2, sphere=False)
    assert found.radius > 0
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for call in (select_parameters, lambda m: angle(m, m), lambda m: average([m, m])):
        with pytest.raises(ValueError, match="requires a gradient: give `parameters`"):
            call(model)


def test_tensors_and_groups_of_the_model():
    model = network()
    assert chosen(model, [model[3].weight, model[0].bias]) == ("0.bias", "3.weight")
    group = onsphere.sphere_groups(model, X)[0]
    assert chosen(model, group) == tuple(group["names"])
    assert chosen(model, model[0].weight) == ("0.weight",)


def test_a_group_of_another_model_goes_by_its_names():
    model = network()
    group = onsphere.sphere_groups(network(1), X)[0]
    assert chosen(model, group) == tuple(group["names"])
    with pytest.raises(ValueError, match="not a parameter of the model"):
        select_parameters(model, {"params": group["params"]})


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ([], ValueError, "`parameters` is empty"),
        ("0.wieght", ValueError, "did you mean 0.weight"),
        (torch.zeros(2), ValueError, "not a parameter of the model"),
        ([3], TypeError, "an entry of `parameters` is a int"),
        (3, TypeError, "`parameters` is a int; it must be None"),
        ({"lr": 1}, ValueError, "needs the key 'params' or 'names'"),
    ],
)
def test_a_mistake_is_the_same_error_everywhere(parameters, error, match):
    model, batch = network(), (X, Y)
    calls = [
        lambda: select_parameters(model, parameters),
        lambda: curvature.top_eigenvalues(model, F.cross_entropy, batch, 1, parameters),
        lambda: curvature.gradient_noise(model, F.cross_entropy, [batch, batch], parameters),
        lambda: curvature.trace(model, F.cross_entropy, batch, groups={"g": parameters}),
        lambda: barrier(model, model, network(1), F.cross_entropy, batch, parameters=parameters),
        lambda: train_curve(model, model, network(1), F.cross_entropy, batch, 1, parameters=parameters),
        lambda: slice_along(model, model, F.cross_entropy, batch, parameters=parameters),
        lambda: average([model, model], parameters=parameters),
        lambda: SphereAverage(parameters).update(model),
        lambda: angle(model, model, parameters),
        lambda: geodesic(model, model, 0.5, parameters),
    ]
    for call in calls:
        with pytest.raises(error, match=match):
            call()


def test_points_that_are_no_modules_know_no_frozen_weights():
    model = network()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert select_among(state, "*.weight") == ("0.weight", "3.weight", "5.weight")
    assert select_among(state, "*.weight", model) == ("0.weight", "5.weight")
    assert angle(state, network(1), "*.weight") == angle(model, network(1), "*.weight")  # one of them knows
    with pytest.raises(ValueError, match="which is no module: select by name"):
        angle(state, state, model[0].weight)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_parameters_go_by_every_name():
    model = Tied()
    for parameters in ("head.weight", "head.*", model.head.weight, ["embedding.weight", "head.weight"]):
        assert select_parameters(model, parameters) == ("embedding.weight",)


class Prefixed(nn.Module):
    """Looks as a wrapped model does in its state dict."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_names_lose_what_wrappers_put_there():
    for name, plain in (
        ("0.weight", "0.weight"),
        ("module._orig_mod.module.0._orig_mod.weight", "0.weight"),
        ("_fsdp_wrapped_module.0._checkpoint_wrapped_module._fsdp_wrapped_module.weight", "0.weight"),
        ("0.module.weight", "0.module.weight"),  # may be the model's own
        ("module", "module"),
    ):
        assert plain_name(name) == plain
    own = dict.fromkeys(["0.module.weight", "0.weight"])
    assert matched_names({"module.0.module.weight": 1, "module.0.weight": 2}, own) == {
        "0.module.weight": 1,
        "0.weight": 2,
    }
    assert matched_names({"0.weight": 1}, {"module.0.module.weight": None}) == {"module.0.module.weight": 1}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_state_dicts_of_wrapped_models_are_points(prefix):
    a, b = network(), network(1)
    wrapped = {prefix + name: tensor for name, tensor in b.state_dict().items()}
    names = ("0.weight", "0.bias")
    for path in ("geodesic", "chord"):
        plain = barrier(a, a, b, F.cross_entropy, (X, Y), 3, path, parameters=names)
        found = barrier(a, a, wrapped, F.cross_entropy, (X, Y), 3, path, parameters=[prefix + n for n in names])
        assert found.on_sphere == names
        assert found.losses.tolist() == plain.losses.tolist()
    assert angle(a, wrapped, names) == angle(a, b, names)
    assert angle(wrapped, a, names) == pytest.approx(angle(a, b, names), rel=1e-12)
    torch.testing.assert_close(geodesic(a, wrapped, 0.3, names), geodesic(a, b.state_dict(), 0.3, names))
    torch.testing.assert_close(average([a, wrapped], parameters=names), average([a, b.state_dict()], parameters=names))
    mean = SphereAverage(names).update(wrapped).apply(network(2))
    torch.testing.assert_close(mean.state_dict(), dict(b.state_dict()))


def test_a_module_that_is_called_module_keeps_its_name():
    model = Prefixed(network())
    assert select_parameters(model, "module.0.weight") == ("module.0.weight",)
    assert select_parameters(model, "0.weight") == ("module.0.weight",)
