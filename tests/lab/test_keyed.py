"""A result's spec and engine were dictionaries once: scripts that read them so go on, each with a warning."""

import json
import math
import pickle

import pandas as pd
import pytest

from onsphere.lab.experiments.conventional.result import ConventionalEngine
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.intervals import Interval
from onsphere.lab.result import Backend, Engine

SPEC = RegimesSpec(widths=(16, 8), seeds=3)
HELD = SPEC.model_dump(mode="json")

READ = {
    "by name": (lambda spec: spec["widths"], [16, 8]),
    "get": (lambda spec: (spec.get("seeds"), spec.get("bananas"), spec.get("bananas", 1)), (3, None, 1)),
    "in": (lambda spec: ("seeds" in spec, "bananas" in spec), (True, False)),
    "names": (list, list(HELD)),
    "keys": (lambda spec: list(spec.keys()), list(HELD)),
    "values": (lambda spec: list(spec.values()), list(HELD.values())),
    "items": (lambda spec: list(spec.items()), list(HELD.items())),
    "dict": (dict, HELD),
    "stars": (lambda spec: {**spec, "seeds": 5}, HELD | {"seeds": 5}),
    "or": (lambda spec: spec | {"seeds": 5}, HELD | {"seeds": 5}),
    "or, from the right": (lambda spec: {"seeds": 5, "mine": 1} | spec, {"seeds": 5, "mine": 1} | HELD),
    "as text": (lambda spec: json.loads(json.dumps(dict(spec))), HELD),
    "as a row": (lambda spec: list(pd.DataFrame([spec, spec])["seeds"]), [3, 3]),
}


@pytest.mark.parametrize(("read", "expected"), READ.values(), ids=READ)
def test_a_spec_is_read_as_the_dictionary_that_it_was(read, expected):
    with pytest.warns(DeprecationWarning, match="spec"):
        assert read(SPEC) == expected


def test_the_warning_says_how_to_write_it_and_points_at_the_line():
    with pytest.warns(DeprecationWarning, match=r"^write spec\.seeds instead of spec\['seeds'\]$") as told:
        assert SPEC["seeds"] == 3
    assert told[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="write spec.NAME for one value"):
        assert "seeds" in SPEC
    with pytest.warns(DeprecationWarning), pytest.raises(KeyError, match="bananas"):
        SPEC["bananas"]
    with pytest.warns(DeprecationWarning), pytest.raises(KeyError):
        SPEC["model_dump"]  # an attribute, but no field


def test_engines_and_intervals_too():
    engine = ConventionalEngine("loop", 2, False, 1, {"all": ["a.weight"]})
    with pytest.warns(DeprecationWarning, match=r"write engine\.mode"):
        assert engine["mode"] == "loop"
    with pytest.warns(DeprecationWarning, match="engine"):
        assert dict(engine)["invariant"] == {"all": ["a.weight"]}
    with pytest.warns(DeprecationWarning):
        assert Backend("numba")["backend"] == "numba"
    with pytest.warns(DeprecationWarning):
        assert Interval(1.0, math.nan, 0.0, 2.0)["standard_error"] is None  # as JSON has it


def test_nothing_warns_that_is_not_a_dictionarys():
    engine = Engine("loop", 2, False, 1)
    assert (SPEC.seeds, engine.mode) == (3, "loop")
    assert SPEC and pickle.loads(pickle.dumps(SPEC)) == SPEC == SPEC.model_copy()
    assert SPEC.model_copy(update={"seeds": 4}) != SPEC
    assert pickle.loads(pickle.dumps(engine)) == engine and "seeds=3" in repr(SPEC)
