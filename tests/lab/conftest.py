"""Worker processes that are forks, which have nothing to import; runs without pictures."""

import pytest

import pictures
from forks import forking
from onsphere.lab import workers


@pytest.fixture(scope="session", autouse=True)
def _workers_are_forked():
    """Runs of this process; a command in a process of its own (test_interrupt.py) starts its workers as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "get_context", lambda method: forking())
        yield


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
