"""``onsphere symmetries``: what it prints and writes, for reference networks and for models of one's own."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import onsphere
from browser import attribute, needs_browser, open_page
from onsphere.lab import InputError, Interrupted, Run
from onsphere.lab.cli import run_command
from onsphere.lab.experiments.symmetries.charts import areas_chart, bars_chart
from onsphere.lab.experiments.symmetries.run import EXPERIMENT, question
from onsphere.lab.experiments.symmetries.spec import SymmetriesSpec, parse_shape
from onsphere.lab.experiments.symmetries.tensors import Tensors

pytestmark = pytest.mark.usefixtures("undrawn_module")

# A residual net in which everything happens: a joint group, one alone, a pair, rescalings, no effect, no symmetry.
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.inner = nn.Linear(8, 8)
        self.inner_norm = nn.BatchNorm1d(8, affine=False)
        self.outer = nn.Linear(8, 8, bias=False)
        self.last_norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.outer(torch.relu(self.inner_norm(self.inner(torch.relu(self.norm(x))))))
        return self.head(torch.relu(self.last_norm(x)))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.norm = nn.LayerNorm(8, elementwise_affine=False)
        self.head = nn.Linear(8, 20)

    def forward(self, ids, scale=None):
        logits = self.head(self.norm(self.embed(ids)))
        return {"logits": logits if scale is None else logits * scale, "more": [logits.sum(1)]}

def unused():
    net = Net()
    net.never = nn.Linear(2, 2)
    return net

def sized(input_shape, classes, width=4):
    return nn.Sequential(nn.Linear(input_shape[0], width), nn.LayerNorm(width), nn.Linear(width, classes))

def random():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)
        def forward(self, x):
            return self.layer(x) * int.from_bytes(__import__("os").urandom(2), "big")
    return Noisy()

def broken():
    raise RuntimeError("no weights today")

def needs(depth):
    return Net()

def lazy():
    return nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4, affine=False), nn.LazyLinear(2))

def number():
    return 3

def scripted():
    return torch.jit.script(nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2)))

def meta():
    return Net().to("meta")

def recurring():
    class Recurring(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = nn.Linear(6, 6), None
        def forward(self, x):
            self.last = self.layer(x) + (0 if self.last is None else self.last)
            return self.last
    made = Recurring()
    made(torch.ones(16, 6))
    return made
"""
FIELDS = {"model": "sym_nets:Net", "input": ("16x6",)}


@pytest.fixture(autouse=True)
def _nets(monkeypatch):
    Path("sym_nets.py").write_text(NETS)
    monkeypatch.delitem(sys.modules, "sym_nets", raising=False)


def said(arguments, capfd):
    assert run_command(arguments) == 0
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def found_by(**fields):
    return EXPERIMENT.start(**FIELDS | fields).found


def test_json_is_what_find_symmetries_says(capfd):
    result = said(["symmetries", "sym_nets:Net", "--input", "16x6", "--rows", "--json"], capfd)
    asked = question(SymmetriesSpec(**result["spec"]))
    expected = onsphere.find_symmetries(asked.model, *asked.inputs, rows=True).to_dict()
    assert result["groups"] == [["stem.weight", "outer.weight"], ["norm.weight", "norm.bias"], ["inner.weight"]]
    assert result["rescalings"] == [{"last_norm.weight": 1, "last_norm.bias": 1, "head.weight": -1}]
    assert result["without_effect"] == ["inner.bias"] and result["fixed"] == ["head.bias"]
    assert result["row_invariant"] == ["inner.weight"]
    assert {key: result[key] for key in expected} == json.loads(json.dumps(expected))
    assert result["command"] == "symmetries" and Path(result["report"]).is_file() and result["seconds"] > 0


def test_the_terminal_shows_everything(capfd):
    assert run_command(["symmetries", "sym_nets:Net", "--input", "16x6", "--rows", "--out", "run"]) == 0
    out = capfd.readouterr().out
    for words in (
        "stem.weight, outer.weight",
        "by itself: inner.weight",
        "last_norm.weight",
        "a^-1",
        "without effect:\n  inner.bias",
        "in no symmetry:\n  head.bias",
        "row by row:\n  inner.weight",
        "dimension 5, gap",
        "page: run/report.html",
    ):
        assert words in out
    assert run_command(["resume", "run"]) == 0
    assert capfd.readouterr().out == out
    assert run_command(["runs", "."]) == 0
    listed = capfd.readouterr().out
    assert "run  symmetries  done" in listed and "5 of 10 tensors" in listed and "in 3 groups" in listed


