"""Examples in the docstrings of public names are run: with torch, nn, onsphere, and the names of their own package."""

import doctest
import importlib
import inspect

import pytest
import torch

import onsphere

PACKAGES = [
    *("onsphere", "onsphere.symmetry", "onsphere.roles", "onsphere.surgery", "onsphere.optim", "onsphere.monitor"),
    *("onsphere.dynamics", "onsphere.dynamics.toys", "onsphere.curvature", "onsphere.landscape", "onsphere.ensembles"),
]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples():
    """Every public thing once, with the package that has it, if its docstring has examples."""
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            text = inspect.getdoc(thing) if callable(thing) else None
            if text and ">>> " in text and id(thing) not in seen:
                seen.add(id(thing))
                yield pytest.param(package, name, text, id=f"{package}.{name}")


@pytest.mark.parametrize(("package", "name", "text"), list(examples()))
def test_an_example_gives_what_it_says(package, name, text):
    module = importlib.import_module(package)
    names = {own: getattr(module, own) for own in module.__all__} | {
        "torch": torch,
        "nn": torch.nn,
        "onsphere": onsphere,
    }
    case = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    told = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        runner.run(case, out=told.append)
    assert runner.failures == 0 and runner.tries > 0, "".join(told)


def test_there_are_examples():
    assert len(list(examples())) >= 31
