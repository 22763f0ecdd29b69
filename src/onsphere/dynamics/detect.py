"""Jumps in a trace of the effective learning rate: a zigzag on its logarithm.

Between jumps weight decay shrinks the norm and the ELR climbs; a jump throws the norm up and the ELR down. So a jump
is a peak of log ELR followed by a drop of more than ``drop``, and the next peak counts once log ELR has climbed by more
than ``drop`` from the trough. The rule needs no smoothing and no knowledge of the threshold, takes one pass over
the trace, keeps nothing but the turns, and can be fed while training runs.

    1.0  1.5  2.0  1.1  0.8  1.2  1.6  1.7      2.0 is a jump, since 0.8 lies deep enough below it;
              peak      trough         ?         1.7 is none yet: its drop has not been seen

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3 (jumps end periods); the rule and its default are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics._checks import Numbers, positive

__all__ = ["DROP", "ZigzagDetector", "zigzag_jumps"]

#: Default drop of log ELR that makes a peak a jump: the ELR falls by a fifth.
DROP = math.log(1.25)


class ZigzagDetector:
    """Finds jumps while the ELR is being measured.

    The last peak is open until the drop has been seen: it is ``pending``, not yet among ``peaks``, and a later, higher
    ELR replaces it. The first value is never a peak, since nothing shows that the ELR climbed to it; the
    first peak after it needs no climb of ``drop``.

    Args:
        drop: How far log ELR must fall after a peak, and climb after a trough; positive.
        burn_in: How many values to ignore first: at the beginning of a run gradients grow the norm, which looks like a
            jump.

    Attributes:
        peaks: Indices of confirmed peaks, in values fed, those ignored included.
        troughs: Indices of confirmed troughs; one lies between two peaks.
        count: How many values were fed so far.

    Raises:
        ValueError: ``drop`` is not a positive number, or ``burn_in`` not a whole number of at least 0.

    Example:
        >>> detector = ZigzagDetector()
        >>> [detector.push(elr) for elr in (1.0, 1.5, 2.0, 1.7, 1.1, 1.2)]
        [None, None, None, None, 2, None]
    """

    def __init__(self, *, drop: float = DROP, burn_in: int = 0) -> None:
        if not (isinstance(drop, (int, float)) and 0 < drop < math.inf):
            raise ValueError(f"drop is {drop!r}; it must be a positive number: the fall of log ELR that makes a jump")
        if not isinstance(burn_in, (int, np.integer)) or burn_in < 0:
            raise ValueError(f"burn_in is {burn_in!r}; it must be a whole number of at least 0")
        self.drop, self.burn_in = float(drop), int(burn_in)
        self.peaks: list[int] = []
        self.troughs: list[int] = []
        self.count = 0
        # The highest value since the last trough and the lowest since the last peak. While the direction is still
        # open (no turn so far) both are followed; afterwards the one that waits for a turn.
        self._high, self._high_at = -math.inf, -1
        self._low, self._low_at = math.inf, -1
        self._rising: bool | None = None

    @property
    def pending(self) -> int | None:
        """Index of the peak to be, confirmed by a drop from now on; None while the ELR falls or has only fallen."""
        return self._high_at if self._rising is not False and self._high_at > self.burn_in else None

    def push(self, elr: float) -> int | None:
        """Take in the next ELR.

        Returns:
            The index of the peak that this value confirms, or None.

        Raises:
            ValueError: The ELR is not positive and finite.
        """
        if not 0 < elr < math.inf:
            raise ValueError(f"ELR {self.count} is {elr}; it must be positive and finite")
        found = self.extend_log((float(np.log(elr)),))  # not math.log: equal ELRs must stay equal to extend's
        return found[0] if found else None

    def extend(self, elr: Numbers) -> list[int]:
        """Take a sequence of ELRs; returns the indices of the peaks that they confirm.

        Raises:
            ValueError: An ELR is not positive and finite, or there is none.
        """
        return self.extend_log(np.log(positive("elr", elr)).ravel().tolist())

    def extend_log(self, log_elr: Iterable[float]) -> list[int]:
        """As :meth:`extend` for log ELR, which reaches where ELRs overflow; nothing is checked."""
        before, drop = len(self.peaks), self.drop
        high, high_at, low, low_at, rising = self._high, self._high_at, self._low, self._low_at, self._rising
        at = self.count - 1
        for at, value in enumerate(log_elr, self.count):
            if at < self.burn_in:
                continue
            if rising is not False and value > high:
                high, high_at = value, at
            if rising is not True and value < low:
                low, low_at = value, at
            if rising is not False and high - value > drop:
                if high_at > self.burn_in:
                    self.peaks.append(high_at)
                low, low_at, rising = value, at, False
            elif rising is not True and value - low > drop:
                if low_at > self.burn_in:
                    self.troughs.append(low_at)
                high, high_at, rising = value, at, True
        self.count = at + 1
        self._high, self._high_at, self._low, self._low_at, self._rising = high, high_at, low, low_at, rising
        return self.peaks[before:]


def zigzag_jumps(elr: Numbers, *, drop: float = DROP, burn_in: int = 0) -> NDArray[np.int64]:
    """The jumps in a trace of ELRs: peaks that are followed by a drop of log ELR of more than ``drop``.

    A peak at the end of the trace, whose drop has not been seen, is left out (``ZigzagDetector.pending`` gives it).

    Args:
        elr: ``[T]``, effective learning rates at equal distances in time, positive.
        drop: How far log ELR must fall after a peak, and climb after a trough; ln 1.25 by default.
        burn_in: How many values to ignore first (100 steps is usual for a network: its norm grows at first).

    Returns:
        Indices of the peaks in ``elr``, ascending, ``[J]``.

    Raises:
        ValueError: ``elr`` is not a non-empty vector of positive, finite numbers; ``drop`` or ``burn_in`` is out of
            range.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3, for what a period is; the rule is ours.

    Example:
        >>> zigzag_jumps([1.0, 2.0, 4.0, 1.0, 2.0, 3.0, 1.5, 2.0]).tolist()
        [2, 5]
    """
    trace = positive("elr", elr)
    if trace.ndim != 1:
        raise ValueError(f"elr has shape {trace.shape}; it must be one trace, a vector of ELRs in time")
    detector = ZigzagDetector(drop=drop, burn_in=burn_in)
    detector.extend_log(np.log(trace).tolist())
    return np.array(detector.peaks, dtype=np.int64)
