"""The page of symmetries from a program: colours, folded names, models without any symmetry."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import onsphere
from onsphere.lab import symmetries_page
from onsphere.lab.experiments.symmetries.charts import Place, squarified
from onsphere.lab.experiments.symmetries.tensors import Tensors
from onsphere.lab.experiments.symmetries.words import folded, pattern, shortened


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
    moved = [[float(name in one) for name in names] for one in (*pairs, ["alone"], ["idle"])]
    found = onsphere.Symmetries(
        names=tuple(names),
        shapes=tuple((i + 1,) for i in range(len(names))),
        generators=np.array([*moved, [{"up": 1.0, "alone": -2.0}.get(name, 0.0) for name in names]]),
        groups=[*map(tuple, pairs), ("alone",)],
        rescalings=[{"up": 1, "alone": -2}],
        without_effect=("idle",),
        dimension=n + 3,
        gap=math.inf,
        broken_by_eps=(*[1e-5] * n, math.nan),
    )
    shown = Tensors(found).classes
    assert sorted(name for one in shown for name in one.names) == sorted(names)
    assert len({one.look.colour for one in shown}) == len(shown) == 10
    assert shown[0].title == "scale-invariant by itself"
    assert [one.names for one in shown if one.title in ("without effect", "in no symmetry")] == [("idle",), ("head",)]


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30), st.floats(1, 100), st.floats(1, 100))
def test_areas_fill_a_rectangle_without_overlap_and_are_as_the_sizes(sizes, wide, high):
    sizes = sorted(sizes, reverse=True)
    places = squarified(sizes, Place(0, 0, wide, high))
    shares = [place.wide * place.high / (wide * high) for place in places]
    assert shares == pytest.approx([size / sum(sizes) for size in sizes], rel=1e-6, abs=1e-9)
    for i, one in enumerate(places):
        assert -1e-6 * wide <= one.x <= one.x + one.wide <= wide * (1 + 1e-6)
        assert -1e-6 * high <= one.y <= one.y + one.high <= high * (1 + 1e-6)
        for other in places[:i]:
            x = min(one.x + one.wide, other.x + other.wide) - max(one.x, other.x)
            y = min(one.y + one.high, other.y + other.high) - max(one.y, other.y)
            assert x <= 1e-6 * wide or y <= 1e-6 * high


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
