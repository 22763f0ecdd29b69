"""Scalar products of weights, gradient and update of each tensor, taken on the device around a step.

    [<w,w>  <w,g>  <w,D>]
    [<w,g>  <g,g>  <g,D>]        D = w after the step - w before it
    [<w,D>  <g,D>  <D,D>]

3x3 in float64, a matrix product for each tensor. Copies of (w, g, w after) come first: small models keep those of
several steps and multiply them together, which spares most calls; large ones are multiplied piece by piece, so that
the float64 work space stays small. Nothing is read back before it is taken. The tensors are those of this process: of
tensors that are spread over processes, the parts held here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["Pieces", "Whole", "workspace"]

#: Where <w,w>, <w,g>, <g,g>, <w,D>, <D,D> are among the products, row by row.
_PICKED = [0, 1, 4, 6, 8]
#: Weights up to which copies are multiplied whole, and above which piece by piece.
_PIECE = {"cpu": 1 << 20, "default": 1 << 22}
#: Copies are gathered for so many steps at most: weights times steps, and steps.
_GATHER, _MOST = 1 << 16, 16


def workspace(tensors: Sequence[Tensor], capacity: int) -> Whole | Pieces:
    """The work space that suits some tensors of one device.

    Args:
        tensors: The tensors that are read, all on one device, none of them empty.
        capacity: Steps that it can hold until :meth:`Whole.take`.
    """
    size = _PIECE.get(tensors[0].device.type, _PIECE["default"])
    return Whole(tensors, capacity) if sum(t.numel() for t in tensors) <= size else Pieces(tensors, capacity, size)


class Whole:
    """Copies of all weights at once.

    Args:
        tensors: Tensors of one device.
        capacity: Steps that the ring can hold.

    Attributes:
        ring: The products of weights, gradients and updates, ``[T, capacity, 3, 3]``.
        nbytes: Size of the rest.
    """

    def __init__(self, tensors: Sequence[Tensor], capacity: int) -> None:
        self._used, self._waiting = 0, 0
        device, sizes = tensors[0].device, [t.numel() for t in tensors]
        self.ring = _ring(tensors, capacity)
        self._depth = max(1, min(_GATHER // sum(sizes), _MOST, capacity))
        kinds, exact = {t.dtype for t in tensors}, self.ring.dtype
        kind = kinds.pop() if self._depth > 1 and len(kinds) == 1 else exact
        self._copies = torch.zeros(self._depth, 3, sum(sizes), dtype=kind, device=device)
        self._exact = self._copies if kind == exact else torch.zeros_like(self._copies, dtype=exact)
        self._rows = list(torch.split(self._exact, sizes, dim=2))
        self._columns = [rows.transpose(1, 2) for rows in self._rows]
        parts = [torch.split(copy, sizes, dim=1) for copy in self._copies.unbind()]
        self._places = [
            [[p[row].view(t.shape) for p, t in zip(part, tensors, strict=True)] for row in range(3)] for part in parts
        ]
        self._first_two = [before + gradients for before, gradients, _ in self._places]
        self.nbytes = self._copies.nbytes + (0 if self._exact is self._copies else self._exact.nbytes)

    def before(self, weights: list[Tensor], gradients: Sequence[Tensor | None] | None) -> None:
        """Copy the weights, and the gradients if they are there by now."""
        if gradients is not None:
            found = [g for g in gradients if g is not None and not g.is_sparse]
            if len(found) == len(weights):
                torch._foreach_copy_(self._first_two[self._waiting], [*weights, *found])
                return
            self.gradients(gradients)
        torch._foreach_copy_(self._places[self._waiting][0], weights)

    def gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Copy the gradients; a missing one is zero."""
        for place, gradient in zip(self._places[self._waiting][1], gradients, strict=True):
            if gradient is None:
                place.zero_()
            else:
                place.copy_(gradient.to_dense())

    def after(self, weights: list[Tensor]) -> None:
        """Copy the weights after the step, which ends the reading."""
        torch._foreach_copy_(self._places[self._waiting][2], weights)
        self._waiting += 1
        if self._waiting == self._depth:
            self._multiply()

    def take(self, *, under_way: bool = False) -> Tensor:
        """Empty the ring: ``[T, n, 5]`` on its device, as in :data:`onsphere.monitor.readings.SUMS`.

        Args:
            under_way: A reading has begun and not ended; it goes on undisturbed.
        """
        place = self._waiting
        self._multiply()
        if under_way and place:
            self._copies[0].copy_(self._copies[place])
        taken = _taken(self.ring, self._used)
        self._used = 0
        return taken

    def _multiply(self) -> None:
        n, self._waiting = self._waiting, 0
        if not n:
            return
        if self._exact is not self._copies:
            self._exact[:n].copy_(self._copies[:n])
        self._exact[:n, 2].sub_(self._exact[:n, 0])
        places = self.ring[:, self._used : self._used + n].unbind()
        for rows, columns, products in zip(self._rows, self._columns, places, strict=True):
            torch.bmm(rows[:n], columns[:n], out=products)
        self._used += n