def test_layers_that_are_alike_take_one_line(capfd):
    assert run_command(["symmetries", "resnet18", "--width", "2", "--out", "run"]) == 0
    out = capfd.readouterr().out
    assert "each by itself: stages.{0–3}.0.conv1.weight, stages.{0–3}.1.conv1.weight" in out
    assert len(out.splitlines()) < 12


def test_tokens_keywords_and_parts_of_the_output(capfd):
    words = ["symmetries", "sym_nets:Words", "--vocab", "20", "--json"]
    result = said([*words, "--tokens", "ids=4x5", "--input", "scale=20"], capfd)
    assert result["groups"] == [["embed.weight"]] and result["fixed"] == ["head.weight", "head.bias"]
    part = said([*words, "--tokens", "4x5", "--output", "more.0"], capfd)
    assert part["groups"] == result["groups"]
    capfd.readouterr()
    assert run_command([*words, "--tokens", "4x5", "--output", "more.1"]) == 2
    assert "has no '1'" in capfd.readouterr().err
    assert run_command([*words, "--tokens", "4x5", "--output", "logit"]) == 2
    assert capfd.readouterr().err == (
        "onsphere: --output: the model's output (dict) has no 'logit'; it has logits, more\n"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_models_dtype_changes_nothing(dtype):
    found = found_by(dtype=dtype)
    assert found.groups == found_by().groups and found.dimension == 5


def test_reference_networks_need_no_input_and_eps_shows(capfd):
    exact = said(["symmetries", "--json"], capfd)
    assert exact["spec"]["model"] == "mlp" and exact["groups"] == [["linear1.weight"], ["linear2.weight"]]
    rough = said(["symmetries", "mlp", "--widths", "8,8", "--eps", "1e-2", "--json"], capfd)
    assert max(exact["broken_by_eps"]) < 1e-9 < 1e-3 < max(rough["broken_by_eps"])


def test_a_factory_gets_what_it_requires_and_what_is_chosen():
    def shape_of(**fields):
        spec = SymmetriesSpec(model="sym_nets:sized", input=("9x5",), **fields)
        return [tuple(p.shape) for p in question(spec).model.parameters()][::4]

    assert shape_of() == [(4, 5), (10, 4)]
    assert shape_of(width=7, classes=2) == [(7, 5), (2, 7)]


def test_lazy_layers_learn_their_shapes(capfd):
    result = said(["symmetries", "sym_nets:lazy", "--input", "16x6", "--json"], capfd)
    assert result["groups"] == [["0.weight"]] and result["shapes"][1] == [2, 4]
    assert run_command(["symmetries", "sym_nets:lazy", "--input", "16x5"]) == 2
    assert "forward pass failed" in capfd.readouterr().err
    assert not (set(Path("runs").iterdir()) - {Path(result["run"])})


def test_preparing_leaves_the_random_state_and_repeats_itself():
    before = torch.get_rng_state()
    spec = SymmetriesSpec(**FIELDS, seed=3)
    first, second = question(spec), question(spec)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.inputs[0], second.inputs[0]) and first.inputs[0].shape == (16, 6)
    assert torch.equal(first.model.stem.weight, second.model.stem.weight)
    other = question(SymmetriesSpec(**FIELDS, seed=4))
    assert not torch.equal(first.model.stem.weight, other.model.stem.weight)


def test_a_question_without_an_answer_is_one_line_status_2_and_no_folder(capfd):
    for name, size, says in (
        ("Net", "16x7", "forward pass failed"),
        ("unused", "16x6", "never.weight"),
        ("random", "16x6", "not deterministic"),
        ("broken", "16x6", "no weights today"),
        ("needs", "16x6", "depth"),
        ("number", "16x6", "int"),
        ("absent", "16x6", "absent"),
        ("scripted", "16x6", "compiled to TorchScript"),
        ("meta", "16x6", "on the meta device"),
        ("recurring", "16x6", "last holds a tensor of the graph of an earlier forward pass"),
    ):
        assert run_command(["symmetries", f"sym_nets:{name}", "--input", size]) == 2
        out, error = capfd.readouterr()
        assert out == "" and says in error, error
        assert len([line for line in error.splitlines() if line.startswith("onsphere: ")]) == 1
        assert not Path("runs").exists()
    assert run_command(["symmetries", "sym_nets:unused", "--input", "16x6", "--unused", "ignore"]) == 0


