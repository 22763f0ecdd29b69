"""Processes that train together: a function is run by each of them, and what it returns comes back.

They are forked from a server that has torch loaded, so that each costs milliseconds, and find each other through a
file: no port can be taken. gloo listens on the loopback interface.
"""

import os
import pickle
import tempfile
import traceback
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import torch

__all__ = ["run_on"]

#: Seconds; nothing here takes a tenth of it, and a hang ends.
_LIMIT = 500


def run_on(world, function, *arguments, patience=200.0):
    """``[function(*arguments) on rank 0, ... on rank world - 1]``; what a rank raised is raised here.

    ``patience``: the process group's time-out, seconds.
    """
    results = outcomes(world, function, *arguments, patience=patience)
    errors = [f"rank {rank}: {error}" for rank, (_, error) in enumerate(results) if error is not None]
    assert not errors, "\n".join(errors)
    return [value for value, _ in results]


def outcomes(world, function, *arguments, patience=200.0):
    """For every rank what it returned and None, or None and what it raised."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed.fsdp", "torch.distributed.tensor.parallel", "onsphere"])
    with tempfile.TemporaryDirectory() as folder:
        started = [
            context.Process(target=_rank, args=(rank, world, folder, function, arguments, patience), daemon=True)
            for rank in range(world)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(_LIMIT)
        late = [rank for rank, process in enumerate(started) if process.is_alive()]
        for process in started:
            process.kill()
            process.join()
        assert not late, f"ranks {late} of {world} had not ended after {_LIMIT} s"
        found = []
        for rank, process in enumerate(started):
            path = Path(folder) / f"result{rank}"
            found.append(pickle.loads(path.read_bytes()) if path.exists() else (None, f"ended with {process.exitcode}"))
        return found


def _rank(rank, world, folder, function, arguments, patience):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    outcome = None, "nothing"
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=patience)
    )
    try:
        outcome = function(*arguments), None
    except BaseException as error:
        outcome = None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    Path(folder, f"result{rank}").write_bytes(pickle.dumps(outcome))
    if outcome[1] is None:
        distributed.barrier()
        distributed.destroy_process_group()
    os._exit(0)
