"""Learned features: training against a loop written from the formulas, sparsity, accuracies by part, refusals."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from onsphere.lab import InputError, learn_features
from onsphere.lab.data import redundant_features
from onsphere.lab.data.redundant import redrawn, with_feature
from onsphere.lab.experiments.drop.result import Difference, Threshold
from onsphere.lab.experiments.features.analyse import (
    FALSE_SHARE,
    band_differences,
    carrying_limit,
    contrast,
    grouped,
    sparsity,
)
from onsphere.lab.experiments.features.result import Analysis, Contrast, FeatureRun, PartAccuracy
from onsphere.lab.experiments.features.run import edges, part_accuracies, synthetic
from onsphere.lab.experiments.features.spec import FeaturesSpec
from onsphere.lab.experiments.features.words import answer
from onsphere.lab.networks import network
from onsphere.lab.population import Copy, Engine, Plan, Problem
from onsphere.lab.training import problem_of
from pictures import undrawn

ENGINE = {"workers": 1, "mode": "loop", "chunk": 4, "compiled": "no", "dtype": "float64"}
SPEC = {
    **{
        "features": 3,
        "noise": (0.1, 0.4),
        "train": 24,
        "test": 50,
        "widths": (5,),
        "starts": (0.02, 0.08),
        "end": 4e-3,
    },
    **{"seeds": 2, "steps": 40, "drop_steps": 24, "batch_size": 8, "evaluations": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny run on redundant features."""
    with undrawn():
        return learn_features(**SPEC, **ENGINE, out=tmp_path_factory.mktemp("features") / "run")


@pytest.fixture(scope="module")
def problem():
    spec = FeaturesSpec(**SPEC, **ENGINE)
    return replace(problem_of(spec, spec.model, synthetic(spec)), trained=("linear1.weight",))


@pytest.fixture(scope="module")
def trained(problem):
    """Start and seed -> the trained weights, by gradient descent written from the formulas, without the engine."""
    data, spec, found = problem.data.to(dtype=torch.float64), FeaturesSpec(**SPEC), {}
    for start in spec.all_starts():
        for seed in range(spec.seeds):
            parts = dict(problem.build(seed).named_parameters())
            w, head = (parts[name].detach().double() for name in ("linear1.weight", "head.weight"))
            w = w / w.norm()
            for step in range(spec.steps + spec.drop_steps):
                rows = problem.batches(seed, step, step + 1)[0]
                elr = start if step < spec.steps else spec.end
                w.requires_grad_(True)
                z = output(w, head, data.x_train[rows])
                loss = torch.log1p(torch.exp(-(2 * data.y_train[rows] - 1) * z)).mean()
                (gradient,) = torch.autograd.grad(loss, w)
                w = (w - elr * gradient).detach()
                w = w / w.norm()
            found[start, seed] = (w, head)
    return found


def output(w, head, x):
    """What the network 2F - width - 1 says: layer norm without gains, rectifier, one output."""
    before = x @ w.T
    centred = before - before.mean(1, keepdim=True)
    hidden = centred / (centred.square().mean(1, keepdim=True) + 1e-12).sqrt()
    return hidden.clamp(min=0) @ head[0]


def test_it_trains_as_a_plain_loop_does(tiny, trained, problem):
    data = problem.data.to(dtype=torch.float64)
    assert [(run.start, run.seed) for run in tiny.runs] == sorted(trained)
    for run in tiny.runs:
        z = output(*trained[run.start, run.seed], data.x_train)
        loss = float(torch.log1p(torch.exp(-(2 * data.y_train - 1) * z)).mean())
        assert run.train_loss == pytest.approx(loss, rel=1e-8)
        wrong = (output(*trained[run.start, run.seed], data.x_test) > 0) != (data.y_test == 1)
        assert run.test_error == pytest.approx(float(wrong.double().mean()), abs=1e-12) and run.finite


def test_copies_in_one_batched_step_train_as_alone(problem):
    copies, ends = tuple(Copy(seed, elr) for elr in (4e-3, 0.02) for seed in range(2)), []
    for mode in ("vmap", "loop"):
        engine = Engine(problem, copies, Plan(mode, 4))
        state = engine.advance(engine.initial_state(), 30, torch.empty(30, 4, engine.columns, dtype=torch.float64))
        ends.append(state.params[0])
    torch.testing.assert_close(*ends, rtol=0, atol=1e-10)


