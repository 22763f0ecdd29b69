"""Regime maps on other spheres, with a trained head, momentum, and what else they may measure."""

import pytest

from command import here, last_json

pytestmark = pytest.mark.usefixtures("undrawn_module")

ENGINE = "--workers 1 --mode loop --chunk 2 --compiled no --dtype float64"
SMALL = (
    "regimes --train 40 --test 30 --widths 6 --elr-min 1e-2 --elr-max 1 --elrs 2 --seeds 1 --steps 24 "
    f"--batch-size 10 {ENGINE}"
)


def refused(folder, *options):
    done = here(*SMALL.split(), *options, "--out", "run", folder=folder)
    assert done.returncode == 2 and not (folder / "run").exists()
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A map with everything that is not the default."""
    place = tmp_path_factory.mktemp("mapped")
    options = "--spheres rows --head trained --head-lr 0.1 --momentum 0.5 --evaluations 2 --refine 0"
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
