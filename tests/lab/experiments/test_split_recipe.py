"""The published recipe of memory splits, against what the formulas of the papers say, written out again here."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from scipy.optimize import minimize
from torch import nn

from onsphere.ensembles import ace, calibrated_nll, ece, nll, sce, size_of, tace, top_k_accuracy, width_for
from onsphere.lab.cli import run_command
from onsphere.lab.data import batch_indices, from_arrays, load
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.split.page import report
from onsphere.lab.experiments.split.pools.laws import laws_in_budget, laws_in_size
from onsphere.lab.experiments.split.pools.points import Point
from onsphere.lab.experiments.split.pools.study import copies_of, paper_phases, prepare
from onsphere.lab.experiments.split.result import MORE, SplitResult
from onsphere.lab.experiments.split.run import resume_split, split_budget
from onsphere.lab.experiments.split.spec import SplitSpec, published, read_setting
from onsphere.lab.models import build, vgg16, wrn28
from onsphere.lab.population import Engine, Plan
from onsphere.lab.population.copies import BATCH_ORDER, INITIAL_WEIGHTS, stream
from onsphere.lab.population.phases import phase_lrs
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run

pytestmark = pytest.mark.usefixtures("undrawn_module")

ENGINE = {"workers": 1, "mode": "loop", "chunk": 1, "compiled": "no", "dtype": "float64"}
SMALL = {"train": None, "seeds": 1, "members": [1], "curves": False} | ENGINE
SHAPE, CLASSES, EXAMPLES, BATCH, STEPS = (3, 8, 8), 10, 30, 8, 20
TINY = "--train 60 --test 60 --steps 8 --batch-size 16"


def factor(step, steps):
    """Of the published learning rate: 1 to half, linear to 1 % at nine tenths, then 1 %."""
    part = step / steps
    if part <= 0.5:
        return 1.0
    return 1.0 - (part - 0.5) / 0.4 * 0.99 if part <= 0.9 else 0.01


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2 * EXAMPLES, *SHAPE)).astype(np.float32)
    y = np.arange(2 * EXAMPLES) % CLASSES
    x += np.eye(CLASSES)[y][:, :8][:, None, :, None].astype(np.float32)  # something to learn
    return x[:EXAMPLES], y[:EXAMPLES], x[EXAMPLES:], y[EXAMPLES:]


def recipe_of(model, width, **more):
    """The published fields of a model of one width, as they are asked of own arrays."""
    fields = published({"model": model, "data": "cifar10", "batch_size": BATCH, "steps": STEPS}) | SMALL | more
    budget = size_of(lambda k: build(model, input_shape=SHAPE, classes=CLASSES, width=k), width).parameters
    left = {name: value for name, value in fields.items() if name not in ("model", "data")}
    return left | {"budget": [budget], "augment": False, "failed_accuracy": 0.0}


def plain_loop(model, width, lr, decay, arrays):
    """The network of seed 0 after the steps, and as it was before them; the formulas alone."""
    network = build(model, input_shape=SHAPE, classes=CLASSES, width=width, seed=stream(0, 0, INITIAL_WEIGHTS)).double()
    x, y = torch.from_numpy(arrays[0]).double(), torch.from_numpy(arrays[1])
    order = batch_indices(EXAMPLES, BATCH, (0, 0, BATCH_ORDER), 0, STEPS)
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    network.train()
    for step, rows in enumerate(order):
        loss = F.cross_entropy(network(x[rows]), y[rows])
        grads = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for (name, p), gradient in zip(network.named_parameters(), grads, strict=True):
                velocity[name] = 0.9 * velocity[name] + gradient + decay * p
                p -= lr * factor(step, STEPS) * velocity[name]
    return {name: p.detach() for name, p in network.named_parameters()}, start


def check_equal(trained, expected, start):
    for name, value in expected.items():
        np.testing.assert_allclose(trained[name], value.numpy(), rtol=0, atol=1e-6, err_msg=name)
    assert max(float((value - start[name]).abs().max()) for name, value in expected.items()) > 1e-3


@pytest.mark.parametrize(("model", "width", "lr", "decay"), [("vgg16", 8, 0.05, 1e-3), ("wrn28", 2, 0.1, 3e-4)])
def test_twenty_steps_of_the_recipe_equal_a_plain_loop(model, width, lr, decay, arrays):
    spec = SplitSpec(model=model, **recipe_of(model, width))
    study = prepare(spec, model, from_arrays(*arrays, standardise=False), Progress())
    assert list(study.problems) == [width]
    engine = Engine(study.problems[width], tuple(copies_of(spec, 1, width)), Plan("loop", 1, traced=False))
    ring = torch.empty((STEPS, 1, engine.columns), dtype=torch.float64)
    state = engine.advance(engine.initial_state(), STEPS, ring)
    trained = {name: p[0].numpy() for name, p in zip(study.problems[width].trained, state.params, strict=True)}
    check_equal(trained, *plain_loop(model, width, lr, decay, arrays))


def test_the_whole_command_trains_by_the_recipe(arrays, tmp_path):
    result = split_budget("vgg16", arrays, **recipe_of("vgg16", 5), out=tmp_path / "run")
    assert [row.width for row in result.rows] == [5]
    (folder,) = (result.run / "shards").iterdir()
    trained = {name: value[0] for name, value in load_file(folder / "weights.safetensors").items()}
    check_equal(trained, *plain_loop("vgg16", 5, 0.005, 1e-3, arrays))


@pytest.mark.parametrize("steps", [8, 9, 20, 37, 78_200])
def test_the_schedule_is_the_published_one_at_every_step(steps):
    lrs = phase_lrs(paper_phases(0.05, steps), steps, 0, steps)
    np.testing.assert_allclose(lrs, [0.05 * factor(t, steps) for t in range(steps)], rtol=1e-12)


@pytest.mark.parametrize("kind", ["averaged", "members"])
def test_cnll_is_the_published_split_of_halves(kind):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 5, 301)
    logits = 3 * rng.normal(size=(4, 301, 5))
    logits[:, np.arange(301), labels] += 2
    z = torch.from_numpy(logits)

    def nll_at(temperature, rows):
        if kind == "averaged":  # setup 1
            p = z[:, rows].softmax(-1).mean(0)
            p = (p.log() / temperature).softmax(-1)
        else:  # setup 2
            p = (z[:, rows] / temperature).softmax(-1).mean(0)
        return float(-p[torch.arange(len(rows)), labels[rows]].log().mean())

    halvings, scored = np.random.default_rng(0), []
    for _ in range(5):
        one, other = np.array_split(halvings.permutation(301), 2)
        for fitted, scored_on in ((other, one), (one, other)):
            options = {"xatol": 1e-9, "fatol": 1e-13}
            best = minimize(
                lambda t, rows=fitted: nll_at(float(t[0]), rows), [1.0], method="Nelder-Mead", options=options
            )
            scored.append((len(scored_on), nll_at(float(best.x[0]), scored_on)))
    expected = sum(n * value for n, value in scored) / sum(n for n, _ in scored)
    assert float(calibrated_nll(logits, labels, temperature=kind)) == pytest.approx(expected, abs=1e-6)


def polynomial_of_vgg(classes):
    """Parameters over the width k, highest power first."""
    units = [1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8]
    inner = 9 * sum(a * b for a, b in itertools.pairwise(units)) + 2 * 8 * 8
    edges = 9 * 3 * units[0] + sum(units) + 2 * 8 + 8 * classes
    return inner, edges, classes


def polynomial_of_wrn(classes):
    inner, edges, inputs = 0, 9 * 3 + 1, 1
    for outputs, changes in ((1, False), (2, True), (4, True)):
        for block in range(4):
            inner += 9 * inputs * outputs + 9 * outputs**2
            edges += 2 * outputs + 2 * inputs + 2 * outputs  # biases, and gain and bias of both norms
            if block == 0 and changes:
                inner, edges = inner + inputs * outputs, edges + outputs
            inputs = outputs
    return inner, edges + 2 * 4 + 4 * classes, classes


def test_the_polynomials_are_those_of_the_networks():
    for factory, polynomial in ((vgg16, polynomial_of_vgg), (wrn28, polynomial_of_wrn)):
        for classes, width in ((10, 3), (100, 8)):
            counted = size_of(lambda k, f=factory, c=classes: f((3, 32, 32), c, width=k), width).parameters
            assert counted == np.polyval(polynomial(classes), width)
    assert polynomial_of_vgg(100) == (3719, 909, 100)
    assert np.polyval(polynomial_of_vgg(100), 64) == 15_291_300
    wide, thin = np.polyval(polynomial_of_wrn(100), [160, 40]).tolist()
    assert (wide, thin, round(16 * thin / wide, 3)) == (36_755_940, 2_315_460, 1.008)


@pytest.mark.parametrize(
    ("factory", "polynomial", "budget", "all_members"),
    [
        (vgg16, polynomial_of_vgg, 2_000_000, (1, 2, 4, 8, 16)),
        (vgg16, polynomial_of_vgg, 15_291_300, (1, 2, 4, 8, 16)),
        (wrn28, polynomial_of_wrn, 36_755_940, (1, 2, 16)),
    ],
)
def test_widths_for_a_budget_solve_the_published_equation(factory, polynomial, budget, all_members):
    a, b, c = polynomial(100)
    for members in all_members:
        root = (-b + math.sqrt(b * b - 4 * a * (c - budget / members))) / (2 * a)
        assert width_for(budget / members, lambda k: factory((3, 32, 32), 100, width=k)).width == round(root)


VGG10 = {
    **dict.fromkeys((6, 8, 11), (0.05, 1e-3, 0.0)),
    16: (0.05, 3e-4, 0.0),
    **dict.fromkeys((23, 32, 45, 64), (0.05, 3e-4, 0.25)),
    **dict.fromkeys((91, 128, 181), (0.05, 3e-4, 0.0)),
}
VGG100 = {
    **dict.fromkeys((8, 11, 16), (0.05, 1e-3, 0.0)),
    **dict.fromkeys((6, 23, 32, 45), (0.05, 1e-3, 0.25)),
    64: (0.05, 1e-3, 0.5),
    **dict.fromkeys((91, 128), (0.05, 3e-4, 0.5)),
    181: (0.05, 1e-3, 0.5),
}
WRN = dict.fromkeys((20, 28, 40, 56, 57, 80, 113, 160, 226, 320, 453), (0.1, 3e-4, 0.0))


@pytest.mark.parametrize(
    ("model", "data", "table"),
    [("vgg16", "cifar10", VGG10), ("vgg16", "cifar100", VGG100), ("wrn28", "cifar10", WRN), ("wrn28", "cifar100", WRN)],
)
def test_the_preset_has_the_published_tables(model, data, table):
    spec = SplitSpec(**published({"model": model, "data": data, "train": "all", "preset": "paper"}))
    assert (spec.optimizer, spec.momentum, spec.batch_size, spec.schedule) == ("sgd", 0.9, 128, "paper")
    assert spec.augment and spec.failed_accuracy == 0.15 and spec.steps == 200 * 391
    for width, (lr, decay, dropout) in table.items():
        lr = 0.005 if (model, width) == ("vgg16", 6) else lr
        assert spec.settings_of(width) == {"lr": lr, "weight_decay": decay, "dropout": dropout}, width


def test_what_is_given_wins_over_the_preset_and_filling_in_twice_changes_nothing():
    given = {"model": "vgg16", "data": "cifar10", "train": 5000, "lr": 0.02, "settings": ["8:dropout=0.1"], "steps": 90}
    fields = published(given)
    spec = SplitSpec(**fields)
    assert spec.settings_of(6) == {"lr": 0.02, "weight_decay": 1e-3, "dropout": 0.0}
    assert spec.settings_of(8) == {"lr": 0.02, "weight_decay": 1e-3, "dropout": 0.1}
    assert spec.steps == 90 and published({"model": "wrn28", "data": "cifar10", "train": 500})["steps"] == 800
    assert published(fields) == fields


def test_a_setting_is_read_and_the_last_one_counts():
    assert read_setting("8-16:lr=0.05") == (range(8, 17), "lr", 0.05)
    assert read_setting("8 : weight-decay = 1e-3") == (range(8, 9), "weight_decay", 1e-3)
    assert 10**6 in read_setting("8-:dropout=0")[0] and 7 not in read_setting("8-:dropout=0")[0]
    spec = SplitSpec(settings="4-:lr=0.2,6:lr=0.1,6:dropout=0.5", optimizer="sgd", weight_decay=1e-4)
    assert spec.settings_of(3) == {"lr": 0.05, "weight_decay": 1e-4, "dropout": 0.0}
    assert spec.settings_of(6) == {"lr": 0.1, "weight_decay": 1e-4, "dropout": 0.5}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--preset paper", "recipe is for --model vgg16 or wrn28"),
        ("--settings 8", "a setting is WIDTHS:NAME=VALUE"),
        ("--settings 8:momentum=0.1", "there is no setting 'momentum' of a width"),
        ("--settings 9-8:lr=0.1", "there are no widths 9 to 8"),
        ("--settings 8:lr=zero", "'zero' is no number"),
        ("--settings 8:dropout=1", "out of range"),
        ("--settings 8:lr=0", "out of range"),
        ("--settings 8:lr=nan", "out of range"),
        ("--settings 8:lr=0.1,8:lr=0.1", "named once"),
        ("--geometry sphere --elr 0.1 --settings 8:lr=0.1", "--settings: is not allowed with --geometry sphere"),
        ("--geometry sphere --elr 0.1 --schedule paper", "--schedule: paper is not allowed"),
        ("--dropout 0.5", "mlp takes no dropout"),
        ("--settings 1-:dropout=0.5", "mlp takes no dropout"),
        ("--failed-accuracy 1", "--failed-accuracy"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(line, said, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(["split", *TINY.split(), *line.split()]) == 2
    out, error = capfd.readouterr()
    assert out == "" and said in error and len(error.strip().splitlines()) == 1, error
    assert not (tmp_path / "runs").exists()


def logits_of(result):
    return [load_file(path)["logits"] for path in sorted((result.run / "logits").iterdir())]


def dropping(input_shape, classes, width, dropout=0.0):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, classes),
    )


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_dropout_is_seeded_and_resumed_to_the_bit(mode, arrays, tmp_path):
    fields = SMALL | {"budget": 2000, "seeds": 2, "steps": 12, "batch_size": BATCH, "mode": mode, "chunk": 2}
    fields |= {"optimizer": "sgd", "lr": 0.05, "dropout": 0.4, "augment": True, "failed_accuracy": 0.0}
    whole = split_budget(dropping, arrays, **fields, out=tmp_path / "whole")
    asked = iter(range(10**6))
    with pytest.raises(Interrupted):
        split_budget(dropping, arrays, **fields, out=tmp_path / "cut", stop=lambda: next(asked) >= 7)
    shards = list((tmp_path / "cut" / "shards").iterdir())
    assert shards and not any((shard / "done.json").exists() for shard in shards)  # it was stopped while it trained
    resumed = resume_split(Run.open(tmp_path / "cut"), model=dropping, data=arrays)
    plain = split_budget(dropping, arrays, **fields | {"dropout": 0.0}, out=tmp_path / "plain")
    (first,), (second,), (without,) = map(logits_of, (whole, resumed, plain))
    assert (first == second).all() and not (first == without).any()
    assert not (first[0] == first[1]).any()


def test_dropout_is_where_the_paper_has_it_and_differs_by_width(arrays):
    dataset = from_arrays(*arrays, standardise=False)
    for model, widths, where in (("vgg16", (2, 3), ["dropout1", "dropout2"]), ("wrn28", (2, 3), None)):
        sizes = [size_of(lambda k, m=model: build(m, input_shape=SHAPE, classes=CLASSES, width=k), w) for w in widths]
        budgets = [size.parameters for size in sizes]
        fields = {"budget": budgets, "members": [1], "settings": ["3:dropout=0.4"], "batch_size": BATCH, "seeds": 1}
        study = prepare(SplitSpec(model=model, train=None, **fields), model, dataset, Progress())
        chances = {}
        for width, problem in study.problems.items():
            layers = {n: m.p for n, m in problem.build(0).named_modules() if isinstance(m, nn.Dropout)}
            assert where is None or list(layers) == where
            chances[width] = set(layers.values())
        assert chances == {2: {0.0}, 3: {0.4}}


@pytest.fixture(scope="module")
def partly_failed(tmp_path_factory):
    """A pool of which some networks have at most a certain accuracy, which are dropped."""
    fields = {"train": 60, "test": 60, "steps": 30, "batch_size": 20, "lr": 0.003, "seeds": 3, "members": [1, 2]}
    out = tmp_path_factory.mktemp("failed")
    first = split_budget(**fields, **ENGINE, budget=600, curves=False, out=out / "first")
    labels = load("digits", train=60, test=60).y_test.numpy()
    pools = {row.width: logits_of_width(first, row.width) for row in first.rows}
    accuracies = {width: (pool.argmax(-1) == labels).mean(1) for width, pool in pools.items()}
    narrow = accuracies[first.budgets[0].row(2).width]
    at_most = float(np.sort(narrow)[1])  # the two worst of six
    again = split_budget(**fields, **ENGINE, budget=600, failed_accuracy=at_most, out=out / "again")
    return again, pools, accuracies, at_most, labels


def logits_of_width(result, width):
    return load_file(result.run / "logits" / f"width-{width:05d}.safetensors")["logits"]


def test_networks_of_low_accuracy_are_dropped_and_ensembles_cut_from_the_others(partly_failed):
    result, pools, accuracies, at_most, labels = partly_failed
    row = result.budgets[0].row(2)
    kept = np.flatnonzero(accuracies[row.width] > at_most)
    assert 2 <= len(kept) < 5
    pool = pools[row.width]
    groups = [kept[2 * seed : 2 * seed + 2] for seed in range(3)]
    expected = [nll(pool[g], labels) if len(g) == 2 else None for g in groups]
    assert None in expected and expected[0] is not None
    assert row.values["nll"] == [None if value is None else pytest.approx(value) for value in expected]
    assert {f.member for f in result.failed if f.width == row.width} == set(range(6)) - set(kept.tolist())
    assert {f.reason for f in result.failed} == {"accuracy"}
    page = result.report.read_text()
    assert "dropped from their pool before it is cut" in page and "dropped before ensembles are cut" in page


def test_more_metrics_are_in_the_rows_and_an_older_result_lacks_them(partly_failed):
    result, pools, _, _, labels = partly_failed
    row = result.budgets[0].row(1)
    alive = [s for s, value in enumerate(row.values["nll"]) if value is not None]
    kept = [i for i in range(3) if i not in {f.member for f in result.failed if f.width == row.width}]
    assert len(alive) == len(kept)
    for name, metric in (("ece", ece), ("sce", sce), ("ace", ace), ("tace", tace), ("top5", top_k_accuracy)):
        values = [metric(pools[row.width][[i]], labels) for i in kept]
        assert getattr(row, name) == pytest.approx(np.mean(values)), name
    assert 0 < row.auroc < 1 and row.temperature > 0 and row.spread.keys() >= {"ece", "auroc"}
    again = json.loads(json.dumps(result.to_dict()))
    for one in (*again["splits"], *(r for b in again["budgets"] for r in b["splits"])):
        for name in (*MORE, "spread"):
            del one[name]
    for name in ("wider_laws", "fixed_temperatures"):
        del again[name]
    for point in again["curves"]:
        del point["temperature"]
    for name in ("dropout", "augment", "settings", "preset", "failed_accuracy"):
        del again["spec"][name]
    older = SplitResult.restored(Run.open(result.run), again)
    assert older.budgets[0].row(1).nll == row.nll and math.isnan(older.budgets[0].row(1).ece)
    assert older.spec.failed_accuracy is None and older.spec.settings == ()
    sections = [section.title for section in report(Run.open(result.run), older).sections]
    assert "Calibration" not in sections and "Temperatures" not in sections and "Splits of the budget" in sections


def test_fixed_temperatures_contain_the_nll_and_their_envelope_lies_below(partly_failed):
    result = partly_failed[0]
    points = {(p.width, p.size): p for p in result.curves}
    assert {row.kind for row in result.fixed_temperatures} == {"averaged", "members"}
    compared = 0
    for row in result.fixed_temperatures:
        at_one = row.nll[row.temperatures.index(1.0)]
        assert min(row.nll) <= at_one
        point = points.get((row.width, row.size))
        if point is not None and point.groups:
            assert at_one == pytest.approx(point.mean["nll"], rel=1e-9)
            compared += 1
    assert compared >= 4


def planted(law, at, errors):
    values = [law(x) for x in at]
    return [
        Point(w, 1, 3, {"nll": v, "cnll": v}, {"nll": e, "cnll": e}) for w, v, e in zip(at, values, errors, strict=True)
    ]


def test_laws_over_size_find_what_was_planted_and_refuse_too_few_points():
    at = [100, 200, 400, 800, 1600]
    points = planted(lambda s: 0.3 + 20 * s**-0.8, at, [1e-4] * 5)
    parameters = {s: s for s in at}
    laws = laws_in_size(points, parameters)
    assert [(law.along, law.members, law.metric) for law in laws] == [("size", 1, "nll"), ("size", 1, "cnll")]
    for law in laws:
        assert law.law.exponent == pytest.approx(-0.8, abs=1e-3) and law.law.limit == pytest.approx(0.3, abs=1e-3)
        low, high = law.law.intervals["exponent"]
        assert low < -0.8 < high
    few = laws_in_size(points[:2], parameters)[0]
    assert few.law is None and few.note == "2 widths; a law of three parameters takes at least 3"
    unknown = laws_in_size(planted(lambda s: 1 / s, at[:3], [None] * 3), parameters)[0]
    assert unknown.law is None and "takes at least 4" in unknown.note
    turning = [*planted(lambda s: 0.3 + 20 * s**-0.8, at[:4], [1e-3] * 4), *planted(lambda s: 0.5, at[4:], [1e-3])]
    assert laws_in_size(turning, parameters)[0].note.startswith("it is worse at 1,600 than at 400 by more than three")
    rising = laws_in_size(planted(lambda s: 0.3 + s / 1e4, at, [1e-4] * 5), parameters)[0]
    assert rising.law is None and rising.note


def test_laws_over_budgets_go_through_the_best_splits(partly_failed):
    answer = partly_failed[0].budgets[0]
    answers = [
        dataclasses.replace(
            answer,
            budget=budget,
            best={"accuracy": 1, "nll": 2, "cnll": 1},
            splits=[
                dataclasses.replace(
                    row,
                    budget=budget,
                    nll=0.2 + 5 * budget**-0.5 + (row.members == 1),
                    cnll=1.0 + (row.members == 2),
                    standard_error={"nll": 1e-4, "cnll": 1e-4},
                )
                for row in answer.splits
            ],
        )
        for budget in (1000, 2000, 4000, 8000)
    ]
    by_nll, by_cnll = laws_in_budget(answers)
    assert by_nll.along == "budget" and by_nll.law.exponent == pytest.approx(-0.5, abs=1e-2)
    assert by_cnll.law is None and "constant" in by_cnll.note
    assert laws_in_budget(answers[:1]) == []
    assert "2 budgets" in laws_in_budget(answers[:2])[0].note
