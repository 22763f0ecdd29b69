"""The experiment from call to page: sharpness as the core measures it, continuations that continue, resuming."""

import dataclasses
import json

import pytest
import torch

from browser import attribute, needs_browser, open_page
from command import flags, here, last_json
from onsphere.curvature import top_eigenvalues
from onsphere.lab import InputError, Interrupted, Run
from onsphere.lab.experiments.zones import terminal
from onsphere.lab.experiments.zones.answer import answer
from onsphere.lab.experiments.zones.page import command, courses
from onsphere.lab.experiments.zones.run import map_zones, resume_zones
from onsphere.lab.experiments.zones.spec import ZonesSpec
from onsphere.lab.networks import batches, criterion, network
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.preparation import prepare_model
from onsphere.lab.progress import Progress
from onsphere.lab.training import load_data

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
    again = resume_zones(Run(small.run))
    assert again == dataclasses.replace(small, spec=again.spec)
    assert "report.html" in repr(small) and len(small.to_frame()) == 9
    assert command(small.spec).startswith("onsphere landscape zones --train 80 ")


def test_report_terminal_and_answer(small, capsys):
    before = small.report.read_text()
    assert terminal.rewrite_report(Run(small.run)) == small.report
    assert small.report.read_text() == before
    terminal.show(small)
    said = capsys.readouterr().out
    assert "report.html" in said and all(sentence in said for sentence in answer(small))
    assert "Continuations:" in terminal.one_line(Run(small.run))
    assert {path.name for path in (small.run / "figures").iterdir()} == {"zones.png", "zones.svg"}


@needs_browser
def test_the_page_opens_without_an_error_and_draws_every_chart(small):
    document, console = open_page(small.report)
    assert console == []
    assert attribute(document, "data-charts") == str(document.count('<figure class="chart"')) == "4"
    assert not attribute(document, "data-errors")


@pytest.mark.parametrize("after", [0, 100, 150, 165, 380])
def test_interrupted_anywhere_and_resumed_gives_the_same(small, tmp_path, after):
    class Stopper(Progress):
        done = 0

        def advance(self, copy_steps):
            Stopper.done += copy_steps

    with pytest.raises(Interrupted):
        map_zones(**SMALL, out=tmp_path / "cut", progress=Stopper(), stop=lambda: Stopper.done > after)
    assert not (tmp_path / "cut" / "result.json").exists()
    again = resume_zones(Run(tmp_path / "cut"))
    kept = {"run": small.run, "report": small.report, "seconds": small.seconds, "cpu_seconds": small.cpu_seconds}
    assert dataclasses.replace(again, **kept, engine=small.engine) == dataclasses.replace(small, spec=again.spec)


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


def test_the_command_prints_json_last_and_refuses_with_two(tmp_path):
    words = ["landscape", "zones", *flags(**SMALL | {"batch_size": 16})]
    done = here(*words, "--out", "run", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last_json(done)["continuations"]
    refused = here(*words, "--elrs", "0.02,0.02", folder=tmp_path)
    assert refused.returncode == 2 and "--elrs" in refused.stderr
