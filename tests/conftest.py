"""What every test shares: one thread for every product, and no run ever writes into the checkout."""

import gc
import os
import tempfile

import hypothesis
import pytest
import torch
from threadpoolctl import threadpool_limits

# At import, so that fixtures of every scope run so. Two processes with two threads each crawl on two cores: the threads
# of numpy's and scipy's BLAS wait for one another in a loop, and what uses them takes four times as long. What is
# loaded later and what runs in a process of its own read the variable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
threadpool_limits(1)
torch.set_num_threads(1)

# Runs that name code are signed with a key in the user's state folder: tests have one of their own.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="onsphere-state-")

# No test asserts a time, hypothesis's own deadline included. The same examples each time, so that a change is judged by
# itself; `make search` draws new ones.
hypothesis.settings.register_profile("onsphere", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, print_blob=True)
hypothesis.settings.load_profile("onsphere")


def pytest_collection_modifyitems(items):
    """Long tests first, so that no worker is left with one when the others have ended."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Spare the collector what is there for good, and call it seldom: it took a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def _in_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mesh():
    """A mesh of one process."""
    from torch.distributed.device_mesh import init_device_mesh

    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        distributed.destroy_process_group()