def test_a_folder_of_the_users_is_not_taken_back():
    Path("mine").mkdir()
    assert run_command(["symmetries", "sym_nets:unused", "--input", "16x6", "--out", "mine"]) == 2
    assert Path("mine").is_dir() and not list(Path("mine").iterdir())
    Path("mine/notes.txt").write_text("x")
    assert run_command(["symmetries", "sym_nets:Net", "--input", "16x6", "--out", "mine"]) == 2
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_an_interrupted_run_resumes_to_the_same_result():
    with pytest.raises(Interrupted):
        EXPERIMENT.start(**FIELDS, out="stopped", stop=lambda: True)
    assert Run(Path("stopped")).status == "interrupted"
    assert run_command(["resume", "stopped"]) == 0
    whole = EXPERIMENT.start(**FIELDS, out="whole").to_dict()
    resumed = json.loads(Path("stopped/result.json").read_text())
    for key in whole.keys() - {"run", "report", "seconds"}:
        assert json.loads(json.dumps(whole[key])) == resumed[key], key


def test_config_and_the_command_on_the_page_repeat_a_run(capfd):
    Path("spec.toml").write_text(
        'seed = 3\n[symmetries]\nmodel = "sym_nets:Net"\ninput = ["16x6"]\n[regimes]\nsteps = 9\n'
    )
    first = said(["symmetries", "--config", "spec.toml", "--out", "first", "--json"], capfd)
    page = Path("first/report.html").read_text(encoding="utf-8")
    command = shlex.split(re.search(r"onsphere symmetries --[^<\n]*", page)[0])
    again = said([*command[1:], "--json"], capfd)
    assert again["spec"] == first["spec"] and again["groups"] == first["groups"]
    line = ["symmetries", "sym_nets:Words", "--tokens", "4x5", "--vocab", "20", "--input", "scale=20"]
    other = said([*line, "--config", "spec.toml", "--json"], capfd)
    assert (other["spec"]["model"], other["spec"]["seed"]) == ("sym_nets:Words", 3)
    with pytest.raises(InputError, match="resume"):
        EXPERIMENT.start(**FIELDS, out="first")


PROBE = """
<script>
(async () => {
  const wait = () => new Promise((resolve) => setTimeout(resolve, 300));
  while (document.documentElement.dataset.charts === undefined) await wait();
  const data = (id) => document.getElementById(id).data;
  const bars = data("bars-chart");
  const seen = {
    traces: bars.length,
    bars: bars.reduce((sum, trace) => sum + trace.y.length, 0),
    tiles: data("areas-chart").reduce((sum, trace) => sum + trace.y.length, 0),
    drawn: document.querySelectorAll("#bars-chart .barlayer .point").length,
    wide: document.documentElement.scrollWidth <= innerWidth,
  };
  document.documentElement.dataset.seen = JSON.stringify(seen);
})();
</script></body>"""


@needs_browser
def test_the_page_opens_and_draws_every_tensor():
    found = Tensors(EXPERIMENT.start(**FIELDS, rows=True, out="run").found)
    kinds = ("png", "svg")
    assert {path.name for path in Path("run/figures").iterdir()} == {
        f"{n}.{k}" for n in ("areas", "tensors") for k in kinds
    }
    page = Path("run/report.html")
    page.unlink()
    assert run_command(["report", "run"]) == 0
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    document, console = open_page(page)
    assert console == [] and attribute(document, "data-errors") is None
    seen = json.loads(attribute(document, "data-seen"))
    assert seen == {"traces": 6, "bars": 10, "tiles": 10, "drawn": 10, "wide": True}
    areas, bars = areas_chart(found).panels[0].marks, bars_chart(found, "").panels[0].marks
    assert sorted(x for mark in bars for x in mark.length) == sorted(found.sizes.values())
    whole = sum(wide * high for mark in areas for wide, high in zip(mark.length, mark.thick, strict=True))
    for mark in areas:
        shares = [wide * high / whole for wide, high in zip(mark.length, mark.thick, strict=True)]
        assert sum(shares) == pytest.approx(float(mark.entry.split("· ")[1].removesuffix(" %")) / 100, abs=0.02)


def test_shapes_are_read():
    assert parse_shape("8x3x32x32") == (None, (8, 3, 32, 32))
    assert parse_shape("ids=4x16") == ("ids", (4, 16))
    assert parse_shape("7") == (None, (7,))
    for text in ("", "8x", "x8", "0x3", "8x-3", "8*3", "a b=3", "8x3.5"):
        with pytest.raises(ValueError, match="write a shape"):
            parse_shape(text)


def test_help_is_quick_to_load():
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "onsphere.lab.cli", "symmetries", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for word in ("--input", "--tokens", "--vocab", "--dtype", "--rows", "--seed", "--json", "--config", "MODEL"):
        assert word in shown.stdout
    for module in ("torch", "numpy", "matplotlib", "plotly"):
        assert f" {module}\n" not in shown.stderr, f"--help imports {module}"
