"""An orthonormal basis of a Krylov space, fully reorthogonalised, and the tridiagonal matrix in it.

What it is for and what is read from it: :mod:`onsphere.curvature.lanczos`.

Source: Parlett, The Symmetric Eigenvalue Problem, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Krylov"]

_BLOCK = 2**22  # numbers of a stored basis converted to float64 at a time


class Krylov:
    """An orthonormal basis grown by one product at a time, and the matrix in it.

    Args:
        product: The symmetric matrix times a vector ``[P]`` (float64).
        size: Length P of the vectors.
        start: First vector, any length but zero; None draws a random one.
        seed: Seed of everything that is drawn at random.
        orthogonal_to: A vector ``[P]`` to leave out: all that is computed is orthogonal to it.
        dtype: How basis vectors are stored (they are orthonormal to its precision); sums are in float64. It is also the
            precision of ``product``, and says which residuals count as zero.
        device: The device on which the vectors lie.

    Attributes:
        steps: m, the products so far.
        noise: How far the products are from those of a symmetric matrix: the most that <q_i, A q_j>, i < j, differ
            from what they should be.

    Raises:
        ValueError: A size below one, a start of the wrong shape, zero or not finite; in :meth:`advance`, a product that
            is not finite.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        size: int,
        *,
        start: Tensor | None = None,
        seed: int = 0,
        orthogonal_to: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; it must be at least 1")
        self._product, self._device = product, torch.device(device)
        self._generator = torch.Generator().manual_seed(seed)
        self._fixed = int(orthogonal_to is not None)
        self.precision, self.noise = torch.finfo(dtype).eps, 0.0
        self.size, self.dimension = size, size - self._fixed
        self._rows = torch.empty(min(size, 16), size, dtype=dtype, device=self._device)
        self._filled = 0
        if orthogonal_to is not None:
            self._append(orthogonal_to.to(self._device, torch.float64) / orthogonal_to.double().norm())
        self._diagonal: list[float] = []
        self._beside: list[float] = []  # beta after each step; zero where a block ends
        self.blocks = [0]  # first step of each invariant block; the last may be open
        self.random_block = start is None
        self._next: Tensor | None = None
        if start is not None:
            if start.shape != (size,):
                raise ValueError(f"start has shape {tuple(start.shape)}; it must be ({size},)")
            vector = start.detach().to(self._device, torch.float64)
            norm = float(vector.norm())
            if not (np.isfinite(norm) and norm > 0):
                raise ValueError(f"start has the norm {norm}; it must be positive and finite")
            self._next = self._unit(vector / norm, 1e-12)
        if self._next is None and self.dimension:
            self.random_block = True
            self._next = self._random()

    @property
    def steps(self) -> int:
        """How many products were computed."""
        return len(self._diagonal)

    @property
    def beta(self) -> float:
        """What couples the basis to the next vector; zero when the basis spans an invariant space."""
        return self._beside[-1]

    @property
    def invariant(self) -> bool:
        """Whether all that couples to the next vector is rounding errors, grown by the small betas before.

        The next vector is then as good as random.
        """
        return bool(self._beside) and self.beta <= self.precision ** (2 / 3) * max(self._beside)

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.steps >= self.dimension

    def advance(self) -> bool:
        """Compute one product; False, and nothing done, when the basis spans the whole space."""
        if self.exhausted or self._next is None:
            return False
        if self.invariant:
            self.blocks.append(self.steps)
            self.random_block = True
        q = self._next
        image = self._product(q).to(self._device, torch.float64)
        norm = float(image.norm())
        if not np.isfinite(norm):
            raise ValueError(f"product {self.steps + 1} is not finite; the derivatives overflow at these weights")
        self._append(q)
        known = self._overlaps(image)
        if self.steps:
            known[-2] -= self.beta
        self.noise = max(self.noise, 4 * float(known[self._fixed : -1].norm()))  # what shows is a part
        self._diagonal.append(float(torch.dot(q, image)))
        rest = self._remainder(self._remainder(image))
        beta = float(rest.norm())
        scale = max(norm, *map(abs, self._diagonal))
        if beta <= 10 * self.precision * scale:
            self._beside.append(0.0)
            self._next = None if self.exhausted else self._random()
        else:
            self._beside.append(beta)
            self._next = self._unit(rest / beta, 1e-3)
            if self._next is None:  # nothing but rounding errors was left
                self._beside[-1] = 0.0
                self._next = None if self.exhausted else self._random()
        return True

    def matrix(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The matrix T in this basis, tridiagonal, float64 ``[m, m]``."""
        off = np.array(self._beside[:-1])
        return np.diag(np.array(self._diagonal)) + np.diag(off, 1) + np.diag(off, -1)

    def basis(self) -> Tensor:
        """The basis Q, orthonormal rows ``[m, P]``, in the dtype it is stored in."""
        return self._rows[self._fixed : self._filled]

    def combine(self, coefficients: np.ndarray[Any, Any]) -> Tensor:
        """Unit vectors ``[k, P]``, float64, of coefficients ``[m, k]`` in the basis."""
        weights = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(self._device)
        found = torch.zeros(len(weights), self.size, dtype=torch.float64, device=self._device)
        rows = self.basis()
        for at, block in self._blocks(rows):
            found += weights[:, at : at + len(block)] @ block
        unit: Tensor = found / found.norm(dim=1, keepdim=True)
        return unit

    # -- orthogonality -------------------------------------------------------------------------------------

    def _blocks(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        count = max(1, _BLOCK // self.size)
        return [(at, rows[at : at + count].double()) for at in range(0, len(rows), count)]

    def _remainder(self, vector: Tensor) -> Tensor:
        for _, block in self._blocks(self._rows[: self._filled]):
            vector = vector - block.T @ (block @ vector)
        return vector

    def _overlaps(self, vector: Tensor) -> Tensor:
        return torch.cat([block @ vector for _, block in self._blocks(self._rows[: self._filled])])

    def _unit(self, vector: Tensor, least: float) -> Tensor | None:
        """Orthogonal to the basis and of unit length; None if less than ``least`` of it is."""
        rest = self._remainder(self._remainder(vector))
        norm = float(rest.norm())
        return None if norm < least else rest / norm

    def _random(self) -> Tensor:
        for _ in range(10):
            drawn = torch.randn(self.size, generator=self._generator, dtype=torch.float64).to(self._device)
            unit = self._unit(drawn / drawn.norm(), 1e-8)
            if unit is not None:
                return unit
        raise RuntimeError("no direction orthogonal to the basis was found; the basis is not orthonormal")

    def _append(self, vector: Tensor) -> None:
        if self._filled == len(self._rows):
            grown = torch.empty(min(self.size, 2 * len(self._rows)), self.size).to(self._rows)
            grown[: self._filled] = self._rows
            self._rows = grown
        self._rows[self._filled] = vector
        self._filled += 1