def test_accuracies_by_feature_are_those_of_that_network(tiny, trained, problem):
    data, rows = problem.data.to(dtype=torch.float64), {(a.start, a.seed, a.part): a for a in tiny.accuracies}
    assert len(rows) == len(trained) * 3
    other = redrawn(data.x_test, data.y_test, 3, 0)
    for (start, seed, part), row in rows.items():
        own = slice(2 * part, 2 * part + 2)
        alone, without = other.clone(), data.x_test.clone()
        alone[:, own], without[:, own] = data.x_test[:, own], other[:, own]
        for view, accuracy in ((alone, row.alone), (without, row.without)):
            right = (output(*trained[start, seed], view) > 0) == (data.y_test == 1)
            assert accuracy == pytest.approx(float(right.double().mean()), abs=1e-12)
    for run in tiny.runs:
        alone = [rows[run.start, run.seed, part].alone for part in range(3)]
        count, effective, _ = sparsity(alone, tiny.limit, [part.best for part in tiny.parts])
        assert (run.count, run.effective) == (count, pytest.approx(effective))


def test_redrawn_features_keep_their_distribution_and_say_nothing_of_the_label():
    data = redundant_features(features=4, train=8, test=20_000, noise=(0.05, 0.1), seed=3)
    other, x = redrawn(data.x_test, data.y_test, 4, 5), data.x_test
    for i in range(4):
        own, drawn = x[:, 2 * i : 2 * i + 2], other[:, 2 * i : 2 * i + 2]
        assert sorted(map(tuple, own.tolist())) == sorted(map(tuple, drawn.tolist()))
        right = ((drawn.prod(1) > 0) == (data.y_test == 1)).double().mean()
        assert float(right) == pytest.approx(0.5, abs=1e-12)  # the noise moves no sign
    signs = other.reshape(-1, 4, 2).prod(-1).sign().double()
    off = torch.corrcoef(signs.T) - torch.eye(4, dtype=torch.float64)
    assert float(off.abs().max()) < 5 / math.sqrt(20_000)
    kept = with_feature(x, other, 2)
    assert torch.equal(kept[:, 4:6], x[:, 4:6]) and torch.equal(kept[:, :4], other[:, :4])
    assert torch.equal(kept[:, 6:], other[:, 6:])


class ReadsOne(nn.Module):
    """Predicts the label from the product of one feature's coordinates."""

    def forward(self, x):
        z = x[:, 4] * x[:, 5]
        return torch.stack([-z, z], 1)


@pytest.mark.parametrize("others", ["redrawn", "mean"])
def test_a_network_of_one_feature_has_an_effective_number_of_one(others):
    spec = FeaturesSpec(features=4, noise=(0.1, 0.2), train=512, test=4000, others=others)
    problem = Problem(synthetic(spec), "layer-norm-mlp")
    alone, without = part_accuracies(spec, problem, ReadsOne())
    assert alone[2] == 1 and without[:2] == [1, 1] and without[3] == 1
    limit = carrying_limit(4000, 4)
    assert without[2] == (0.5 if others == "redrawn" else pytest.approx(0.5, abs=0.4))
    count, effective, useful = sparsity(alone, limit, [0.1, 0.2, 0.9, 0.3])
    assert (count, effective, useful) == (1, 1.0, pytest.approx(0.9))


def test_the_effective_number_is_the_participation_ratio():
    best = [1.0, 0.9, 0.8, 0.7]
    assert sparsity([0.7] * 4, 0.52, best) == (4, pytest.approx(4), pytest.approx(0.85))
    assert sparsity([0.51, 0.5, 0.4, 0.52], 0.52, best)[:2] == (0, 0.0)
    count, effective, useful = sparsity([0.9, 0.7, 0.51, 0.3], 0.52, best)
    assert (count, effective) == (2, pytest.approx(0.6**2 / (0.4**2 + 0.2**2)))
    assert useful == pytest.approx((0.4 * 1.0 + 0.2 * 0.9) / 0.6)


def test_features_that_say_nothing_rarely_carry():
    for examples, features in ((4096, 16), (1000, 4)):
        limit = carrying_limit(examples, features)
        one = binom.sf(math.floor(limit * examples), examples, 0.5)
        assert FALSE_SHARE / 2 < 1 - (1 - one) ** features < 1.3 * FALSE_SHARE


def run_of(start, seed, effective):
    return FeatureRun(start, seed, 0.1, 0.0, 0.1, 0.1, 3, effective, 0.9, True)


