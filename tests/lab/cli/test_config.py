"""TOML in, TOML out, and the display without a terminal."""

import io
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onsphere.lab.config import to_toml, with_config
from onsphere.lab.display import Display
from onsphere.lab.options import InputError


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True),
        st.one_of(
            st.booleans(),
            st.integers(-(10**9), 10**9),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20),
            st.lists(st.integers(1, 99), max_size=4),
        ),
    )
)
def test_to_toml_is_read_back(fields):
    read = tomllib.loads(to_toml(fields | {"absent": None}))
    assert read == fields


def test_options_on_the_line_win_and_tables_are_taken():
    Path("a.toml").write_text(
        'seeds = 3\nstandardise = false\nwidths = [8, 9]\n[regimes]\nelr_min = 1e-3\nmodel = "mlp"\n'
    )
    assert with_config(["regimes", "--config", "a.toml", "--seeds", "5"]) == [
        *("regimes", "--no-standardise", "--widths=8,9", "--elr-min=0.001", "--model=mlp"),
        *("--config", "a.toml", "--seeds", "5"),
    ]
    assert "--no-standardise" not in with_config(["regimes", "--config=a.toml", "--standardise"])
    assert with_config(["runs"]) == ["runs"]


@pytest.mark.parametrize("text", ["seeds = {a = 1}", "regimes = 3", "seeds = 1979-05-27"])
def test_values_that_are_no_fields_are_refused(text):
    Path("bad.toml").write_text(text)
    with pytest.raises(InputError, match=r"bad\.toml"):
        with_config(["regimes", "--config", "bad.toml"])


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_says_what_happens(terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, highlight=False)
    with Display(console) as display:
        display.note("made scale-invariant")
        display.begin("grid", 1000)
        display.advance(500)
        display.finding("divergence begins: 0.1 to 0.2")
        display.finding("divergence begins: 0.1 to 0.2")
        display.begin("round 1", 100)
        display.advance(100)
    said = out.getvalue()
    for words in ("made scale-invariant", "grid", "round 1", "divergence begins: 0.1 to 0.2"):
        assert words in said
    if terminal:
        assert "steps/s" in said
    else:
        assert said.count("divergence begins") == 1
