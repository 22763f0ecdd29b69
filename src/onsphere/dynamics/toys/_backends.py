"""Who runs the inner loops: numpy, which is always there, or numba, which compiles them and gives the same numbers.

numba is imported when it is first used and never before. ``"auto"`` takes it where it is installed and the run is
long enough to pay for loading the compiled loops.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, cast

from onsphere.dynamics.toys import _kernels

__all__ = ["BACKENDS", "choose", "kernel"]

BACKENDS = ("auto", "numpy", "numba")

_LOOPS: dict[str, Callable[..., None]] = {"sphere": _kernels.sphere_loops, "decay": _kernels.decay_loops}
_ARRAYS: dict[str, Callable[..., None]] = {"sphere": _kernels.sphere_numpy, "decay": _kernels.decay_numpy}

# Measured on one core: numpy needs about 8 microseconds a step and 5 nanoseconds a pair. Loading numba and its
# cached code takes about a second, compiling for the first time three.
_STEP_SECONDS, _PAIR_SECONDS, _WORTH_SECONDS = 8e-6, 5e-9, 2.0


def choose(backend: str, *, steps: int, pairs: int) -> str:
    """The backend that a run takes: ``"numpy"`` or ``"numba"``.

    Args:
        backend: ``"auto"``, ``"numpy"`` or ``"numba"``.
        steps: Steps of the run.
        pairs: Pairs times runs that are stepped at once.

    Raises:
        ValueError: There is no such backend.
        ImportError: numba was asked for and is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
    installed = find_spec("numba") is not None
    if backend == "numba" and not installed:
        raise ImportError("backend 'numba' needs numba: pip install onsphere[fast]; or use 'numpy' or 'auto'")
    if backend == "auto":
        long = steps * (_STEP_SECONDS + pairs * _PAIR_SECONDS) > _WORTH_SECONDS
        return "numba" if installed and long else "numpy"
    return backend


def kernel(name: str, backend: str) -> Callable[..., None]:
    """The inner loop ``"sphere"`` or ``"decay"`` of a backend that :func:`choose` named."""
    return _compiled(name) if backend == "numba" else _ARRAYS[name]


@cache
def _compiled(name: str) -> Callable[..., None]:
    import numba

    # "numpy" errors: a division by zero gives infinity instead of a branch that would prevent vectorising.
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True}
    jit: Any = numba.njit
    try:
        return cast(Callable[..., None], jit(_LOOPS[name], cache=True, **options))
    except RuntimeError:  # no folder to keep compiled code in: neither beside the package nor the user's cache
        return cast(Callable[..., None], jit(_LOOPS[name], **options))
