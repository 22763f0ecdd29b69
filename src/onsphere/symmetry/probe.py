"""A copy of a model in which scaling symmetries are exact, so that a forward pass can show or refute them.

In a model as it trains a symmetry is blurred or feigned: the norms' eps breaks ``f(2 w) = f(w)`` by 1e-5 to
1e-2, float32 adds noise, dropout adds more, and a zero or constant tensor looks invariant where it is not
(2 * 0 = 0). The copy (:mod:`onsphere.functional.copying`) is in float64 and in the mode that is trained, without
dropout, running statistics (but of frozen norms) and recomputation, with eps
1e-200 (which passes torch's checks and rounds away; :mod:`onsphere.symmetry.exact_mode` sees to those that are
written out in the forward pass), and with every parameter moved off such special points by a generator of its
own. Every forward pass starts from the same random state, so that what is drawn inside is part of the function.
Scaling by a power of two is exact in floating point, so that an invariant output then comes back bit for bit.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onsphere.functional.copying import LeftoverError, copied
from onsphere.functional.nests import mapped, tensors_in, widened, without_caches
from onsphere.functional.recomputation import without_recomputation
from onsphere.functional.untouched import eager
from onsphere.functional.wrappers import unwrapped
from onsphere.symmetry.comparisons import Comparisons, relative_change
from onsphere.symmetry.exact_mode import ExactMode
from onsphere.symmetry.repeatable import as_trained, lift, make_repeatable, without_eps
from onsphere.symmetry.taps import Taps
from onsphere.symmetry.variation import HUGE, apart, constant_floats, drawn_tokens, repeated_tokens, varies

__all__ = ["Probe", "SymmetryError", "relative_change"]

# Two runs of the same model on the same batch may differ by this much (summation order on an accelerator).
_REPEATABLE = 1e-10


class SymmetryError(ValueError):
    """The scaling symmetries of a model could not be found."""


class Probe(Comparisons):
    """A float64 copy of ``model`` that answers how its output changes when trainable tensors are scaled.

    Args:
        model: any module; it, its buffers, gradients, flags and hooks are not touched.
        inputs: positional arguments of one call; floating tensors in them are converted to float64 copies.
        kwargs: keyword arguments of the same call.
        output: picks from the model's output what to look at; None takes every floating-point tensor in it, but those
            of a cache for generation.
        exact: False keeps the model's own eps and present weights, in float64 (dropout is off all the same).

    Attributes:
        names: trainable parameters of the model, tied ones once, in registration order.
        parameters: the copy's tensors of these names.
        reference: the output at the present point.
        arguments: positional and keyword arguments at the first point, which differ from those given where these were
            one example many times.
        notes: what was changed in the batch and the forward pass, as sentences.

    Raises:
        SymmetryError: nothing trainable, lazy or non-finite parameters, a model that cannot be copied, a
            forward pass that fails, is not deterministic, or gives no floating-point output, or zero or
            non-finite ones.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        output: Callable[[Any], Any] | None = None,
        exact: bool = True,
    ) -> None:
        # What is compiled as a whole would compile again for float64; what it wraps is the same function.
        inner = unwrapped(model)
        named = dict(model.named_parameters())
        if any(isinstance(p, nn.UninitializedParameter) for p in named.values()):
            raise SymmetryError("the model has lazy parameters without a shape: run one forward pass first")
        try:
            self._model = copied(inner, change=widened)
            frozen = as_trained(self._model, inner)
        except ValueError as error:
            raise SymmetryError(str(error)) from error
        bad = [name for name, p in named.items() if not bool(torch.isfinite(p.detach()).all())]
        if bad:
            raise SymmetryError(f"parameters hold values that are not finite: {', '.join(bad[:5])}")
        # Names come from the original, tensors from the copy: both list every tensor once and in the same
        # order.
        pairs = list(zip(named.items(), self._model.parameters(), strict=True))
        self.names = [name for (name, p), _ in pairs if p.requires_grad]
        self.parameters = [twin for (_, p), twin in pairs if p.requires_grad]
        if not self.names:
            raise SymmetryError("the model has no trainable parameter: every requires_grad is False")
        make_repeatable(self._model, frozen)
        self._frozen = tuple(frozen)
        for twin in self.parameters:
            if twin.requires_grad:  # what F.embedding(sparse=True) gives has no dot products
                twin.register_hook(lambda g: g.to_dense() if g.is_sparse else g)  # type: ignore[no-untyped-call]
        self._mode = ExactMode() if exact else None
        self._wide = self._mode or ExactMode(keep_eps=True)
        self._select = output
        self._untappable = False
        self._generator = torch.Generator().manual_seed(0)
        self._all = [twin for _, twin in pairs]
        if exact:
            without_eps(self._model, frozen)
            with torch.no_grad():
                for twin in self._all:
                    lift(twin)
                    self._leave_special_points(twin)
        self._inputs, self._kwargs = tuple(inputs), dict(kwargs)
        self._buffers = [
            (module, name, buffer.clone())
            for module in self._model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._notes: dict[str, None] = {} if self._mode is None else self._mode.notes
        if self._mode is None:
            self.reference = self._checked_reference()
        else:
            self._vary_inputs(self._mode)
            if self._learn_constants(self._mode):
                self.reference = self._checked_reference()
        self.arguments = self._inputs, self._kwargs

    def _vary_inputs(self, mode: ExactMode) -> None:
        """Make the batch one of different examples, and find the reference."""
        given = self._inputs, self._kwargs
        tokens, alike = repeated_tokens(given), constant_floats(given)
        if len(alike) > 1:
            raise SymmetryError(
                f"{len(alike)} inputs are one number or equal examples throughout, and no other varies, which shows "
                "too little: give a batch of different examples"
            )
        changed = bool(alike)
        self._inputs, self._kwargs = mapped(given, lambda t: apart(t, self.noise(t)) if alike and t is alike[0] else t)
        try:
            if tokens:
                with mode.watching() as watch, torch.no_grad():
                    self.outputs()
                arguments, drawn = drawn_tokens((self._inputs, self._kwargs), watch.tables, self._generator)
                (self._inputs, self._kwargs), changed = arguments, changed or drawn
            self.reference = self._checked_reference()
        except SymmetryError as error:
            if not changed:
                raise
            raise SymmetryError(
                f"the batch is one example many times, which shows too little, and with random numbers in its place: "
                f"{error}. Give a batch of different examples"
            ) from error
        if changed:
            self._notes["inputs that did not vary (one number, or equal examples) were replaced by random ones"] = None
        elif tokens and not varies((self._inputs, self._kwargs)):
            raise SymmetryError(
                f"every entry of the batch is the number {int(tokens[0].reshape(-1)[0])}, which shows too little, and "
                "nothing shows which others are allowed: give a batch of different examples"
            )

    @torch.no_grad()
    def _learn_constants(self, mode: ExactMode) -> bool:
        """Have the mode leave out what is added here and is the same where weights and inputs differ. True: some."""
        with mode.watching() as first:
            self.outputs()
        if not first.seen:
            return False
        inputs, kwargs = self._inputs, self._kwargs
        self._inputs, self._kwargs = mapped(inputs, _nudged), mapped(kwargs, _nudged)
        for twin in self.parameters:
            twin.mul_(2)  # and back: exact
        try:
            with mode.watching() as second:
                self.outputs()
        except SymmetryError:  # the nudged arguments are not allowed: constants out of sight stay
            return False
        finally:
            for twin in self.parameters:
                twin.mul_(0.5)
            self._inputs, self._kwargs = inputs, kwargs
        mode.leave_out(first.seen & second.seen)
        return bool(first.seen & second.seen)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed in the batch and the forward pass, as sentences."""
        some = ", ".join(self._frozen[:4]) + (" and others" if len(self._frozen) > 4 else "")
        kept = f"frozen norms (in evaluation mode while the rest trains), whose statistics are constants: {some}"
        return (*([kept] if self._frozen else []), *self._notes)

    @torch.no_grad()
    def move(self) -> None:
        """Go to another point: every parameter and every floating input is perturbed again.

        Sizes change too: near one point a piecewise linear network has symmetries that hold until a unit switches.
        """
        for twin in self._all:
            self._leave_special_points(twin)
            factor = float(torch.exp(0.4 * torch.randn((), generator=self._generator)))
            if not self._is_constant(twin):
                twin.mul_(factor)
        self._inputs, self._kwargs = self._perturbed(self._inputs), self._perturbed(self._kwargs)
        self.reference = self._checked_reference()

    def _perturbed(self, value: Any) -> Any:
        def disturb(tensor: Tensor) -> Tensor:
            if tensor.numel() < 2 or not (tensor.is_floating_point() or tensor.is_complex()):
                return tensor
            wide = widened(tensor)
            return wide + 0.1 * wide.std() * self.noise(wide) if bool((wide.abs() < HUGE).all()) else tensor

        return mapped(value, disturb)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape and device of ``like``, complex for complex ones, from one generator."""
        dtype = torch.complex128 if like.is_complex() else torch.float64
        return torch.randn(like.shape, generator=self._generator, dtype=dtype).to(like.device)

    def _leave_special_points(self, parameter: Tensor) -> None:
        if parameter.numel() == 0 or self._is_constant(parameter):
            return
        noise, first = self.noise(parameter), parameter.reshape(-1)[0]
        if bool((parameter == first).all()):
            if first == 0:
                fan_in = parameter.numel() // parameter.shape[0] if parameter.dim() else 1
                parameter.copy_(0.5 * noise / fan_in**0.5)
            else:
                parameter.mul_(1 + 0.2 * noise.real.clamp(-2, 2))
        else:
            parameter.add_(0.05 * parameter.std() * noise)

    def _is_constant(self, parameter: Tensor) -> bool:
        """A frozen number may be an eps, and is no weight."""
        return parameter.numel() == 1 and not parameter.requires_grad and bool(parameter.detach() != 0)

    def outputs(self) -> list[Tensor]:
        """Every floating-point tensor of the copy's output, nested ones included, for the given inputs."""
        for module, name, buffer in self._buffers:
            module._buffers[name] = buffer.clone()
        try:
            args, kwargs = mapped(self._inputs, _as_double), mapped(self._kwargs, _as_double)
        except Exception as error:  # of a user's class, or a tensor of an unusual kind
            raise SymmetryError(
                f"an argument of the call cannot be copied in double precision ({type(error).__name__}: {error}): "
                "give plain tensors, or nests and objects that hold them"
            ) from error
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            with (
                torch.autocast(self.parameters[0].device.type, enabled=False),
                eager(),
                without_recomputation(),
                self._wide,
            ):
                output = self._model(*args, **kwargs)
            if self._select is not None:
                output = self._select(output)
            else:
                output, left_out = without_caches(output)
                if left_out:
                    self._notes["the cache of keys and values in the output is no output and was not looked at"] = None
        except LeftoverError as error:
            raise SymmetryError(str(error)) from error
        except Exception as error:
            advice = "Give the arguments of one ordinary call: a batch of more than one example"
            if re.search(r"\b(double|float64|complexdouble)\b", str(error), re.IGNORECASE):
                advice = (
                    "If it runs in its own precision, something in it takes no double precision (a kernel, a tensor "
                    "made in a fixed type out of sight): give it a way that does"
                )
            raise SymmetryError(
                f"the forward pass failed on a float64 copy of the model in training mode "
                f"({type(error).__name__}: {error}). {advice}"
            ) from error
        tensors = [t.double() for t in _floating_tensors(output)]
        if not tensors:
            raise SymmetryError(
                f"the model's output ({type(output).__name__}) holds no floating-point tensor to compare"
            )
        return tensors

    def tapped_outputs(self) -> tuple[list[Tensor], Taps | None]:
        """The output, and taps on the parameters where that is possible."""
        if self._mode is None or self._untappable:
            return self.outputs(), None
        taps = self._mode.taps = Taps(self.parameters)
        try:
            outputs = self.outputs()
            taps.open = False
            if not taps.inside:
                return outputs, taps
        except SymmetryError:  # transforms of functions inside, which know no taps
            pass
        finally:
            self._mode.taps = None
        self._untappable = True
        return self.outputs(), None

    def _checked_reference(self) -> list[Tensor]:
        with torch.no_grad():
            first, second = self.outputs(), self.outputs()
        if not all(bool(torch.isfinite(t).all()) for t in first):
            raise SymmetryError("the output holds values that are not finite, even in float64: check the batch")
        if all(bool((t == 0).all()) for t in first):
            raise SymmetryError("the output is zero for this batch, so nothing can be seen in it")
        change = relative_change(first, second)
        if not change < _REPEATABLE:
            raise SymmetryError(
                f"the forward pass is not deterministic: two runs on one batch from one random state differ by "
                f"{change:.1e}. Switch off what draws from a generator of its own or changes from call to call"
            )
        return first


def _as_double(tensor: Tensor) -> Tensor:
    return widened(tensor.detach().clone())


def _nudged(tensor: Tensor) -> Tensor:
    return tensor * (1 + 2**-10) if tensor.is_floating_point() or tensor.is_complex() else tensor


def _floating_tensors(value: Any) -> Iterator[Tensor]:
    for tensor in tensors_in(value):
        if tensor.is_floating_point():
            yield tensor
        elif tensor.is_complex():
            yield torch.view_as_real(tensor)
