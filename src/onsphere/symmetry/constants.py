"""Constants that take the part of an eps below the functions a model calls: found by what they do, not by a name.

A layer norm adds its eps inside a kernel, an exported program has it as an argument of an aten call, a handwritten norm
holds it in a buffer. :class:`ConstantsMode` sees every operation a forward pass is made of, below autograd. An argument
named eps is one. A number that is added to a tensor or bounds it from below is taken for one if it is the same at all
entries and at two different points of the model (so that no parameter and no input made it), and

    small, at most 1e-3; or
    at most 1/4, added to something non-negative that a sum or a mean made, and then divided by or put under a root.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["EPS", "LARGEST_EPS", "ConstantsMode", "Watch"]

#: Passes torch's check for a positive eps and rounds away.
EPS = 1e-200

#: Constants up to this size may be an eps wherever they are added.
LARGEST_EPS = 1e-3
#: Larger ones up to this size, where a norm would have them.
_LARGEST_IN_A_NORM = 0.25

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_aten = torch.ops.aten
#: Positions of operands that a constant may be added to others at.
_ADDED: dict[Any, tuple[int, ...]] = {
    **dict.fromkeys((_aten.add, _aten.add_, _aten.sub, _aten.sub_, _aten.rsub, _aten.hypot), (0, 1)),
    **dict.fromkeys((_aten.addcmul, _aten.addcmul_, _aten.addcdiv, _aten.addcdiv_), (0,)),
    **dict.fromkeys((_aten.addmm, _aten.addmv, _aten.addr, _aten.baddbmm, _aten.addbmm), (0,)),
}
_PRODUCTS = {_aten.addcmul, _aten.addcmul_, _aten.addcdiv, _aten.addcdiv_}
_CLAMPED: dict[Any, tuple[int, ...]] = {
    **dict.fromkeys((_aten.clamp, _aten.clamp_, _aten.clamp_min, _aten.clamp_min_), (1,)),
    **dict.fromkeys((_aten.maximum, _aten.max, _aten.fmax), (0, 1)),
}
_DIVISORS: dict[Any, int] = {
    **dict.fromkeys((_aten.rsqrt, _aten.rsqrt_, _aten.sqrt, _aten.sqrt_, _aten.reciprocal, _aten.reciprocal_), 0),
    **dict.fromkeys((_aten.pow, _aten.pow_), 0),
    **dict.fromkeys((_aten.div, _aten.div_), 1),
}
_SUMS = {_aten.mean, _aten.sum, _aten.var, _aten.std, _aten.var_mean, _aten.std_mean, _aten.norm, _aten.amax}
_SUMS |= {_aten.linalg_vector_norm, _aten.bmm, _aten.mm, _aten.dot, _aten.mv}

#: Where and what: "added" or "clamped at", the number, the shape of what it is added to.
Place = tuple[str, float, tuple[int, ...]]


class ConstantsMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Leaves out the constants that a forward pass adds as an eps, as the module's text says.

    Args:
        notes: What was left out is written here, as sentences.

    Attributes:
        known: Constants taken for an eps.
    """

    supports_higher_order_operators = True

    def __init__(self, notes: dict[str, None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.notes = notes
        self.known: set[Place] = set()
        self._watch: Watch | None = None

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Look at what forward passes inside do, without leaving constants out."""
        self._watch = Watch()
        try:
            yield self._watch
        finally:
            self._watch = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, without its eps."""
        kwargs = dict(kwargs or {})
        if not isinstance(func, OpOverload):
            return func(*args, **kwargs)
        packet = func.overloadpacket
        if packet is _aten._assert_tensor_metadata:  # of exported programs, which were traced in a narrower type
            return None
        if kwargs.get("dtype") in _NARROW:
            kwargs["dtype"] = torch.float64
        args = self._without_named_eps(func, args, kwargs)
        if packet in _ADDED or packet in _CLAMPED:
            if self._watch is not None:
                self._watch.look(packet, args, kwargs)
            elif self.known:
                args = self._without_constants(packet, args, kwargs)
        result = func(*args, **kwargs)
        if self._watch is not None:
            self._watch.follow(packet, args, result)
        return result

    def _without_named_eps(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        for place, argument in enumerate(func._schema.arguments):
            if argument.name == "training" and not (args[place] if place < len(args) else kwargs.get("training", True)):
                return args  # a batch norm with running statistics is no norm, but a scaling and a shift
            if argument.name not in ("eps", "epsilon"):
                continue
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            if isinstance(given, float) and given > 0 and given != EPS:
                if given > 1e-15:  # torch's own rounding unit stands for "none given"
                    name = func._schema.name.split("::")[-1].lstrip("_")
                    self.notes[f"eps {given:g} of {name} was left out"] = None
                if place < len(args):
                    args = (*args[:place], EPS, *args[place + 1 :])
                else:
                    kwargs[argument.name] = EPS
        return args

    def _without_constants(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        for place, found, replaced in _constants(packet, args, kwargs):
            if found in self.known:
                how, value = found[:2]
                said = f"the constant {abs(value):g}, {how} in the forward pass, was taken for an eps and left out"
                self.notes[said] = None
                if isinstance(place, int):
                    args = (*args[:place], replaced(EPS), *args[place + 1 :])
                else:
                    kwargs[place] = replaced(EPS)
        return args


class Watch:
    """Sees what a forward pass adds and looks up.

    Attributes:
        seen: Constants that may be an eps.
        tables: Indices that rows were looked up by, and how many rows there are.
    """

    def __init__(self) -> None:
        self.seen: set[Place] = set()
        self.tables: list[tuple[Tensor, int]] = []
        self._waiting: dict[int, tuple[Place, Tensor]] = {}  # sums with a larger constant, by their memory
        self._summed: dict[int, Tensor] = {}  # kept, so that their memory is not given to others
        self._larger: Place | None = None

    def look(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at an operation before it runs."""
        self._larger = None
        for place, found, _ in _constants(packet, args, kwargs):
            how, value, _ = found
            if abs(value) <= LARGEST_EPS:
                self.seen.add(found)
            elif how == "added":
                other = args[0] if place != 0 else args[1]
                if isinstance(other, Tensor) and _memory(other) in self._summed:
                    bound = -other if packet in (_aten.sub, _aten.rsub) and (other <= 0).all() else other
                    if bool((bound >= 0).all()):
                        self._larger = found

    def follow(self, packet: Any, args: tuple[Any, ...], result: Any) -> None:
        """Look at what an operation returned."""
        if packet is _aten.embedding:
            self.tables.append((args[1], len(args[0])))
        elif packet is _aten.index and isinstance(args[1][0], Tensor):
            self.tables.append((args[1][0], len(args[0])))
        elif packet is _aten.index_select:
            self.tables.append((args[2], args[0].shape[args[1]]))
        divisor = _DIVISORS.get(packet)
        if divisor is not None and len(args) > divisor and isinstance(args[divisor], Tensor):
            waiting = self._waiting.get(_memory(args[divisor]))
            if waiting is not None:
                self.seen.add(waiting[0])
        tensors = [a for a in args if isinstance(a, Tensor)]
        tensors = [a for a in tensors if a.numel() > 1] or tensors
        for made in result if isinstance(result, tuple | list) else (result,):
            if not isinstance(made, Tensor):
                continue
            most = max((t.numel() for t in tensors), default=0)
            summed = packet in _SUMS and made.numel() < most
            if summed or (tensors and all(_memory(t) in self._summed for t in tensors)):
                self._summed[_memory(made)] = made
                if self._larger is not None and packet in _ADDED:
                    self._waiting[_memory(made)] = (self._larger, made)
        self._larger = None


def _constants(
    packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[int | str, Place, Callable[[float], Any]]]:
    """Constants among the operands: argument, what it is, and how to write another number in its place."""
    how = "added" if packet in _ADDED else "clamped at"
    places: list[int | str] = [p for p in (_ADDED if how == "added" else _CLAMPED)[packet] if p < len(args)]
    if how == "clamped at" and "min" in kwargs:
        places.append("min")
    for place in places:
        operand = args[place] if isinstance(place, int) else kwargs[place]
        if type(operand) is int and kwargs.get("alpha", 1) != 1:  # torch.add(x, 1, alpha=eps)
            operand = float(operand)
        value = _uniform(operand)
        sign = math.copysign(1, value or 1)
        others = [a for p, a in enumerate(args[:2]) if p != place and isinstance(a, Tensor)]
        if value is None or not others:
            continue
        # torch.add(x, other, alpha=a) adds a * other; rsub(x, other) is other - a * x
        if kwargs.get("alpha", 1) != 1 and place == (0 if packet is _aten.rsub else 1):
            value *= float(kwargs["alpha"])
        if _small(value) and (how == "added" or value > 0):
            yield place, (how, value, tuple(others[0].shape)), _like(operand, sign)
    if packet in _PRODUCTS:
        factors = [_uniform(a, limit=math.inf) for a in args[1:3]]
        if None not in factors and isinstance(args[0], Tensor):
            a, b = float(factors[0] or 0), float(factors[1] or 1)
            value = float(kwargs.get("value", 1)) * (a * b if packet in (_aten.addcmul, _aten.addcmul_) else a / b)
            if _small(value):
                yield 1, ("added", value, tuple(args[0].shape)), _like(args[1], 1.0)


def _small(value: float) -> bool:
    return 0 < abs(value) <= _LARGEST_IN_A_NORM and abs(value) > EPS


def _uniform(operand: Any, limit: float = 1e6) -> float | None:
    """The number that is all of this operand, or None."""
    if isinstance(operand, float):
        return operand
    if not isinstance(operand, Tensor) or not operand.is_floating_point() or operand.numel() == 0:
        return None
    if operand.layout is not torch.strided or operand.device.type == "meta":
        return None
    first = operand[(0,) * operand.dim()]
    value = float(first)
    return value if 0 < abs(value) <= limit and (operand.numel() == 1 or bool((operand == first).all())) else None


def _like(operand: Any, sign: float) -> Callable[[float], Any]:
    if isinstance(operand, Tensor):
        return lambda value: torch.full_like(operand, sign * value)
    return lambda value: sign * value


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else -id(tensor)
