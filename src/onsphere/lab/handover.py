"""A value for other processes: its tensors in a file that they map, everything else as bytes.

    handed = hand_over(problem, file)        # in the parent; every tensor of it stays where it is
    problem = handed.take()                  # in each worker

What torch does by itself when a tensor goes to another process is to move its storage into shared memory, in place: a
numpy view that anybody took before then points at freed memory, and /dev/shm must hold all of it. Here nothing is
moved. The workers share the file's pages; what one of them writes is its own.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onsphere.lab.store.files import atomic


@dataclass(frozen=True)
class Handed:
    """What goes to the other process.

    Attributes:
        file: The tensors; it must stay until every receiver has called :meth:`take`.
        rest: A pickle of everything else, which refers to them by number.
    """

    file: Path
    rest: bytes

    def take(self) -> Any:
        """A copy of what was handed over, its tensors mapped from the file and written to by nobody else."""
        tensors = torch.load(self.file, mmap=True, weights_only=True)
        return _Unpickler(io.BytesIO(self.rest), tensors).load()


def hand_over(value: Any, file: Path) -> Handed:
    """Write the tensors of a value that can be pickled into a file, over what is there; the value stays as it is.

    Raises:
        OSError: The file cannot be written.
    """
    rest = io.BytesIO()
    pickler = _Pickler(rest)
    pickler.dump(value)
    with atomic(file) as temporary:
        torch.save(pickler.tensors, temporary)
    return Handed(file, rest.getvalue())


class _Pickler(pickle.Pickler):
    """Puts plain tensors of the CPU aside; all others are pickled by their values, as torch does in a checkpoint."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self.numbers: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        if type(value) is not Tensor or value.layout is not torch.strided or value.device.type != "cpu":
            return None
        if value.requires_grad or value.is_quantized or value.__dict__:
            return None
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self.numbers[id(value)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        return self.tensors[number]
