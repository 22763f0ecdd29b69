"""Two nodes of Ray on loopback: the bits of one process, also when a node or the driver is lost in the middle."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from onsphere.lab import map_regimes, resume_regimes
from onsphere.lab.execution import Interrupted
from onsphere.lab.options import InputError
from onsphere.lab.population import ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run

ray = pytest.importorskip("ray", reason="ray is not installed: none of the executor on Ray is tested")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are not ours to mend

FIELDS = {"train": 60, "label_noise": 0.0, "widths": (8,), "elr_min": 1e-3, "elr_max": 1.0, "elrs": 2, "seeds": 2}
FIELDS |= {"batch_size": 16, "refine": 0, "evaluations": 4, "workers": 2, "mode": "loop", "compiled": "no", "chunk": 1}
FIELDS |= {"steps": 4000, "checkpoint_seconds": 0.2}
DRIVER = "import sys; from onsphere.lab import map_regimes; map_regimes(out=sys.argv[1], executor='ray', **{fields!r})"


class Told(Progress):
    """Calls something once, when so much of the work is done."""

    def __init__(self, copy_steps, call):
        self.left, self.call = copy_steps, call

    def advance(self, copy_steps):
        self.left -= copy_steps
        if self.left <= 0 and self.call is not None:
            call, self.call = self.call, None
            call()


@pytest.fixture(scope="module", autouse=True)
def _undrawn(undrawn_module):
    pass


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # the nodes import the package from where this process has it
        patch.setenv("PYTHONPATH", str(Path(sys.modules["onsphere"].__file__).parents[1]))
        node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
        made = Cluster(initialize_head=True, head_node_args=node)
        made.second = made.add_node(**node)
        patch.setenv("RAY_ADDRESS", made.address)
        # connected once: every connection has worker processes of its own, which import torch
        ray.init(made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return map_regimes(out=folder, **FIELDS | {"executor": "local:2"})


def assert_same(result, expected):
    assert result.cells == expected.cells and result.boundaries == expected.boundaries
    wanted = expected.run / "shards"
    assert sorted(p.name for p in (result.run / "shards").iterdir()) == sorted(p.name for p in wanted.iterdir())
    for place in wanted.iterdir():
        one, other = ShardFolder(result.run / "shards" / place.name), ShardFolder(place)
        for name, value in other.weights().items():
            assert torch.equal(one.weights()[name], value), (place.name, name)
        assert np.array_equal(one.readings().values, other.readings().values, equal_nan=True), place.name


def test_a_cluster_gives_the_bits_of_workers_and_of_one_process(cluster, undisturbed, tmp_path):
    done = []
    told = Told(0, lambda: None)
    told.advance = done.append
    assert_same(map_regimes(out=tmp_path / "ray", executor="ray", progress=told, **FIELDS), undisturbed)
    assert sum(done) == 4 * FIELDS["steps"]
    assert_same(map_regimes(out=tmp_path / "one", **FIELDS | {"workers": 1}), undisturbed)
    assert not list((tmp_path / "ray").rglob(".probe*")) and ray.is_initialized()


def test_a_cluster_too_small_for_a_shard_is_refused(cluster, tmp_path):
    with pytest.raises(InputError, match="none of the 2 nodes of the Ray cluster has 64 cores and 0 accelerators"):
        map_regimes(out=tmp_path / "run", executor="ray:num_cpus=64", **FIELDS)


def test_a_run_that_is_asked_to_stop_stands_at_its_checkpoints(cluster, undisturbed, tmp_path):
    stopping = []
    told = Told(FIELDS["steps"], lambda: stopping.append(True))
    with pytest.raises(Interrupted):
        map_regimes(out=tmp_path / "run", executor="ray", progress=told, stop=lambda: bool(stopping), **FIELDS)
    run = Run.open(tmp_path / "run")
    states = [(ShardFolder(place).done, (place / "checkpoint.safetensors").exists()) for place in run.shard_folders()]
    assert states and all(done != checkpoint for done, checkpoint in states)
    assert not all(done for done, _ in states)
    assert_same(resume_regimes(run), undisturbed)


def test_a_driver_that_is_killed_leaves_what_a_resumed_run_ends(cluster, undisturbed, tmp_path):
    folder = tmp_path / "run"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER.format(fields=FIELDS), str(folder)])
    try:
        while not list(folder.glob("shards/*/checkpoint.safetensors")):
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended with {driver.wait(0.1)} before there was a checkpoint")
        os.kill(driver.pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.wait()
    assert not Run.open(folder).done
    assert_same(resume_regimes(Run.open(folder)), undisturbed)


def test_a_node_that_is_lost_in_the_middle_changes_no_bit(cluster, undisturbed, tmp_path):
    lost = []

    def lose():
        lost.append(sum(node["Alive"] for node in ray.nodes()))
        cluster.remove_node(cluster.second, allow_graceful=False)

    result = map_regimes(out=tmp_path / "run", executor="ray", progress=Told(FIELDS["steps"], lose), **FIELDS)
    assert lost == [2]
    assert_same(result, undisturbed)
