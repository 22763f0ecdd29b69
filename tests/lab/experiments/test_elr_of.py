"""Which tensors the effective learning rate is that of: the papers' count on their networks, in runs, and refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import onsphere
from onsphere.lab import InputError, train_periods
from onsphere.lab.experiments.conventional.run import prepare as prepare_conventional
from onsphere.lab.experiments.conventional.spec import ConventionalSpec
from onsphere.lab.experiments.periods.page import report
from onsphere.lab.experiments.periods.run import prepare
from onsphere.lab.experiments.periods.science.setups import AllTrained
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.course import courses_of
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run

pytestmark = pytest.mark.usefixtures("undrawn_module")

SMALL = {"train": 40, "test": 20, "widths": [6, 5], "batch_size": 10, "evaluations": 1, "workers": 1, "seeds": 1}
ENGINE = {"mode": "loop", "compiled": "no", "dtype": "float64"}


@pytest.mark.parametrize(("model", "tensors", "of_all", "gains"), [("convnet", 4, 10, 7), ("resnet18", 20, 51, 58)])
def test_gains_count_as_much_as_was_found_on_the_published_networks(model, tensors, of_all, gains):
    """Width k: gains of one add 7 k to the ConvNet's 5 k and 58 k to the ResNet's 25 k: 2.4 and 3.3 times it."""
    width = 8
    given = {"input_shape": (3, 8, 8), "classes": 10, "width": width, "head_norm": 10.0, "eps": 1e-5}
    torch.manual_seed(0)
    network = AllTrained(model)(**given)
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole, weights = (onsphere.sphere_groups(network, x, only=only)[0]["params"] for only in (None, "weights"))
    assert (len(weights), len(whole)) == (tensors, of_all)
    square = [sum(float(p.detach().double().square().sum()) for p in params) for params in (weights, whole)]
    assert sum(p.numel() for p in whole if p.dim() == 1 and bool((p == 1).all())) == gains * width
    assert square[1] / square[0] == pytest.approx({"convnet": 2.4, "resnet18": 3.32}[model], rel=0.02)


@pytest.fixture(scope="module")
def practical(tmp_path_factory):
    folder = tmp_path_factory.mktemp("practical") / "run"
    given = {"setup": "practical", "lr": 0.3, "weight_decay": 1e-2, "elr_of": "weights", "steps": 12, "burn_in": 2}
    return train_periods(**SMALL | ENGINE | given, out=folder)


def test_the_elr_of_a_practical_run_is_that_of_its_matrices_over_one_minus_momentum(practical):
    """Against torch's SGD with momentum on the same network and batches."""
    assert practical.engine.invariant == ["linear1.weight", "linear2.weight"]
    problem = prepare(practical.spec, "mlp", "digits", Progress()).problem
    network = problem.build(0).double()
    optimizer = torch.optim.SGD(network.parameters(), 0.3, momentum=0.9, weight_decay=1e-2)
    counted = [network.get_parameter(name) for name in practical.engine.invariant]
    norms, gradients = [], []
    for rows in problem.batches(0, 0, 12):
        optimizer.zero_grad()
        cross_entropy(network(problem.data.x_train[rows].double()), problem.data.y_train[rows]).backward()
        norms.append(sum(float(p.detach().square().sum()) for p in counted) ** 0.5)
        gradients.append(sum(float(p.grad.square().sum()) for p in counted) ** 0.5)
        optimizer.step()
    (course,) = courses_of(ShardFolder(next((practical.run / "shards").glob("space-*"))), practical.engine.invariant)
    np.testing.assert_allclose(course.elr, 0.3 / (0.1 * np.square(norms)), rtol=1e-9)
    np.testing.assert_allclose(course.gradient, np.multiply(norms, gradients), rtol=1e-9)


def test_the_page_says_which_tensors_count_and_what_momentum_does(practical):
    found = report(Run(practical.run), practical)
    said = dict(found.measured)
    assert said["tensors"].startswith("2 scale-invariant tensors (convolutions and matrices, no gains and biases")
    assert "lr / ((1 − momentum) norm²)" in said["ELR"] and "ELR of 2 tensors" in found.summary


def test_conventional_counts_the_same_tensors_in_every_set_up():
    """By default the ordinary network's gains and biases count; with the choice they do not."""
    counts = {}
    for elr_of in ("all", "weights", "linear?.weight"):
        spec = ConventionalSpec(**SMALL | {"batch_size": 10, "elr_of": elr_of})
        given = prepare_conventional(spec, "mlp", "digits", Progress())
        counts[elr_of] = {setup: one.invariant for setup, one in given.items()}
    weights = ("linear1.weight", "linear2.weight")
    assert counts["all"] == {
        "sphere": weights,
        "invariant": weights,
        "all": (*weights[:1], "bn1.weight", "bn1.bias", *weights[1:]),
    }
    assert counts["weights"] == counts["linear?.weight"] == dict.fromkeys(("sphere", "invariant", "all"), weights)


def biased(input_shape, classes):
    """The weights of its first layer are scale-invariant only together with the biases."""
    size = int(np.prod(input_shape))
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, classes))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"setup": "all-parameters", "elr_of": "bn1.weight"}, "'bn1.weight' picks bn1.weight without bn1.bias"),
        ({"setup": "all-parameters", "elr_of": "head*"}, "picks none of the 4 scale-invariant tensors"),
        ({"elr_of": "linear1*", "compare_sphere": True}, "counts 1 of 2 tensors that are on the sphere together"),
        (
            {"setup": "all-parameters", "elr_of": "weights", "model": biased, "widths": None},
            "'weights' picks 1.weight wi",
        ),
    ],
)
def test_a_choice_that_has_no_elr_is_refused_before_there_is_a_folder(given, said, tmp_path):
    with pytest.raises(InputError, match="--elr-of: ") as error:
        train_periods(**SMALL | ENGINE | {"steps": 8, "burn_in": 0} | given, out=tmp_path / "run")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("elr_of", "setups", "said"),
    [
        ("linear1.weight", ["sphere", "all"], "counts 1 of 2 tensors that are on the sphere together"),
        (
            "linear*,bn1*",
            ["invariant", "all"],
            "does not count the same tensors in the set-ups invariant and all (bn1.bias, bn1.weight)",
        ),
    ],
)
def test_unlike_tensors_are_not_compared(elr_of, setups, said):
    spec = ConventionalSpec(**SMALL | {"elr_of": elr_of, "setups": setups})
    with pytest.raises(InputError) as error:
        prepare_conventional(spec, "mlp", "digits", Progress())
    assert said in str(error.value)


def test_a_part_of_the_tensors_may_be_looked_at_in_the_whole_space():
    spec = PeriodsSpec(**SMALL | {"elr_of": "linear2*", "setup": "all-parameters"})
    assert prepare(spec, "mlp", "digits", Progress()).invariant == ("linear2.weight",)
