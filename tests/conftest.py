"""What every test shares: one torch thread (two shared cores), and no run ever writes into the checkout."""

import hypothesis
import pytest
import torch

# At import, so that fixtures of every scope run so: two processes with two threads each crawl on two cores.
torch.set_num_threads(1)

# No test asserts a time, hypothesis's own deadline included.
hypothesis.settings.register_profile("onsphere", deadline=None)
hypothesis.settings.load_profile("onsphere")


@pytest.fixture(autouse=True)
def _in_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
