"""One thread, as worker processes use, so that neither their number nor that of the cores ever changes a bit.

How a sum is split over threads decides how it is rounded: torch and the BLAS of numpy and scipy are both held to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread inside the block; the numbers of before come back after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)