def test_groups_leave_out_the_metastable_starts():
    starts = [1e-3, 3e-3, 6e-3, 0.01, 0.02, 0.05, 0.06, 1.0]
    groups = grouped(starts, 0.01)
    assert groups == [("small", [1e-3, 3e-3]), ("above", [0.02, 0.05]), ("large", [0.06, 1.0])]
    assert grouped(starts, None) == [] and [name for name, _ in grouped([0.02, 0.03], 0.01)] == ["above"]


def test_a_contrast_is_paired_by_seed_and_holds_with_the_other():
    groups = {"small": [1e-3, 2e-3], "above": [0.02]}
    small = {(1e-3, 0): 10, (2e-3, 0): 12, (1e-3, 1): 8, (2e-3, 1): 8, (1e-3, 2): 9, (2e-3, 2): 11}
    runs = [run_of(start, seed, float(value)) for (start, seed), value in small.items()]
    runs += [run_of(0.02, seed, value) for seed, value in enumerate((5.0, 4.0, 3.0))]
    found = contrast(groups, "small", runs)
    differences = np.array([5.0 - 11, 4.0 - 8, 3.0 - 10])
    assert found.difference.mean == pytest.approx(differences.mean()) and found.difference.seeds == 3
    reach = 6.205347 * differences.std(ddof=1) / math.sqrt(3)  # Student, 2 degrees, 97.5 % + half of the rest
    assert found.difference.high == pytest.approx(differences.mean() + reach, rel=1e-6)
    assert contrast(groups, "large", runs) is None


@pytest.mark.parametrize(
    ("small", "large", "verdict"),
    [
        ((-3, -1), (-2, -0.5), "seen"),
        ((-3, -1), (-2, 0.5), "not decided"),
        ((-3, -1), (0.2, 1), "not seen"),
        ((-3, -1), None, "not decided"),
        ((math.nan, math.nan), (-2, -1), "not decided"),
    ],
)
def test_what_is_seen(small, large, verdict):
    given = [(name, ends) for name, ends in (("small", small), ("large", large)) if ends]
    contrasts = [Contrast(name, Difference(sum(ends) / 2, *ends, 5)) for name, ends in given]
    found = Analysis([], Threshold(0.01, 0.02, True, None), [], contrasts, [])
    assert found.verdict == verdict


def test_differences_of_bands_are_paired_with_the_control():
    values = {(0.1, 0): 0.5, (0.1, 1): 0.6, (1e-3, 0): 0.3, (1e-3, 1): 0.35}
    rows = [PartAccuracy(start, seed, 0, value, 1 - value) for (start, seed), value in values.items()]
    (found,) = band_differences(rows, 1e-3)
    assert (found.start, found.part, found.alone.seeds) == (0.1, 0, 2)
    assert found.alone.mean == pytest.approx(0.225) and found.without.mean == pytest.approx(-0.225)
    assert found.alone.high - found.alone.mean == pytest.approx(12.706205 * 0.025, rel=1e-6)  # one degree of freedom
    equal = [PartAccuracy(start, seed, 0, start, 0.5) for start in (0.25, 0.5) for seed in range(3)]
    (found,) = band_differences(equal, 0.25)
    assert found.alone.mean == 0.25 and math.isnan(found.alone.low) and not found.alone.clear


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """A tiny run on digits with a batch-norm network; the first band holds everything."""
    fields = {"train": 40, "test": 30, "widths": (6,), "starts": (0.1,), "end": 5e-3, "seeds": 2, "steps": 24}
    fields |= {"drop_steps": 16, "batch_size": 10, "evaluations": 1, "bands": (0, 9, 10)}
    with pytest.raises(InputError, match="--bands: 9,10 is not allowed: images of 8 x 8 pixels have no frequency"):
        learn_features("mlp", "digits", **fields, **ENGINE, out=tmp_path_factory.mktemp("none") / "run")
    fields |= {"bands": (0, 9)}
    with undrawn():
        return learn_features("mlp", "digits", **fields, **ENGINE, out=tmp_path_factory.mktemp("bands") / "run")


def test_a_band_of_all_frequencies_alone_is_the_image(bands):
    assert bands.limit is None and bands.groups == [] and [part.name for part in bands.parts] == ["0 to 9"]
    for run, row in zip(bands.runs, bands.accuracies, strict=True):
        assert (run.start, run.seed) == (row.start, row.seed)
        assert row.alone == pytest.approx(1 - run.test_error, abs=1e-12)
        assert run.count is None and run.effective is None
    for seed in range(2):
        (row,) = (r for r in bands.accuracies if (r.start, r.seed) == (0.1, seed))
        assert 0 <= row.without <= 0.3  # an empty image has one label for all


