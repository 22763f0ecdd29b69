"""Symmetries in a file: what was found comes back, and what is damaged is refused."""

import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import onsphere
from onsphere import Symmetries


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    return onsphere.find_symmetries(model, torch.randn(16, 6), rows=True, unused="ignore")


def same(a, b):
    np.testing.assert_array_equal(a.generators, b.generators)
    for name in Symmetries.__dataclass_fields__:
        if name != "generators":
            np.testing.assert_equal(getattr(a, name), getattr(b, name))
            assert type(getattr(a, name)) is type(getattr(b, name)), name


def changed(found, **changes):
    return Symmetries.from_dict(found.to_dict() | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"row_invariant": None},
        {"gap": math.inf, "broken_by_eps": [math.nan] * 2},
        {"gap": 10.0**300, "notes": ["naïve ∞ \ud800"]},
    ],
    ids=["whole", "without rows", "not finite", "extremes"],
)
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "path"])
def test_what_was_saved_comes_back(found, tmp_path, changes, kind):
    symmetries, path = changed(found, **changes), tmp_path / "twin.json"
    path.write_text("something else")
    symmetries.save(kind(path))
    same(Symmetries.load(kind(path)), symmetries)
    values = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert values["format"] == 1 and values["groups"] == [list(group) for group in found.groups]
    assert [file.name for file in tmp_path.iterdir()] == ["twin.json"]


def test_real_searches_come_back(tmp_path):
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, dropout=0)
    for model, x in (
        (nn.Linear(4, 2), torch.randn(8, 4)),
        (nn.Sequential(attention, nn.LayerNorm(8)), torch.randn(4, 5, 8)),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(8, 4)),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), torch.randn(8, 4)),
    ):
        found = onsphere.find_symmetries(model, x, rows=True)
        found.save("found.json")
        same(Symmetries.load("found.json"), found)


def test_a_file_that_cannot_be_written_leaves_the_old_one(found, tmp_path, monkeypatch):
    path = tmp_path / "twin.json"
    found.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *a: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        changed(found, gap=1.0).save(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["twin.json"]


def test_a_file_that_is_not_there_is_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        Symmetries.load(tmp_path / "nowhere.json")


def refused(path, words=None):
    with pytest.raises(ValueError, match=words) as error:
        Symmetries.load(path)
    assert str(error.value).startswith(f"{path} ") and "\n" not in str(error.value) and type(error.value) is ValueError


def test_files_cut_anywhere_are_refused(found, tmp_path):
    path = tmp_path / "twin.json"
    found.save(path)
    data = path.read_bytes()
    for end in range(0, len(data) - 2, 7):
        path.write_bytes(data[:end])
        refused(path, "is damaged or no file of Symmetries.save")


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"[1]", b"3", b"null", b"{}", b"[" * 100_000, b'{"format": 1}', b'{"format": 1e999}']
)
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "other.json"
    path.write_bytes(data)
    refused(path)


DAMAGE = {
    "it lacks 'groups'": {"groups": ...},
    "it does not say its format": {"format": ...},
    "format 2; this version of onsphere reads format 1": {"format": 2},
    "has format 'x'": {"format": "x"},
    "of tensors that the model does not have": {"groups": [["nobody"]]},
    "as many broken_by_eps as groups": {"groups": [["0.weight"]]},
    "its tensors do not fit together": {"without_effect": ["nobody"]},
    "its names do not fit together": {"notes": [3]},
    "as many shapes as names": {"shapes": [[3]]},
    "its numbers do not fit together": {"gap": "large"},
    "its generators are not those of its groups": {"without_effect": []},
    "reshape": {"generators": [[1]]},
    "not iterable": {"names": 3},
    "could not convert": {"generators": "x"},
}


@pytest.mark.parametrize("words", DAMAGE)
def test_values_that_do_not_fit_are_refused(found, tmp_path, words):
    path = tmp_path / "twin.json"
    found.save(path)
    values = json.loads(path.read_text(encoding="utf-8")) | DAMAGE[words]
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))
    refused(path, re.escape(words))


def test_any_value_of_another_kind_is_refused_or_changes_nothing_that_is_used(found, tmp_path):
    path = tmp_path / "twin.json"
    found.save(path)
    values = json.loads(path.read_text(encoding="utf-8"))
    derived = ("sentences", "fixed", "invariant")
    for name in set(values) - set(derived):
        for other in (None, 7, "text", [], {}, [None], [[[]]], {"a": 1}, True):
            path.write_text(json.dumps(values | {name: other}))
            try:
                again = Symmetries.load(path)
            except ValueError as error:
                assert str(error).startswith(f"{path} ")
            else:
                assert repr(again) and again.to_dict()
                assert name in ("gap", "notes", "row_invariant", "blocks", "dimension") or other in (1, True)
