"""Small runs, made once: one that was interrupted in the middle of training, and one that has ended."""

import shutil

import pytest

from onsphere.lab import Interrupted
from store_runs import train


@pytest.fixture(autouse=True)
def _undrawn(undrawn):
    """What is in a picture is no affair of these tests."""


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """The folder of a map that ran to its end."""
    return train(tmp_path_factory.mktemp("whole") / "run").run


@pytest.fixture(scope="session")
def cut_run(tmp_path_factory):
    """The folder of the same map, interrupted: one shard has ended, the other has a checkpoint and parts."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    with pytest.raises(Interrupted):
        train(folder, until=400)
    assert len(list(folder.glob("shards/*/done.json"))) == 1
    assert len(list(folder.glob("shards/*/checkpoint.safetensors"))) == 1
    return folder


@pytest.fixture
def cut(cut_run, tmp_path):
    """A copy of the interrupted map that may be spoilt, as ``run`` in the current folder."""
    return shutil.copytree(cut_run, tmp_path / "run")


@pytest.fixture
def whole(whole_run, tmp_path):
    """A copy of the ended map that may be spoilt, as ``run`` in the current folder."""
    return shutil.copytree(whole_run, tmp_path / "run")