class Pieces:
    """A copy of the weights in their own dtype, multiplied piece by piece.

    Args:
        tensors: Tensors of one device.
        capacity: Steps that the ring can hold.
        size: Weights in a piece.

    Attributes:
        ring: The products, ``[T, capacity, 3, 3]``; <g,D> is not among them.
        nbytes: Size of the rest.
    """

    def __init__(self, tensors: Sequence[Tensor], capacity: int, size: int) -> None:
        self._used, self._size = 0, size
        self.ring = _ring(tensors, capacity)
        self._before = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors]
        self._rows = torch.zeros(3, size, dtype=self.ring.dtype, device=self.ring.device)
        self.nbytes = self._rows.nbytes + sum(t.nbytes for t in self._before)

    def before(self, weights: list[Tensor], gradients: Sequence[Tensor | None] | None) -> None:
        """Copy the weights, and multiply with the gradients if they are there by now."""
        torch._foreach_copy_(self._before, weights)
        if gradients is not None:
            self.gradients(gradients)

    def gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Multiply with the gradients; a missing one is zero."""
        for i, gradient in enumerate(gradients):
            products = self.ring[i, self._used, :2, :2].zero_()
            flat = None if gradient is None else gradient.to_dense().reshape(-1)
            for rows, start, stop in self._parts(i):
                if flat is None:
                    rows[1].zero_()
                else:
                    rows[1].copy_(flat[start:stop])
                products.addmm_(rows[:2], rows[:2].t())

    def after(self, weights: list[Tensor]) -> None:
        """Multiply with the update, which ends the reading."""
        for i, tensor in enumerate(weights):
            products = self.ring[i, self._used, 2].zero_()
            flat = tensor.reshape(-1)
            for rows, start, stop in self._parts(i):
                rows[2].copy_(flat[start:stop]).sub_(rows[0])
                products[0].add_(rows[0] @ rows[2])
                products[2].add_(rows[2] @ rows[2])
        self._used += 1

    def take(self, *, under_way: bool = False) -> Tensor:
        """Take the readings out, as :meth:`Whole.take` does."""
        taken = _taken(self.ring, self._used)
        if under_way and self._used:
            self.ring[:, 0].copy_(self.ring[:, self._used])
        self._used = 0
        return taken

    def _parts(self, i: int) -> Iterator[tuple[Tensor, int, int]]:
        """Work space with the weights of each piece of tensor i in its first row, and where the piece is."""
        flat = self._before[i].view(-1)
        for start in range(0, len(flat), self._size):
            stop = min(start + self._size, len(flat))
            rows = self._rows[:, : stop - start]
            rows[0].copy_(flat[start:stop])
            yield rows, start, stop


def _ring(tensors: Sequence[Tensor], capacity: int) -> Tensor:
    device = tensors[0].device
    exact = torch.float32 if device.type == "mps" else torch.float64  # there is no other
    return torch.zeros(len(tensors), capacity, 3, 3, dtype=exact, device=device)


def _taken(ring: Tensor, used: int) -> Tensor:
    return ring[:, :used].flatten(2)[:, :, _PICKED]
