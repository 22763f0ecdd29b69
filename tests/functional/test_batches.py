"""One meaning of ``batches=`` and ``forward=``, whatever takes them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from onsphere import curvature, landscape
from onsphere.functional.batches import as_batches, examples_in, first_examples, placed
from onsphere.landscape import SphereAverage, average, barrier, slice_along, slice_through, train_curve

U, V = torch.randn(2, 24, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
SPHERE = "body.weight"


class One(nn.Module):
    """A scale-invariant layer and a head, of the sum of what the way of calling it gives."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body, self.norm, self.head = nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.double()

    def forward(self, x):
        return self.head(F.relu(self.norm(self.body(x))))


class Two(One):
    def forward(self, u, v):
        return super().forward(u + v)


class Optional(One):
    def forward(self, u, v=None):
        return super().forward(u if v is None else u + v)


class Keywords(One):
    def forward(self, *, left, right):
        return super().forward(left + right)


class OneDictionary(One):
    """Takes its batch as one argument, which only ``forward`` can say."""

    def forward(self, batch):
        return super().forward(batch["left"] + batch["right"])


SPELLINGS = {
    "one tensor": (One, (U + V, Y), {}),
    "two tensors": (Two, ((U, V), Y), {}),
    "a list of two": (Two, [[U, V], Y], {}),
    "keywords": (Keywords, ({"left": U, "right": V}, Y), {}),
    "an optional one": (Optional, ((U, V), Y), {}),
    "two batches": (Two, [((U[:10], V[:10]), Y[:10]), ((U[10:], V[10:]), Y[10:])], {}),
    "forward": (OneDictionary, ({"left": U, "right": V}, Y), {"forward": lambda model, batch: model(batch)}),
    "a loader": (Two, DataLoader([((u, v), y) for u, v, y in zip(U, V, Y, strict=True)], batch_size=24), {}),
}


def measures(kind, batches, **forward):
    """Everything that takes batches, as numbers that depend on what the model was given."""
    a, b, c = (kind(seed) for seed in range(3))
    mean = SphereAverage(SPHERE).update(a).update(b)
    curve = train_curve(a, a, b, F.cross_entropy, batches, 3, parameters=SPHERE, **forward)
    tracker = curvature.SharpnessTracker(F.cross_entropy, batches, sphere=True, **forward)
    same = {"parameters": SPHERE, **forward}
    return {
        "top_eigenvalues": curvature.top_eigenvalues(a, F.cross_entropy, batches, sphere=True, **forward).values[0],
        "hessian_operator": curvature.hessian_operator(a, F.cross_entropy, batches, **forward).loss,
        "tracker": tracker(a).values[0],
        "trace": float(curvature.trace(a, F.cross_entropy, batches, probes=2, **same)),
        "density": curvature.spectral_density(a, F.cross_entropy, batches, probes=1, steps=2, **same).nodes.sum(),
        "barrier": barrier(a, a, b, F.cross_entropy, batches, 3, **forward).losses[1],
        "curve": curve.barrier(F.cross_entropy, batches, 3, **forward).losses[1],
        "slice_through": slice_through(a, [a, b, c], F.cross_entropy, batches, 2, **same).losses[0, 0],
        "slice_along": slice_along(a, a, F.cross_entropy, batches, 2, **same).losses[0, 0],
        "average": float(
            average([a, b], parameters=SPHERE, model=a, batches=batches, **forward)["norm.running_var"][0]
        ),
        "apply": float(mean.apply(kind(), batches, **forward).norm.running_var[0]),
    }


@pytest.fixture(scope="module")
def expected():
    return measures(One, (U + V, Y))


@pytest.mark.parametrize("spelling", [s for s in SPELLINGS if s not in ("one tensor", "two batches")])
def test_every_spelling_means_the_same_everywhere(spelling, expected):
    kind, batches, forward = SPELLINGS[spelling]
    found = measures(kind, batches, **forward)
    assert found == pytest.approx(expected, rel=1e-9)


def test_several_batches_of_several_inputs_mean_the_same_everywhere():
    kind, batches, _ = SPELLINGS["two batches"]
    assert measures(kind, batches) == pytest.approx(measures(One, [(u + v, y) for (u, v), y in batches]), rel=1e-9)
    noise = curvature.gradient_noise(kind(), F.cross_entropy, batches, sphere=True)
    plain = curvature.gradient_noise(One(), F.cross_entropy, [(u + v, y) for (u, v), y in batches], sphere=True)
    assert noise.noise_trace == pytest.approx(plain.noise_trace, rel=1e-9)


def two_targets(output, target):
    return F.cross_entropy(output, target[0]) + F.mse_loss(output[:, 0], target[1])


PAIRS = ((U, V), (Y, U[:, 0]))


@pytest.mark.parametrize("batches", [PAIRS, [*map(list, PAIRS)], [PAIRS]])
def test_two_pairs_are_one_batch_for_a_model_that_takes_two_inputs(batches):
    loss = two_targets(Two().eval()(U, V), PAIRS[1]).detach()
    assert curvature.hessian_operator(Two(), two_targets, batches, mode="eval").loss == pytest.approx(float(loss))
    a = Two()
    assert barrier(a, a, a, two_targets, batches, 3, "chord", mode="eval").losses[0] == pytest.approx(float(loss))
    tracker = curvature.SharpnessTracker(two_targets, batches)
    assert tracker(a).values == curvature.top_eigenvalues(a, two_targets, batches).values


