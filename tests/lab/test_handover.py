"""What goes to other processes: the same values there, and every tensor of this process where it was."""

import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from onsphere.lab.data import Dataset, load
from onsphere.lab.handover import hand_over
from onsphere.lab.population import Problem


def scaled(width, by):
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width)), by


def strided():
    images = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return {
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "view": images[2:4, 1],
        "whole": images,
        "expanded": torch.arange(3).expand(4, 3),
        "empty": torch.empty(0, 5),
    }


VALUES = {
    "a problem": lambda: Problem(load("digits", train=40, test=20, label_noise=0.1), "mlp", {"widths": (8,)}),
    "a problem in float64": lambda: Problem(load("digits", train=40).to(dtype=torch.float64), "mlp"),
    "a factory that holds tensors": lambda: partial(scaled, 8, by=torch.tensor([2.0, 3.0], dtype=torch.bfloat16)),
    "strides and shared storage": strided,
    "no tensor at all": lambda: {"a": [1, "b"], "c": np.arange(3)},
    "a tensor that asks for a gradient": lambda: torch.ones(3, requires_grad=True),
    "a parameter": lambda: nn.Parameter(torch.ones(3)),
    "a sparse one": lambda: torch.eye(3).to_sparse(),
    "a complex one, conjugated": lambda: torch.tensor([1 + 2j]).conj(),
    "booleans": lambda: torch.tensor([True, False]),
}


def tensors_of(value):
    """Every tensor in a value of those above, by its place."""
    if isinstance(value, torch.Tensor):
        return {"": value}
    if isinstance(value, Problem):
        return tensors_of(vars(value.data))
    if isinstance(value, partial):
        return tensors_of(value.keywords)
    if isinstance(value, dict):
        return {f"{k}{name}": t for k, item in value.items() for name, t in tensors_of(item).items()}
    return {}


@pytest.mark.parametrize("kind", VALUES)
def test_what_is_taken_equals_what_was_handed_over_which_stays_where_it_is(kind, tmp_path):
    value = VALUES[kind]()
    own = tensors_of(value)
    dense = {name: t for name, t in own.items() if t.layout is torch.strided and not t.is_conj()}
    places = {name: t.untyped_storage().data_ptr() for name, t in dense.items()}
    before = {name: t.detach().to_dense().clone() if t.is_sparse else t.detach().clone() for name, t in own.items()}
    views = {n: t.detach().numpy() for n, t in dense.items() if t.dtype is not torch.bfloat16}
    copies = {n: v.copy() for n, v in views.items()}
    taken = pickle.loads(pickle.dumps(hand_over(value, tmp_path / "file"))).take()
    found = tensors_of(taken)
    assert found.keys() == own.keys()
    for name, tensor in own.items():
        other = found[name]
        assert (other.dtype, other.shape, type(other)) == (tensor.dtype, tensor.shape, type(tensor))
        assert other.requires_grad == tensor.requires_grad
        assert torch.equal(other.to_dense() if other.is_sparse else other, before[name])
        if name in places:
            assert other.stride() == tensor.stride()
            assert tensor.untyped_storage().data_ptr() == places[name]
            assert not tensor.is_shared()
    for name, view in views.items():
        assert np.array_equal(view, copies[name])


def test_storage_that_was_shared_is_shared_again_and_what_is_written_stays_in_the_copy(tmp_path):
    value = strided()
    handed = hand_over(value, tmp_path / "file")
    one, two = handed.take(), handed.take()
    one["whole"].fill_(7.0)
    assert (one["view"] == 7).all()
    assert not (two["whole"] == 7).any() and not (value["whole"] == 7).any()
    assert torch.equal(handed.take()["whole"], value["whole"])


def test_the_copy_outlives_the_file(tmp_path):
    data = load("digits", train=40)
    handed = hand_over(data, tmp_path / "file")
    taken = handed.take()
    handed.file.unlink()
    assert isinstance(taken, Dataset) and taken.fingerprint() == data.fingerprint()


def test_a_file_that_was_changed_runs_nothing(tmp_path):
    """The file lies in the run's folder, where others may write: it holds tensors and nothing that is called."""
    handed = hand_over({"x": torch.ones(2)}, tmp_path / "file")
    torch.save([partial(exec, f"open({str(tmp_path / 'ran')!r}, 'w')")], handed.file)
    with pytest.raises(pickle.UnpicklingError):
        handed.take()
    assert not (tmp_path / "ran").exists()


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "file").symlink_to(tmp_path / "precious")
    hand_over(torch.ones(2), tmp_path / "file")
    assert (tmp_path / "precious").read_text() == "mine"


def test_nothing_is_put_into_shared_memory(tmp_path):
    """Where /dev/shm cannot hold a byte: torch's own way fails there."""
    code = (
        "import os, torch, pathlib\n"
        "from onsphere.lab.handover import hand_over\n"
        "def no(*_, **__): raise OSError('no room in shared memory')\n"
        "torch.UntypedStorage.share_memory_ = torch.UntypedStorage._share_filename_cpu_ = no\n"
        "torch.UntypedStorage._share_fd_cpu_ = no\n"
        "print(hand_over(torch.ones(3), pathlib.Path('file')).take().sum().item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "3.0\n", done.stderr
