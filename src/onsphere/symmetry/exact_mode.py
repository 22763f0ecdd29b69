"""A mode in which a forward pass is computed in float64 without any eps, whoever wrote the layers.

Inside it casts to a narrower type (an RMS norm that works in float32) become casts to float64, the eps of functional
norms becomes 1e-200, and so does a small constant that is added to a tensor or clamps it from below: in handwritten
norms that is the eps. :class:`onsphere.symmetry.constants.ConstantsMode`, entered with it, does the same one level
below, where kernels, aten calls and tensors that hold an eps are seen. Such a constant need not be an eps, so what was
changed is noted for the user to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from onsphere.functional.nests import widened
from onsphere.symmetry.constants import EPS, LARGEST_EPS, ConstantsMode, Place, Watch
from onsphere.symmetry.taps import Taps

__all__ = ["EPS", "ExactMode"]

_NARROW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex32)
_COMPLEX_CASTS = {getattr(Tensor, name) for name in ("cfloat", "chalf")}
_CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16, *_COMPLEX_CASTS}
_WITH_EPS: dict[Callable[..., Any], int] = {
    F.layer_norm: 4,
    F.group_norm: 4,
    F.batch_norm: 7,
    F.instance_norm: 7,
    F.normalize: 3,
    F.cosine_similarity: 3,
    **({F.rms_norm: 3} if hasattr(F, "rms_norm") else {}),
}
_PER_EXAMPLE = "use_input_stats"
# Where it says whether statistics are those of the batch; with running ones these are scalings and shifts, no norms.
_RUNNING: dict[Callable[..., Any], tuple[int, str, bool]] = {
    F.batch_norm: (5, "training", False),
    torch.batch_norm: (5, "training", False),
    torch.native_batch_norm: (5, "training", False),
    F.instance_norm: (5, _PER_EXAMPLE, True),
    torch.instance_norm: (5, _PER_EXAMPLE, True),
}
_ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
_CLAMPS = {torch.clamp, torch.clip, torch.clamp_min, Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clamp_min}


class ExactMode(TorchFunctionMode):
    """Runs a forward pass without eps and without casts to narrower numbers, as the module's text says.

    Args:
        keep_eps: Whether to leave eps as it is and change the casts only.

    Attributes:
        notes: What was changed, as sentences; each once.
        taps: Uses of parameters are reported to them, if there are any.
    """

    def __init__(self, *, keep_eps: bool = False) -> None:
        super().__init__()
        self.notes: dict[str, None] = {}
        self._keep_eps = keep_eps
        self.taps: Taps | None = None
        self._below = ConstantsMode(self.notes)

    def __enter__(self) -> ExactMode:
        super().__enter__()  # type: ignore[no-untyped-call]
        if not self._keep_eps:
            self._below.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        if not self._keep_eps:
            self._below.__exit__(*error)  # type: ignore[no-untyped-call]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Look at what forward passes inside do below; what a function's name or type says is as ever."""
        with self._below.watching() as watch:
            yield watch

    def leave_out(self, constants: set[Place]) -> None:
        """Take these for an eps from now on."""
        self._below.known |= constants

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch function, exactly."""
        kwargs = dict(kwargs or {})
        if func in _CASTS:
            self._note_cast(args[0])
            return args[0].cdouble() if func in _COMPLEX_CASTS else args[0].double()
        if func is Tensor.to or func is Tensor.type or func is Tensor.type_as or "dtype" in kwargs:
            args, kwargs = self._widened(args, kwargs)
        running = func in _RUNNING and not _given(args, kwargs, *_RUNNING[func])
        if self._keep_eps or running:
            pass
        elif func in _WITH_EPS:
            args, kwargs = self._without_eps(func, args, kwargs)
        elif func in _ADDITIONS and len(args) == 2:
            args = tuple(self._constant(x, "added") if isinstance(x, float) else x for x in args)
        elif func in _CLAMPS:
            args = (args[0], *(self._constant(x, "clamped at") for x in args[1:2]), *args[2:])
            if "min" in kwargs:
                kwargs["min"] = self._constant(kwargs["min"], "clamped at")
        if func in _RUNNING and args and not running and not self._keep_eps:
            per_example = _RUNNING[func][1] == _PER_EXAMPLE
            args = (_without_constant_channels(args[0], per_example=per_example), *args[1:])
        result = NotImplemented if self.taps is None else self.taps(func, args, kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        # Constants that the forward pass makes for itself come in the default type.
        if isinstance(result, Tensor) and result.dtype in _NARROW and not any(result is x for x in args):
            return widened(result)
        return result

    def _widened(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        wide = tuple(_wide(x) if isinstance(x, torch.dtype) and x in _NARROW else x for x in args)
        if kwargs.get("dtype") in _NARROW:
            kwargs["dtype"] = _wide(kwargs["dtype"])
        if wide != args if len(wide) == 1 else any(a is not b for a, b in zip(wide, args, strict=True)):
            self._note_cast(args[0])
        return wide, kwargs

    def _without_eps(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        place = _WITH_EPS[func]
        given = args[place] if len(args) > place else kwargs.get("eps", "default")
        if given != EPS and (given in ("default", None) or given > 0):
            if isinstance(given, float):
                self.notes[f"eps {given:g} of {func.__name__} was left out"] = None
            if len(args) > place:
                args = (*args[:place], EPS, *args[place + 1 :])
            else:
                kwargs["eps"] = EPS
        return args, kwargs

    def _constant(self, value: Any, how: str) -> Any:
        if isinstance(value, float) and 0 < value <= LARGEST_EPS and value != EPS:
            self.notes[f"the constant {value:g}, {how} in the forward pass, was taken for an eps and left out"] = None
            return EPS
        return value

    def _note_cast(self, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and tensor.dtype in (torch.float64, torch.complex128):
            self.notes["casts to a narrower type in the forward pass were left out"] = None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: bool) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _without_constant_channels(x: Any, *, per_example: bool) -> Any:
    """Zeros for channels that do not vary (behind dead units): without eps a norm would blow up their rounding."""
    if not isinstance(x, Tensor) or x.dim() < (3 if per_example else 2):
        return x
    dims = tuple(range(2, x.dim())) if per_example else (0, *range(2, x.dim()))
    with torch.no_grad():
        mean = x.mean(dims, keepdim=True)
        constant = (x - mean).abs().amax(dims, keepdim=True) <= 1e-13 * mean.abs()
    return torch.where(constant, torch.zeros_like(x), x) if bool(constant.any()) else x
