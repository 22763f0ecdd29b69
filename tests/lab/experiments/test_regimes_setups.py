"""Regime maps on other spheres, with a trained head, momentum, and what else they may measure."""

import numpy as np
import pytest

from command import here, last_json
from onsphere.lab import Run
from onsphere.lab.data import load
from onsphere.lab.experiments.regimes.along import layers_chart
from onsphere.lab.experiments.regimes.charts import courses
from onsphere.lab.experiments.regimes.result import RegimesResult
from onsphere.lab.population import ShardFolder

pytestmark = pytest.mark.usefixtures("undrawn_module")

ENGINE = "--workers 1 --mode loop --chunk 2 --compiled no --dtype float64"
SMALL = (
    f"regimes --train 40 --test 30 --elr-min 1e-2 --elr-max 1 --elrs 2 --seeds 1 --steps 24 --batch-size 10 {ENGINE}"
)


def refused(folder, *options):
    done = here(*SMALL.split(), *options, "--out", "run", folder=folder)
    assert done.returncode == 2 and not (folder / "run").exists()
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A map with everything that is not the default."""
    place = tmp_path_factory.mktemp("mapped")
    options = "--widths 6 --label-noise 0 --spheres rows --head trained --head-lr 0.1 --momentum 0.5 --refine 0"
    done = here(*SMALL.split(), *options.split(), "--out", "run", "--json", folder=place)
    assert done.returncode == 0, done.stderr
    return place, last_json(done), (place / "run" / "report.html").read_text(encoding="utf-8")


def test_the_page_says_what_the_elr_is_and_what_is_trained_beside(mapped):
    _, result, page = mapped
    assert "a sphere for every filter, trained head (lr 0.1), momentum 0.5" in page
    assert "every filter&#39;s own ELR is this times their number" in page
    assert "by SGD at the ordinary lr 0.1" in page and "2 times as long" in page
    assert result["spec"]["spheres"] == "rows" and {cell["finite"] for cell in result["cells"]} == {True}


def test_what_cannot_be_done_is_refused_before_there_is_a_folder(tmp_path):
    assert "--head-lr: 0.1 is not allowed with --head frozen" in refused(tmp_path, "--head-lr", "0.1")
    assert "--head-norm" in refused(tmp_path, "--head", "trained", "--head-norm", "5")
    said = refused(tmp_path, "--model", "resnet18", "--width", "2", "--spheres", "rows")
    assert said.startswith("onsphere: --model") and "residual stream" in said
    assert "none of the 6 trainable parameters is scale-invariant" in refused(
        tmp_path, "--model", "plain-mlp", "--head", "trained"
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A map on the joint sphere that measures everything there is."""
    place = tmp_path_factory.mktemp("measured")
    options = "--widths 6,5 --label-noise-kind any --running-statistics --converged-loss 2.5 --evaluations 4 --refine 0"
    done = here(*SMALL.split(), *options.split(), "--out", "run", "--json", folder=place)
    assert done.returncode == 0, done.stderr
    return place, last_json(done), (place / "run" / "report.html").read_text(encoding="utf-8")


def test_what_was_measured_besides_is_in_the_cells_as_in_the_files(measured):
    place, result, _ = measured
    cells = {cell["elr"]: cell for cell in result["cells"]}
    data = load("digits", train=40, test=30, label_noise=0.25, label_noise_kind="any")
    share = float(data.noisy.double().mean())
    for shard in map(ShardFolder, Run.open(place / "run").shard_folders()):
        steps, found = shard.evaluated()
        assert steps.tolist() == [0, 6, 12, 18, 24]
        losses = shard.readings().loss
        for k, copy in enumerate(shard.copies()):
            cell = cells[copy.lr]
            assert cell["running_test_error"] == found["running_test_error"][-1, k]
            assert cell["clean_error"] == found["clean_error"][-1, k]  # the last quarter has one evaluation
            both = (1 - share) * cell["clean_loss"] + share * cell["corrupted_loss"]
            assert both == pytest.approx(cell["train_loss"], rel=1e-12)
            below = [t for t in range(4, 25) if losses[t - 4 : t, k].mean() < 2.5]  # an epoch has four steps
            assert cell["converged_step"] == (below[0] if below else None)
    assert {cell["converged_step"] is None for cell in result["cells"]} == {True, False}


def test_its_page_draws_what_there_is(measured, mapped):
    charts = ("steps-chart", "layers-chart", "noise-chart", "statistics-chart")
    (_, _, page), (_, _, other) = measured, mapped
    assert all(f'id="{name}"' in page for name in charts)
    assert "drawn among all classes" in page and "some of them stay right" in page
    assert 'id="layers-chart"' not in other and 'id="statistics-chart"' not in other


def test_individual_elrs_add_up_to_that_of_the_whole(measured):
    place, result, _ = measured
    shown = courses(Run.open(place / "run"), RegimesResult.load(Run.open(place / "run")).cells)
    chart = layers_chart(shown)
    assert len(chart.panels) == len({cell["regime"] for cell in result["cells"]})
    for panel in chart.panels:
        inverses = sum(1 / np.asarray(mark.y) for mark in panel.marks)
        np.testing.assert_allclose(inverses, 1 / panel.rules[0].value, rtol=1e-12)
        assert [mark.entry for mark in panel.marks] == ["linear1.weight", "linear2.weight"]


def test_a_network_without_running_statistics_is_refused(tmp_path):
    (tmp_path / "layered.py").write_text(
        "from torch import nn\n\n\ndef net(input_shape, classes):\n"
        "    head = nn.Linear(6, classes, bias=False).requires_grad_(False)\n"
        "    norm = nn.LayerNorm(6, 1e-12, elementwise_affine=False)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6, bias=False), norm, nn.ReLU(), head)\n"
    )
    said = refused(tmp_path, "--model", "layered:net", "--running-statistics")
    assert said == "onsphere: --running-statistics: the network has no batch norm that keeps running statistics"
