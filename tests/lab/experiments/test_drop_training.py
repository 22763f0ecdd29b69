"""A drop in ordinary training, of networks with and without scale-invariant weights; starts in stages, averages."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from onsphere.lab import InputError, Interrupted
from onsphere.lab.cli import run_command
from onsphere.lab.experiments.drop.analyse.labels import slow_ones_apart
from onsphere.lab.experiments.drop.analyse.matched import cells_at_loss, flatness_of
from onsphere.lab.experiments.drop.analyse.norms import norms_of
from onsphere.lab.experiments.drop.charts import at_loss_chart, averages_chart, barrier_chart, norms_chart, stages_chart
from onsphere.lab.experiments.drop.page import printed
from onsphere.lab.experiments.drop.result import AtLoss, DropResult
from onsphere.lab.experiments.drop.run import drop_elr, resume_drop
from onsphere.lab.experiments.drop.words import answer
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.population import ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from pictures import undrawn

FEW = {
    **{"train": 40, "test": 30, "label_noise": 0.0, "starts": [0.1], "ends": [1e-2], "seeds": 2, "steps": 16},
    **{"drop_steps": 8, "batch_size": 10, "evaluations": 1, "averaged": 2, "points": 3, "workers": 1, "mode": "loop"},
    **{"chunk": 2, "compiled": "no"},
}
RICH = FEW | {
    **{
        "widths": [4],
        "starts": [0.1, 1.0],
        "ends": [1e-3, 1e-2],
        "averaged": [2, 3],
        "stages": ["0.1:4+0.01", "1:4+0.01"],
    },
    **{"test_barriers": True, "chords": True},
}


class ViT(nn.Module):
    """Patches, a class token, one pre-norm block, affine layer norms and biases everywhere.

    Its tokens begin so large that the norms' eps does not matter.
    """

    def __init__(self, classes, width=4):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 5, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down, self.head = nn.Linear(width, 8), nn.Linear(8, width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        x = x + self.down(torch.relu(self.up(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0])


def vit(classes):
    return ViT(classes)


def plain(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    """A small vision transformer, which is partly scale-invariant, by Adam."""
    fields = FEW | {"training": "space", "optimizer": "adam", "sharpness": True, "augment": True}
    with undrawn():
        return drop_elr(vit, **fields, out=tmp_path_factory.mktemp("vit") / "run")


@pytest.fixture(scope="module")
def unscaled(tmp_path_factory):
    """A network in which nothing is scale-invariant."""
    with undrawn():
        return drop_elr(plain, **FEW, training="space", out=tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """On the sphere, with two starts in stages, two averages, test errors and chords."""
    with undrawn():
        return drop_elr(**RICH, out=tmp_path_factory.mktemp("rich") / "run")


def page_of(result):
    return (result.run / "report.html").read_text(encoding="utf-8")


def test_a_transformer_is_measured_over_its_scale_invariant_weights(transformer):
    names = {name for name, _ in vit(10).named_parameters()}
    assert 0 < len(transformer.invariant) < len(names) and "patches.weight" in transformer.invariant
    assert not {"head.weight", "norm1.weight", "attention.in_proj_weight"} & set(transformer.invariant)
    for row in transformer.continuations:
        assert row.finite and 0 < row.angle < math.pi and row.gradient_norm > 0 and row.sharpness is not None
    assert {path.path for path in transformer.paths} == {"chord"}
    page = page_of(transformer)
    assert "ordinary training by adam, weight decay 0.0001, augmented" in page
    assert f"the scale-invariant weights, {len(transformer.invariant)} tensors taken together" in page
    assert "straight line" in page and "great circle" not in page and "begins anew at the drop" in page


def test_without_scale_invariant_weights_angles_are_left_out_with_a_sentence(unscaled):
    assert unscaled.invariant == [] and not unscaled.angled
    assert all(math.isnan(row.angle) and math.isnan(row.gradient_norm) for row in unscaled.continuations)
    assert all(math.isnan(path.angle) for path in unscaled.paths) and len(unscaled.paths) == 4
    page = page_of(unscaled)
    assert "No trained tensor of this network is scale-invariant" in page
    assert 'id="after-chart"' not in page and "angle (rad)" not in page and "low–high (rad)" not in page
    assert "gradient" not in str(printed(unscaled)[0])
    assert DropResult.load(Run(unscaled.run)).continuations[0].test_error == unscaled.continuations[0].test_error


@pytest.mark.parametrize("asked", [{"sharpness": True}, {"matched_loss": 0.1, "drop_steps": 40}, {"norms": True}])
def test_what_needs_scale_invariant_weights_is_refused_without_them(tmp_path, asked):
    name = next(iter(asked)).replace("_", "-")
    with pytest.raises(InputError, match=f"--{name}: is not allowed with this network"):
        drop_elr(plain, **FEW | asked, training="space", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


BAD = {
    "decay on the sphere": ("--weight-decay 0.1", "--weight-decay: 0.1 is not allowed with --training sphere"),
    "adam on the sphere": ("--optimizer adam", "--optimizer"),
    "momentum of adam": ("--training space --optimizer adam --momentum 0.9", "--momentum"),
    "a preset in space": ("--training space --preset paper", "--preset"),
    "a frozen head in space": ("--training space --head-norm 3", "--head-norm"),
    "a decay that eats the weights": ("--training space --weight-decay 6", "--weight-decay"),
    "chords in space": ("--training space --chords", "--chords"),
    "chords without paths": ("--chords --no-barriers", "--chords"),
    "test errors without paths": ("--test-barriers --no-barriers", "--test-barriers"),
    "one stage": ("--stages 0.1:20", "--stages"),
    "stages of other steps": ("--stages 0.1:20+0.01:20", "together those of --steps, 1500"),
    "a negative rate": ("--stages=-0.1:20+0.01", "--stages"),
    "no stages at all": ("--stages fast+slow", "RATE:STEPS"),
    "a stage that averages reach beyond": ("--stages 0.1:1490+0.01", "its last stage has 10 steps"),
    "an average twice": ("--averaged 2,2", "--averaged"),
    "an average of one of several": ("--averaged 1,2", "--averaged"),
    "averages that are too long": ("--steps 100 --averaged 2,50", "there are not 50 snapshots"),
    "averages that do not fit": ("--steps 100 --averaged 2,50 --every 3", "--every"),
    "few steps to a loss": ("--matched-loss 0.1 --drop-steps 30", "--matched-loss"),
    "a loss of augmented images": ("--matched-loss 0.1 --augment", "--matched-loss"),
}


@pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_status_2(line, said, capfd):
    assert run_command(["landscape", "drop", *line.split()]) == 2
    error = capfd.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0], error


def test_each_number_of_snapshots_has_its_average(rich):
    assert rich.numbers == [2, 3] and rich.number == 2
    assert len(rich.averages) == 2 * 4 * 2 and len(rich.average_errors(3)) == 4
    chart = averages_chart(rich)
    assert [list(mark.x) for mark in chart.panels[0].marks] == [[2, 3]] * 4
    assert list(chart.panels[0].marks[0].y) == [100 * np.mean(rich.average_errors(number)[1e-3]) for number in (2, 3)]
    best = rich.average
    assert best.test_error == min(np.mean(errors) for k in (2, 3) for errors in rich.average_errors(k).values())
    assert f"the average of the last {best.snapshots} snapshots is best" in " ".join(answer(rich))


def test_starts_in_stages_stand_beside_their_stages_alone(rich):
    assert [one.name for one in rich.staged] == ["0.1:4+0.01", "1:4+0.01"]
    assert [one.lengths for one in rich.staged] == [[4, 12], [4, 12]]
    assert rich.starts == [1e-3, 1e-2, 0.1, 1.0]  # no stage among the single starts
    assert rich.runs == 4 * 2 * 3 + 2 * 2 * 3
    _, high = stages_chart(rich).panels
    single, staged = high.marks
    assert list(single.y) == [100 * rich.at(start, 1e-2).test_error for start in rich.starts]
    assert (staged.entry, list(staged.x)) == ("then 0.01", [0.1, 1.0])
    assert list(staged.y) == [100 * one.matrix[1].test_error for one in rich.staged]
    for one in rich.staged:
        assert {(each.end, each.rate) for each in one.differences} == {(e, r) for e in rich.ends for r in one.rates}
        assert one.measured == 2 and len(one.paths) == 2 * 3 * 2 and len(one.averages) == 4
    assert "Of starts in stages" in " ".join(answer(rich))


def test_paths_have_test_errors_and_chords_beside_great_circles(rich):
    assert len(rich.paths) == 2 * 3 * 4 * 2 and rich.tested
    for path in rich.paths:
        assert path.test_error_barrier >= 0 and path.test_loss_barrier >= 0
    curves = barrier_chart(rich).panels[2].marks
    assert [mark.entry.endswith("chord") for mark in curves] == [False] * 3 + [True] * 3
    wanted = [p.test_error_barrier for p in rich.paths if (p.pair, p.path, p.start) == ("average-low", "chord", 1.0)]
    assert curves[4].columns["mean"][3] == pytest.approx(100 * np.mean(wanted))
    geodesic = [path for path in rich.paths if path.path == "geodesic"]
    for one in rich.classes:
        own = [p for p in geodesic if p.start == one.start]
        connected = [all(p.connected for p in own if p.seed == seed) for seed in (0, 1)]
        assert one.connected == sum(connected)  # chords do not count


def test_the_page_shows_all_of_it_and_the_result_is_read_again(rich):
    page = page_of(rich)
    for chart in ("averages-chart", "stages-chart", "barrier-chart"):
        assert f'id="{chart}"' in page
    assert DropResult.load(Run(rich.run)) == rich
    assert json.loads((rich.run / "result.json").read_text())["spec"]["averaged"] == [2, 3]


def test_runs_that_guess_below_those_that_learn_are_slow_and_not_divergent():
    cell = Cell(1e-3, 0, "divergence", "guesses: 90 %", 2, 2, 2, 0.9, 0.9, math.nan, 1, 1, True, 0)
    learns = replace(cell, elr=1e-2, regime="convergence", reason="interpolates")
    wild = replace(cell, elr=0.1)
    slow, *others = slow_ones_apart([cell, learns, wild])
    assert slow.regime == "convergence" and slow.reason.startswith("too slow: guesses")
    assert others == [learns, wild]
    assert slow_ones_apart([cell, wild]) == [cell, wild]


LATER = FEW | {
    **{"widths": [8], "starts": [0.2, 0.5], "ends": [2e-2], "drop_steps": 44, "averaged": 0, "barriers": False},
    **{"norms": True, "matched_loss": 1.2, "stages": ["0.5:4+0.2"]},
}


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """With continuations at matched train loss, and the norms of rows before the drop."""
    with undrawn():
        return drop_elr(**LATER, out=tmp_path_factory.mktemp("later") / "run")


def test_a_continuation_at_matched_loss_is_the_one_that_ends_there(later, tmp_path, undrawn):
    """A drop of as many steps, without looking for a loss, has its numbers to the bit."""
    assert len(later.at_loss) > 2
    row = later.at_loss[-1]
    assert 8 < row.step <= 44 and abs(math.log(row.batch_loss / 1.2)) <= 0.1
    fields = LATER | {"matched_loss": None, "norms": False, "stages": (), "sharpness": True, "drop_steps": row.step}
    again = drop_elr(**fields, out=tmp_path / "run")
    (same,) = (r for r in again.continuations if (r.start, r.end, r.seed) == (row.start, row.end, row.seed))
    for name in ("train_loss", "train_error", "test_loss", "test_error"):
        assert getattr(same, name) == getattr(row, name)
    assert same.sharpness == pytest.approx(row.sharpness, rel=1e-6)


def test_every_row_at_matched_loss_is_close_to_it_and_the_page_says_who_is_missing(later):
    assert {row.start for row in later.at_loss} <= set(later.starts)
    assert all(row.step > 0 and abs(math.log(row.batch_loss / 1.2)) <= 0.1 for row in later.at_loss)
    page, left = page_of(later), len(later.continuations) - len(later.at_loss)
    assert (f"{left} of 6 continuations are left out" if left else "All 6 continuations came within 10 %") in page
    (panel,) = at_loss_chart(later).panels
    assert [list(mark.x) for mark in panel.marks] == [[cell.sharpness] for cell in later.at_loss_cells]


def rows_at_loss(values):
    """Rows from {seed: [(sharpness, test error) of each start]}."""
    return [
        AtLoss(float(start), 1e-2, seed, 9, 0.5, sharpness, 0.5, 0.1, 1.0, error)
        for seed, own in values.items()
        for start, (sharpness, error) in enumerate(own, 1)
    ]


def test_flat_and_good_are_ranked_seed_by_seed_over_the_starts_that_all_have():
    with_trend = {0: [(1, 0.1), (10, 0.2), (100, 0.3), (5, 0.5)], 1: [(1, 0.1), (10, 0.3), (100, 0.2)]}
    (found,) = flatness_of(rows_at_loss(with_trend))
    assert found.starts == 3  # the fourth is in one seed only
    assert found.correlation.mean == pytest.approx((1.0 + 0.5) / 2) and found.correlation.seeds == 2
    assert not flatness_of(rows_at_loss({0: [(1, 0.1), (2, 0.1)], 1: [(1, 0.1), (2, 0.1)]}))
    (level,) = flatness_of(rows_at_loss({0: [(1, 0.1), (2, 0.1), (3, 0.1)]}))
    assert math.isnan(level.correlation.mean)
    first, *_ = cells_at_loss(rows_at_loss(with_trend))
    assert (first.start, first.seeds, first.sharpness) == (1.0, 2, pytest.approx(1.0))


def test_the_norms_before_the_drop_are_those_of_the_rows(later):
    """Counted anew from the weights on disk: eight units, two seeds."""
    assert [one.start for one in later.norms] == [None, 0.02, 0.2, 0.5]
    found = {}
    for shard in map(ShardFolder, sorted((later.run / "shards").glob("start-*"))):
        weights = shard.weights()["linear1.weight"].double()
        for k, copy in enumerate(shard.copies()):
            if not copy.phases:
                norms = [float(sum(value**2 for value in row.tolist())) ** 0.5 for row in weights[k]]
                found.setdefault(copy.lr, []).extend(norms)
    for one in later.norms[1:]:
        assert sum(one.counts) == len(found[one.start]) == 16
        assert (one.smallest, one.largest) == pytest.approx((min(found[one.start]), max(found[one.start])), rel=1e-6)
        inside = np.histogram(np.clip(found[one.start], later.norm_edges[0], later.norm_edges[-1]), later.norm_edges)[0]
        assert one.counts == inside.tolist()
    (panel,) = norms_chart(later).panels
    assert [sum(mark.y) for mark in panel.marks] == pytest.approx([100.0] * 4)


def test_groups_that_are_no_rows_count_by_their_tensors():
    weights = {"a": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "b": torch.tensor([2.0]), "c": torch.tensor([[1.0]])}
    norms = norms_of(weights, ["a"], [["b", "c"]])
    assert norms == pytest.approx(np.sqrt([25 / 30, 0.0, 5 / 30]))


@pytest.mark.parametrize(
    ("fields", "whole", "stage"),
    [(RICH, "rich", "before the drop"), (LATER, "later", "weights at matched loss")],
    ids=["rich", "later"],
)
def test_interrupted_and_resumed_it_is_the_same(request, tmp_path, undrawn, fields, whole, stage):
    class Stopper(Progress):
        here, asked = False, 0

        def begin(self, title, copy_steps):
            self.here = title == stage

    def stop():
        stopper.asked += stopper.here
        return stopper.asked > 1

    stopper, passing = Stopper(), {"run", "report", "seconds", "cpu_seconds"}
    with pytest.raises(Interrupted):
        drop_elr(**fields, out=tmp_path / "run", progress=stopper, stop=stop)
    again, expected = resume_drop(Run(tmp_path / "run")), request.getfixturevalue(whole)
    assert {k: v for k, v in again.to_dict().items() if k not in passing} == {
        k: v for k, v in expected.to_dict().items() if k not in passing
    }
