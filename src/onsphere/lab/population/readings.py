"""What is recorded at every step of every copy, and what follows from it.

Recorded: minibatch loss and error, and for each trained tensor |w|², |g|², <w, g> before the update. Derived, for a
copy on the sphere of radius ρ at effective learning rate η̃ (Kodryan et al. 2022, section 2):

    effective gradient norm   ρ |g|
    angular update            atan2(η̃ ρ² |g_t|, ρ - η̃ ρ <w, g>),   g_t the tangent part of g

On several spheres, or with momentum, the angle does not follow from the gradient: it is measured and recorded.

The parquet columns are ``step``, ``copy``, ``loss``, ``error`` and ``norm2/NAME``, ``gradient2/NAME``, ``inner/NAME``,
and ``angle`` where it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from onsphere.lab.store.files import read_arrow, write_table
from onsphere.lab.store.seal import Damaged

FIXED = 2  # loss and error come before the tensors' columns
MOMENTS = ("norm2", "gradient2", "inner")
ANGLE = "angle"


@dataclass(frozen=True)
class Readings:
    """Readings of K copies over T steps.

    Attributes:
        names: The L trained tensors, on the sphere those that are on one.
        start: Step number of the first row.
        values: [T, K, 2 + 3 L + E], in the run's precision.
        extra: Names of the E last columns.
    """

    names: tuple[str, ...]
    start: int
    values: np.ndarray
    extra: tuple[str, ...] = ()

    @property
    def loss(self) -> np.ndarray:
        """Minibatch loss in training mode, [T, K]."""
        return self.values[..., 0].astype(np.float64)

    def moment(self, which: str) -> np.ndarray:
        """``norm2``, ``gradient2`` or ``inner`` per tensor, float64 [T, K, L]."""
        first = FIXED + MOMENTS.index(which) * len(self.names)
        moment: np.ndarray = self.values[..., first : first + len(self.names)].astype(np.float64)
        return moment

    @property
    def radius(self) -> np.ndarray:
        """Joint norm ρ of the trained tensors, [T, K]."""
        radius: np.ndarray = np.sqrt(self.moment("norm2").sum(-1))
        return radius

    @property
    def effective_gradient_norm(self) -> np.ndarray:
        """Gradient norm on the unit sphere, ρ |g|, [T, K]."""
        norm: np.ndarray = self.radius * np.sqrt(self.moment("gradient2").sum(-1))
        return norm

    def angular_update(self, elrs: np.ndarray) -> np.ndarray:
        """Angle between successive weights on the sphere, radians [T, K], at the copies' ELRs, [K]."""
        if ANGLE in self.extra:
            measured: np.ndarray = self.values[..., self.extra.index(ANGLE) - len(self.extra)].astype(np.float64)
            return measured
        norm2, gradient2, inner = (self.moment(which).sum(-1) for which in MOMENTS)
        tangent2 = np.maximum(gradient2 - inner**2 / norm2, 0.0)
        step = np.asarray(elrs) * norm2
        angle: np.ndarray = np.arctan2(step * np.sqrt(tangent2), np.sqrt(norm2) * (1 - step * inner / norm2))
        return angle


def write_part(readings: Readings, path: Path) -> str:
    """Write readings as one parquet file, one row a copy and step; returns the digest of its content."""
    steps, copies, width = readings.values.shape
    rows = readings.values.reshape(steps * copies, width)
    columns = {
        "step": np.repeat(np.arange(readings.start, readings.start + steps, dtype=np.int32), copies),
        "copy": np.tile(np.arange(copies, dtype=np.int32), steps),
        "loss": rows[:, 0],
        "error": rows[:, 1],
    }
    for i, which in enumerate(MOMENTS):
        for j, name in enumerate(readings.names):
            columns[f"{which}/{name}"] = rows[:, FIXED + i * len(readings.names) + j]
    columns |= {name: rows[:, i - len(readings.extra)] for i, name in enumerate(readings.extra)}
    return write_table(path, columns)


def read_parts(paths: Sequence[Path], digests: Sequence[str] | None = None) -> Readings:
    """Read consecutive parts back into one :class:`Readings`.

    Raises:
        Damaged: A part is missing, is not what was written (its digest is another than in ``digests``, where they are
            given, or than it says itself), or does not follow upon the one before.
    """
    expected: Sequence[str | None] = [None] * len(paths) if digests is None else digests
    tables = [read_arrow(path, digest) for path, digest in zip(paths, expected, strict=True)]
    for path, before, after in zip(paths[1:], tables, tables[1:], strict=False):
        if after["step"][0].as_py() != before["step"][-1].as_py() + 1:
            raise Damaged(path, "does not follow upon the part before it: one is missing")
    table = pa.concat_tables(tables)
    names = tuple(c.removeprefix("norm2/") for c in table.column_names if c.startswith("norm2/"))
    copies = int(table["copy"].to_numpy().max()) + 1
    order = ["loss", "error", *(f"{which}/{name}" for which in MOMENTS for name in names)]
    extra = tuple(c for c in table.column_names if c not in {"step", "copy", *order})
    values = np.stack([table[column].to_numpy() for column in (*order, *extra)], axis=-1)
    return Readings(names, int(table["step"][0].as_py()), values.reshape(-1, copies, values.shape[-1]), extra)