def test_words_say_what_is_not_decided(bands, tiny):
    nothing = Difference(0.0, math.nan, math.nan, 2)
    undecided = [replace(row, alone=nothing, without=nothing) for row in bands.differences]
    said = " ".join(answer(replace(bands, differences=undecided)))
    assert "Which bands a start makes a network read is not decided" in said and "none of 1 pairs" in said
    clear = [replace(row, alone=Difference(0.1, 0.05, 0.15, 2)) for row in undecided]
    said = " ".join(answer(replace(bands, differences=clear)))
    assert "1 of 1 pairs of a start and a band differs clearly" in said and "+10.0 (+5.0 to +15.0)" in said
    assert "pairs" not in " ".join(answer(replace(bands, differences=[])))
    unknown = replace(tiny, threshold=Threshold(None, None, False, None), groups=[], contrasts=[])
    assert "cannot be decided: the convergence threshold is not bracketed" in answer(unknown)[1]


def test_bands_hold_every_frequency_once_by_default():
    spec = FeaturesSpec(data="digits")
    assert edges(spec, (1, 8, 8)) == (0, 1, 2, 3, 4, 6, 7, 8, 9) and edges(spec, (1, 28, 28))[-1] == 29
    assert edges(spec, (1, 2, 2)) == (0, 1, 2, 3) and edges(spec, (3, 32, 32))[0] == 0


def test_filtered_images_meet_statistics_of_whole_ones(bands):
    """What the run measured is found again from its weights and the statistics of the unfiltered training images."""
    from safetensors.torch import load_file

    spec = bands.spec
    problem = replace(problem_of(spec, "mlp", "digits"), trained=("linear1.weight",))
    shard = SimpleNamespace(weights=load_file(next(iter(bands.run.glob("shards/drop-000/weights.safetensors")))))
    model = network(problem, shard.weights, 0, 0)
    data = problem.data.to(dtype=torch.float64)
    before = data.x_train.flatten(1) @ model.linear1.weight.T
    model.bn1.running_mean, model.bn1.running_var = before.mean(0), before.var(0, unbiased=False)
    with torch.no_grad():
        right = (model(data.x_test).argmax(1) == data.y_test).double().mean()
    first = bands.runs[0]
    assert (first.start, first.seed) == (5e-3, 0)
    assert 1 - first.test_error == pytest.approx(float(right), abs=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bands": (0, 2)}, "bands: 0,2 is not allowed with the synthetic data, which have none: it cuts images"),
        ({"data": "digits", "others": "mean"}, "others: mean is not allowed with --data digits: it is for the synth"),
        ({"data": "digits", "noise": (0.1, 0.2)}, "noise: 0.1,0.2 is not allowed with --data digits"),
        ({"pool": 2}, "pool: 2 is not allowed"),
        ({"noise": (0.5, 0.1)}, "noise: .* must be a least and a most"),
        ({"data": "digits", "bands": (2, 1)}, "bands: .* each larger than the one before"),
        ({"train": "all"}, "train: all is not allowed with the synthetic data"),
        ({"train": 10}, "batch-size: 16 is not allowed: there are 10"),
        ({"data": "nonsense"}, "nonsense"),
    ],
)
def test_what_cannot_be_asked_is_refused(fields, message, tmp_path):
    given = {"data": "synthetic"} | fields
    with pytest.raises(InputError, match=message):
        learn_features(**given, workers=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_own_examples_that_are_no_images_are_refused(tmp_path):
    x, y = np.zeros((20, 6), np.float32), np.arange(20) % 2
    with pytest.raises(InputError, match="examples of shape 6 are not allowed: bands of frequency are those of images"):
        learn_features("mlp", (x, y, x, y), out=tmp_path / "run")


def test_label_noise_reaches_the_training_labels_of_synthetic_data_alone():
    clean, noisy = (synthetic(FeaturesSpec(train=100, test=60, label_noise=share)) for share in (0.0, 0.2))
    assert int((clean.y_train != noisy.y_train).sum()) == 20 == int(noisy.noisy.sum())
    assert torch.equal(clean.y_test, noisy.y_test) and torch.equal(clean.x_train, noisy.x_train)
