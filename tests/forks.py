"""Processes without the seconds of imports that each of them begins with: forks of a server that has imported all."""

import multiprocessing
import os
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest


@cache
def forking():
    """A way to start processes, from a server that has imported everything that workers need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm_workers"])
    with pytest.MonkeyPatch.context() as patch:
        tests = str(Path(__file__).parent)
        patch.setenv("PYTHONPATH", os.pathsep.join([tests, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        forkserver.ensure_running()
    return context
