"""Worker processes without the seconds of imports that each of them begins with; runs without pictures."""

import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path

import pytest

import pictures
from onsphere.lab import execution


@pytest.fixture(scope="session")
def forking():
    """A way to start processes: from a server that has imported everything that workers need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm_workers"])
    with pytest.MonkeyPatch.context() as patch:
        tests = str(Path(__file__).parents[1])
        patch.setenv("PYTHONPATH", os.pathsep.join([tests, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        forkserver.ensure_running()
    return context


@pytest.fixture(autouse=True)
def _workers_are_forked(monkeypatch, request):
    """Runs of this process; a command in a process of its own (test_interrupt.py) starts its workers as ever."""
    monkeypatch.setattr(execution, "get_context", lambda method: request.getfixturevalue("forking"))


@pytest.fixture
def undrawn():
    """Runs of one test are not drawn."""
    with pictures.undrawn():
        yield


@pytest.fixture(scope="module")
def undrawn_module():
    """Runs of no test of the module are drawn."""
    with pictures.undrawn():
        yield
