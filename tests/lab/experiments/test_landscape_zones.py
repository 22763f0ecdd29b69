"""Zones from call to page: sharpness as the core measures it, continuations that continue, charts that hold them."""

import json

import numpy as np
import pytest
import torch

from onsphere.curvature import top_eigenvalues
from onsphere.lab import InputError, Run
from onsphere.lab.experiments.zones.charts import course_chart, map_chart, path_chart, threshold_chart
from onsphere.lab.experiments.zones.page import courses
from onsphere.lab.experiments.zones.result import OUTCOMES
from onsphere.lab.experiments.zones.run import EXPERIMENT, map_zones, resume_zones
from onsphere.lab.experiments.zones.spec import ZonesSpec
from onsphere.lab.experiments.zones.words import answer
from onsphere.lab.frame import repeated
from onsphere.lab.networks import batches, criterion, network
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.preparation import prepare_model
from onsphere.lab.terminal import show
from onsphere.lab.training import load_data

pytestmark = pytest.mark.usefixtures("undrawn_module")

SMALL = {
    "train": 80,
    "widths": [16],
    "path_elrs": [2e-3, 8e-3],
    "elrs": [2e-3, 2e-2, 0.2],
    "seeds": 1,
    "checkpoints": 3,
    "readings": 6,
    "steps": 48,
    "continue_steps": 24,
    "workers": 1,
    "mode": "vmap",
    "chunk": 4,
    "compiled": "no",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return map_zones(**SMALL, out=tmp_path_factory.mktemp("zones") / "run")


def test_the_result_has_a_row_for_every_reading_and_continuation(small):
    values = json.loads(json.dumps(small.to_dict(), allow_nan=False))
    assert values["command"] == "landscape zones"
    spec = ZonesSpec(**SMALL)
    assert [row["step"] for row in values["path"]] == 2 * spec.reading_steps()
    cells = {(row["checkpoint"], row["elr"]) for row in values["continuations"]}
    assert cells == {(step, elr) for step in (0, 2, 48) for elr in (2e-3, 2e-2, 0.2)}
    assert sum(small.counts().values()) == 9 and len(values["zones"]) == 2
    assert all(point.converged and point.sharpness > 0 for point in small.path)


def test_a_continuation_at_the_elr_of_the_path_is_the_path(small):
    """Full batches: the same steps from the same weights, so the same losses; and it converges at once."""
    found = courses(Run(small.run), small)
    for step in (0, 2, 48):
        path = next(c for c in found if c.checkpoint == step and c.elr is None)
        own = next(c for c in found if c.checkpoint == step and c.elr == 2e-3)
        assert own.loss == pytest.approx(path.loss, rel=2e-3)
        assert own.outcome == "at once"
        other = next(c for c in found if c.checkpoint == step and c.elr == 0.2)
        assert other.loss[0] == pytest.approx(path.loss[0], rel=1e-4)
        assert abs(other.loss[-1] / path.loss[-1] - 1) > 1e-2


def test_sharpness_is_that_of_the_core_at_the_weights_of_the_step(small):
    spec = ZonesSpec(**SMALL)
    options = {"width": None, "widths": (16,), "head_norm": 10.0, "eps": 1e-12}
    problem, _ = prepare_model(Problem(load_data(spec, 0, "digits"), "mlp", options))
    shard = ShardFolder(small.run / "shards" / "path-000")
    k = [copy.lr for copy in shard.copies()].index(8e-3)
    model = network(problem, shard.snapshot(48), k, 0).double()
    [(x, y)] = batches(problem, size=80)
    values = top_eigenvalues(model, criterion(problem), (x.double(), y), sphere=True, tolerance=1e-6)
    point = next(p for p in small.path if p.step == 48 and p.elr == 8e-3)
    assert point.sharpness == pytest.approx(values.values[0], rel=1e-2)
    with torch.no_grad():
        loss = criterion(problem)(model.train()(x.double()), y)
    assert point.loss == pytest.approx(float(loss), rel=1e-3)


def test_the_result_comes_back_from_disk_as_it_was(small):
    assert resume_zones(Run(small.run)) == small
    assert "report.html" in repr(small) and len(small.to_frame()) == 9
    assert repeated(small).startswith("onsphere landscape zones --train 80 ")


def test_the_terminal_says_the_answer_and_every_chart_has_its_figures(small, capsys):
    show(EXPERIMENT, small)
    said = capsys.readouterr().out
    assert "report.html" in said and all(sentence in said for sentence in answer(small))
    assert "Continuations:" in EXPERIMENT.one_line(Run(small.run))
    names = ("zones", "continuations", "courses", "threshold")
    assert {path.name for path in (small.run / "figures").iterdir()} == {
        f"{n}.{k}" for n in names for k in ("png", "svg")
    }


def test_the_charts_hold_every_reading_and_continuation(small):
    paths = path_chart(small).panels[0]
    assert [list(line.y) for line in paths.marks] == [
        [point.sharpness for point in small.path if point.elr == elr] for elr in (2e-3, 8e-3)
    ]
    assert [9 in line.look.size for line in paths.marks] == [True, False]  # continuations leave the first path
    highest = max(point.sharpness for point in small.path)
    assert all(2 / rule.value in (2e-3, 8e-3, 2e-2, 0.2) and rule.value < 1.5 * highest for rule in paths.rules)
    line, *outcomes = map_chart(small).panels[0].marks
    assert list(line.y) == [2 / point.sharpness for point in small.main]
    counts = small.counts()
    assert {mark.entry: len(mark.x) for mark in outcomes} == counts
    rises = {mark.entry: len(mark.x) for mark in threshold_chart(small).panels[0].marks}
    finite = [row.outcome for row in small.continuations if np.isfinite(row.peak)]
    assert rises == {name: finite.count(name) for name in OUTCOMES}
    shown = course_chart(small, courses(Run(small.run), small))
    assert shown.frames == ["step 0", "step 2", "step 48"] and shown.frame == 1
    assert [mark.entry for mark in shown.panels[0].marks if mark.frame == 2] == [
        "path", "ELR 2e-3", "ELR 0.02", "ELR 0.2"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"elrs": [0.02, 0.02]}, "every value must be named once"),
        ({"path_elrs": [-1.0]}, "path_elrs"),
        ({"seeds": 1000}, "--seeds: 1000 is not allowed with 3 ELRs and 3 checkpoints"),
        ({"batch_size": 81}, "--batch-size: 81"),
        ({"checkpoints": 1}, "checkpoints"),
    ],
)
def test_bad_input_is_one_line(tmp_path, fields, message):
    with pytest.raises(InputError) as error:
        map_zones(**SMALL | fields, out=tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
