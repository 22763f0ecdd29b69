"""Docstrings say what they mean by themselves: no line that can only be read together with the name it stands under."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import onsphere

SOURCE = Path(onsphere.__file__).parent
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Warns")
#: What a reader would have to look up in the line before, or in the name.
ELLIPSIS = re.compile(r"(Of|As there|As these|As above|Theirs|Likewise|Ditto|Which(?= ones?\b|\.|$)|See the module)\b")
#: A word, or a piece of code.
WORD = re.compile(r"``[^`]*``|:\w+:`[^`]*`|[\w'-]+")


def entries(docstring: str) -> Iterator[tuple[str, str, str]]:
    """Every entry of the sections of a Google docstring as (section, name, text); the name is empty for what returns.

    An entry begins one level below its section's heading, and goes on in lines that are indented further.
    """
    section, found = "", list[tuple[str, str, list[str]]]()
    for line in docstring.splitlines():
        indent = len(line) - len(line.lstrip())
        if not indent:
            section = line[:-1] if line.endswith(":") and line[:-1] in SECTIONS else ""
        elif section in ("Returns", "Yields") and (not found or found[-1][0] != section):
            found.append((section, "", [line.strip()]))
        elif section and indent == 4 and section not in ("Returns", "Yields"):
            name, _, text = line.strip().partition(": ")
            found.append((section, name, [text]))
        elif section and line.strip():
            found[-1][2].append(line.strip())
    return ((section, name, " ".join(text)) for section, name, text in found)


def faults(docstring: str) -> Iterator[str]:
    """What is elliptic in a docstring."""
    summary = docstring.split("\n\n")[0].replace("\n", " ")
    if ELLIPSIS.match(summary) or len(WORD.findall(summary)) < 3:
        yield summary
    for section, name, text in entries(docstring):
        few = section in ("Args", "Attributes", "Returns") and len(WORD.findall(text)) < 4
        if few or ELLIPSIS.match(text):
            yield f"{section} {name}: {text}"


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Where each docstring of a file is, and its text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield f"{path.relative_to(SOURCE).as_posix()}:{getattr(node, 'lineno', 1)}", text


def test_no_docstring_is_elliptic():
    paths = sorted(SOURCE.rglob("*.py"))
    found = [f"{where} {fault}" for path in paths for where, text in docstrings(path) for fault in faults(text)]
    assert len(paths) > 200
    assert not found, "write these out as phrases of their own:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        ("Of one metric.", ["Of one metric."]),
        ("Likewise.", ["Likewise."]),
        ("Mean of a row.\n\nArgs:\n    metric: Which.", ["Args metric: Which."]),
        ("Mean of a row.\n\nArgs:\n    shapes: Theirs.\n    plan: How.", ["Args shapes: Theirs.", "Args plan: How."]),
        ("Mean of a row.\n\nArgs:\n    a: As there,\n        and so on.", ["Args a: As there, and so on."]),
        ("Mean of a row.\n\nReturns:\n    Radians.\n\nNote the unit.", ["Returns : Radians."]),
        ("Mean of a row.\n\nRaises:\n    ValueError: As there, always.", ["Raises ValueError: As there, always."]),
        ("Mean of a row.\n\nRaises:\n    ValueError: Empty.\n\nArgs:\n    x: Numbers ``[n]``, not empty.", []),
        ("Take one step.\n\nReturns:\n    Which of them is the best, ``[n]``.\n    A second line.", []),
    ],
    ids=range(9),
)
def test_what_counts_as_elliptic(docstring, found):
    assert list(faults(docstring)) == found