@pytest.mark.parametrize("form", [tuple, list])
def test_two_pairs_are_two_batches_for_a_model_that_takes_one_input(form):
    batches = form([(U, Y), (V, Y)])
    assert as_batches(batches, One()) == [(U, Y), (V, Y)]
    losses = [curvature.hessian_operator(One(), F.cross_entropy, pair).loss for pair in batches]
    assert curvature.hessian_operator(One(), F.cross_entropy, batches).loss == pytest.approx(sum(losses) / 2)


@pytest.mark.parametrize(("model", "forward"), [(Optional(), None), (None, None), (One(), lambda m, x: m(x))])
def test_a_tuple_that_can_be_read_in_two_ways_is_refused_and_a_list_is_batches(model, forward):
    with pytest.raises(ValueError, match="can mean two batches or one of two inputs and two targets: write"):
        as_batches(((U, V), (Y, Y)), model, forward=forward)
    assert as_batches([(U, V), (Y, Y)], model, forward=forward) == [(U, V), (Y, Y)]


class Stream(IterableDataset):
    def __iter__(self):
        yield U, Y


WRONG = [
    (U, TypeError, "batches is a Tensor"),
    ("data", TypeError, "batches is a str"),
    (3, TypeError, "batches is a int"),
    ({"x": U, "y": Y}, TypeError, "batches is a dict"),
    ([(U, V, Y)], TypeError, "batch 0 is 3 things"),
    ([(U, Y), 3], TypeError, "batch 1 is a int"),
    ([{"x": U, "y": Y}, {"x": V, "y": Y}], TypeError, "batch 0 is a dict"),
    (TensorDataset(U, Y), TypeError, "TensorDataset of single examples; give a DataLoader"),
    ([], ValueError, "batches is empty"),
    ((), ValueError, "batches is empty"),
    (iter([]), ValueError, "exhausted generator"),
    ([(U[:0], Y[:0])], ValueError, "batch 0 has no examples"),
]


@pytest.mark.parametrize(("batches", "error", "match"), WRONG)
def test_a_mistake_is_the_same_error_everywhere(batches, error, match):
    def given():
        return iter([]) if isinstance(batches, type(iter([]))) else batches

    a, b = One(), One(1)
    calls = [
        lambda: curvature.top_eigenvalues(a, F.cross_entropy, given()),
        lambda: curvature.gradient_noise(a, F.cross_entropy, given()),
        lambda: barrier(a, a, b, F.cross_entropy, given(), 3),
        lambda: train_curve(a, a, b, F.cross_entropy, given(), 3, parameters=SPHERE),
        lambda: slice_along(a, a, F.cross_entropy, given(), 2),
    ]
    if "no examples" not in match and not isinstance(batches, torch.Tensor):  # a tensor is inputs there
        calls.append(lambda: average([a, b], model=a, batches=given()))
    for call in calls:
        with pytest.raises(error, match=match):
            call()


def test_the_batches_that_statistics_come_from_are_named():
    a = One()
    with pytest.raises(TypeError, match="batch 0 of statistics is 3 things"):
        barrier(a, a, a, F.cross_entropy, (U, Y), 3, "chord", statistics=[(U, V, Y)])
    with pytest.raises(ValueError, match="statistics is empty"):
        barrier(a, a, a, F.cross_entropy, (U, Y), 3, "chord", statistics=[])


def test_iterables_of_pairs():
    assert as_batches(Stream()) == [(U, Y)]
    assert as_batches(zip(U.split(12), Y.split(12), strict=True))[1][1] is not None
    assert as_batches([U, Y]) == [(U, Y)]  # as a loader gives a batch
    assert as_batches([{"left": U}, {"right": V}]) == [({"left": U}, {"right": V})]


def test_examples_are_counted_by_targets_and_then_by_inputs():
    assert examples_in(U, Y[:7], 0) == 7
    assert examples_in((U, V), (None, Y[:5]), 0) == 5
    assert examples_in({"u": U}, None, 0) == 24
    assert examples_in(torch.tensor(1.0), torch.tensor(2.0), 0) == 1
    assert examples_in(["a"], None, 0) == 1


def test_the_first_examples_are_those_of_tensors_that_have_a_row_for_each():
    mask = torch.ones(30, 30)
    first = first_examples({"x": torch.ones(100, 2), "mask": mask}, 100, 64)
    assert first["x"].shape == (64, 2)
    assert first["mask"] is not None
    assert first["mask"].shape == mask.shape
    assert first_examples(U, 24, 64) is U


def test_batches_follow_a_model_unless_they_were_placed():
    meta = nn.Linear(2, 2, device="meta")
    (moved,) = placed([((U, [V]), Y)], meta)
    assert {t.device.type for t in (moved[0][0], moved[0][1][0], moved[1])} == {"meta"}
    lengths = torch.ones(3)
    (kept,) = placed([((torch.ones(3, device="meta"), lengths), None)], meta)
    assert kept[0][1] is lengths
    several = nn.ModuleList([meta, nn.Linear(2, 2)])
    assert placed([(U, Y)], several) == [(U, Y)]


def test_what_a_forward_pass_does_to_its_inputs_is_not_seen():
    x = U.clone()

    def forward(model, x):
        return model(x.requires_grad_())

    curvature.top_eigenvalues(One(), F.cross_entropy, (x, Y), forward=forward)
    a = One()
    barrier(a, a, a, F.cross_entropy, (x, Y), 3, "chord", forward=forward)
    assert not x.requires_grad
    assert x.grad is None


def test_the_sphere_of_a_model_that_needs_forward():
    found = landscape.barrier(
        OneDictionary(),
        OneDictionary(),
        OneDictionary(1),
        F.cross_entropy,
        ({"left": U, "right": V}, Y),
        3,
        forward=lambda model, batch: model(batch),
    )
    assert found.on_sphere == (SPHERE,)
