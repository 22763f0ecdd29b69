"""Inputs in nests, data classes, objects, arrays, sparse and nested tensors reach a copy in double precision."""

from collections import UserDict, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

import onsphere
from onsphere.functional.nests import mapped, tensors_in, widened

Pair = namedtuple("Pair", "x k")


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    k: int = 3


@dataclass(slots=True)
class Slotted:
    x: torch.Tensor
    rest: list = field(default_factory=list)


class Plain:
    def __init__(self, x):
        self.x, self.me = x, self


class Listed(list):
    pass


class Reads(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.LayerNorm(16, elementwise_affine=False), nn.GELU(), nn.Linear(16, 3)
        )
        self.read = read

    def forward(self, batch):
        return self.net(self.read(batch))


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 16, bias=False), nn.LayerNorm(16, elementwise_affine=False), nn.Linear(16, 3)
        )

    def forward(self, x):
        return self.net[1:](torch.sparse.mm(x, self.net[0].weight.T))


def attribute(batch):
    return batch.x


def first(batch):
    return batch[0]


def by_key(batch):
    return batch["x"]


INPUTS = {
    "named tuple": (lambda x: Pair(x, 3), attribute),
    "data class": (Frozen, attribute),
    "data class with slots": (lambda x: Slotted(x, [x]), lambda batch: batch.x + batch.rest[0]),
    "object that holds itself": (Plain, lambda batch: batch.me.x),
    "list of its own class": (lambda x: Listed([x]), first),
    "user dictionary": (lambda x: UserDict(x=x), by_key),
    "objects in nests": (lambda x: {"x": [Plain(Frozen(x))]}, lambda batch: batch["x"][0].x.x),
    "float32 array": (lambda x: x.numpy(), torch.from_numpy),
    "array in an object": (lambda x: Plain(x.numpy()), lambda batch: torch.from_numpy(batch.x)),
    "rows in memory order": (lambda x: x.to_sparse_csr(), lambda batch: batch.to_dense()),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_many_kinds(kind):
    pack, read = INPUTS[kind]
    torch.manual_seed(0)
    batch = pack(torch.randn(16, 8))
    before = read(batch).clone()
    assert onsphere.find_symmetries(Reads(read), batch).groups == [("net.0.weight", "net.0.bias")]
    assert torch.equal(read(batch), before)
    assert read(batch).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_inputs(layout):
    torch.manual_seed(0)
    x = torch.randn(16, 8) * (torch.rand(16, 8) < 0.5)
    x = x.to_sparse() if layout is torch.sparse_coo else x.to_sparse_csr()
    assert onsphere.find_symmetries(Sparse(), x).groups == [("net.0.weight",)]


def test_jagged_inputs():
    torch.manual_seed(0)
    x = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(5, 8)], layout=torch.jagged)
    assert onsphere.find_symmetries(Reads(lambda batch: batch), x).groups == [("net.0.weight", "net.0.bias")]


@pytest.mark.parametrize("wrap", ["BatchEncoding", "ModelOutput"])
def test_inputs_of_hugging_face(wrap):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    if wrap == "BatchEncoding":
        batch, read = transformers.BatchEncoding({"x": x}), by_key
    else:
        batch = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=x)
        read = lambda batch: batch.last_hidden_state  # noqa: E731
    assert onsphere.find_symmetries(Reads(read), batch).groups == [("net.0.weight", "net.0.bias")]


def test_what_is_mapped():
    x, tokens, lock = torch.ones(2), torch.arange(3), object()
    value = {"x": [x, (tokens, "text")], "half": np.float16([1.5]), "names": np.array(["a"]), "lock": lock}
    found = mapped(value, lambda t: widened(t) * 2)
    assert found["x"][0].dtype == torch.float64
    assert found["x"][1][0].tolist() == [0, 2, 4]
    assert found["half"].dtype == np.float64
    assert found["half"].tolist() == [3.0]
    assert found["names"] is value["names"]
    assert found["lock"] is lock
    assert value["half"].dtype == np.float16
    assert widened(torch.ones(2, dtype=torch.cfloat)).dtype == torch.complex128
    big_endian = np.array([1.0, 2.0], dtype=">f4")
    assert mapped(big_endian, widened).tolist() == [1.0, 2.0]


def test_tensors_of_an_output():
    output = Plain([Frozen(torch.ones(2)), {"a": torch.eye(2).to_sparse()}])
    assert [t.sum().item() for t in tensors_in(output)] == [2.0, 2.0]
    nested = torch.nested.nested_tensor([torch.ones(1, 2), torch.ones(3, 2)], layout=torch.jagged)
    assert [tuple(t.shape) for t in tensors_in(nested)] == [(4, 2)]
