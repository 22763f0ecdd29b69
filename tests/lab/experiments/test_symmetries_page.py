"""The page of symmetries from a program: colours, folded names, models without any symmetry."""

import json
import re

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import onsphere
from onsphere.lab import symmetries_page
from onsphere.lab.experiments.symmetries.findings import Findings
from onsphere.lab.experiments.symmetries.look import classes
from onsphere.lab.experiments.symmetries.names import folded, pattern, shortened


def test_a_page_from_a_program():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    found = onsphere.find_symmetries(model, torch.randn(8, 4))
    path = symmetries_page(found, "deep/page.html", title="my <model>")
    text = path.read_text(encoding="utf-8")
    assert "my &lt;model&gt;" in text and "0.weight" in text and 'id="areas-chart"' in text
    assert "Repeat it" not in text


def test_no_symmetry_at_all_still_makes_a_page():
    found = onsphere.find_symmetries(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(8, 3))
    assert found.dimension == 0
    text = symmetries_page(found, "page.html").read_text(encoding="utf-8")
    assert "None of 4 tensors is scale-invariant" in text


def test_every_tensor_has_one_class_and_many_groups_share_a_colour():
    n = 12
    pairs = [[f"bn{i}.weight", f"bn{i}.bias"] for i in range(n)]
    names = [name for pair in pairs for name in pair] + ["alone", "up", "idle", "head"]
    found = Findings(
        names=names,
        shapes=[[i + 1] for i in range(len(names))],
        groups=[*pairs, ["alone"]],
        broken_by_eps=[*[1e-5] * n, None],
        rescalings=[{"up": 1, "alone": -2}],
        sentences=["x"] * (n + 3),
        without_effect=["idle"],
        fixed=["head"],
        invariant=[name for pair in pairs for name in pair] + ["alone"],
        row_invariant=None,
        generators=[],
        dimension=n + 3,
        gap=None,
        notes=[],
    )
    shown = classes(found)
    assert sorted(name for one in shown for name in one.names) == sorted(names)
    assert len({one.colour for one in shown}) == len(shown) == 10
    assert shown[0].title == "scale-invariant by itself"
    assert Findings.load(json.loads(json.dumps(found.to_dict()))) == found


@given(st.lists(st.from_regex(r"[ab]\.[0-3]\.[cd][01]?", fullmatch=True), max_size=12, unique=True))
def test_folded_names_stand_for_exactly_the_same_names(names):
    def unfolded(text):
        found = re.search(r"\{(.*?)\}", text)
        if not found:
            return [text]
        low, dash, high = found[1].partition("–")
        values = range(int(low), int(high) + 1) if dash else found[1].split(",")
        return [text[: found.start()] + str(value) + text[found.end() :] for value in values]

    short = folded(names)
    assert sorted(name for text in short for name in unfolded(text)) == sorted(names)
    assert len(short) <= len(names)
    assert {pattern(name) for name in names} == {pattern(name) for text in short for name in unfolded(text)}


@given(st.text(max_size=60), st.integers(4, 40))
def test_shortened_text_keeps_both_ends(text, most):
    short = shortened(text, most)
    assert len(short) <= most or short == text
    assert text == short or (text.startswith(short.split("…")[0]) and text.endswith(short.rsplit("…", 1)[1]))
