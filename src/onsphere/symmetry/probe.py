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

import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from onsphere.functional.copying import LeftoverError, copied
from onsphere.functional.frozen import frozen_norms
from onsphere.functional.nests import mapped, tensors_in, widened
from onsphere.functional.recomputation import without_recomputation
from onsphere.functional.untouched import eager
from onsphere.functional.wrappers import unwrapped
from onsphere.normalisation import is_norm
from onsphere.symmetry.exact_mode import EPS, ExactMode

__all__ = ["Probe", "SymmetryError", "relative_change"]

_EPS_ATTRIBUTES = ("eps", "epsilon", "variance_epsilon")
_SMALL = 0.02  # of an ordinary size
# Hugging Face: probabilities of leaving out whole layers, in modules and their configurations.
_LAYER_DROPS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
_RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, nn.RReLU)
# Two runs of the same model on the same batch may differ by this much (summation order on an accelerator).
_REPEATABLE = 1e-10


class SymmetryError(ValueError):
    """The scaling symmetries of a model could not be found."""


class Probe:
    """A float64 copy of ``model`` that answers how its output changes when trainable tensors are scaled.

    Args:
        model: any module; it, its buffers, gradients, flags and hooks are not touched.
        inputs: positional arguments of one call; floating tensors in them are converted to float64 copies.
        kwargs: keyword arguments of the same call.
        output: picks from the model's output what to look at; None takes every floating-point tensor in it.
        exact: False keeps the model's own eps, casts and present weights, in float64 (dropout is off all the same).

    Attributes:
        names: trainable parameters of the model, tied ones once, in registration order.
        parameters: the copy's tensors of these names.
        reference: the output at the present point.
        notes: what was changed in the forward pass, as sentences.

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
            frozen = _as_trained(self._model, inner)
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
        _make_repeatable(self._model, frozen)
        self._frozen = tuple(frozen)
        for twin in self.parameters:
            if twin.requires_grad:  # what F.embedding(sparse=True) gives has no dot products
                twin.register_hook(lambda g: g.to_dense() if g.is_sparse else g)  # type: ignore[no-untyped-call]
        self._mode = ExactMode() if exact else None
        self._select = output
        self._generator = torch.Generator().manual_seed(0)
        self._all = [twin for _, twin in pairs]
        if exact:
            _without_eps(self._model, frozen)
            with torch.no_grad():
                for twin in self._all:
                    _lift(twin)
                    self._leave_special_points(twin)
        self._inputs, self._kwargs = tuple(inputs), dict(kwargs)
        self._buffers = [
            (module, name, buffer.clone())
            for module in self._model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self.reference = self._checked_reference()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed in the forward pass, as sentences."""
        some = ", ".join(self._frozen[:4]) + (" and others" if len(self._frozen) > 4 else "")
        kept = f"frozen norms (in evaluation mode while the rest trains), whose statistics are constants: {some}"
        return (*([kept] if self._frozen else []), *(() if self._mode is None else self._mode.notes))

    @torch.no_grad()
    def move(self) -> None:
        """Go to another point: every parameter and every floating input is perturbed again.

        Sizes change too: near one point a piecewise linear network has symmetries that hold until a unit switches.
        """
        for twin in self._all:
            self._leave_special_points(twin)
            twin.mul_(float(torch.exp(0.4 * torch.randn((), generator=self._generator))))
        self._inputs, self._kwargs = self._perturbed(self._inputs), self._perturbed(self._kwargs)
        self.reference = self._checked_reference()

    def _perturbed(self, value: Any) -> Any:
        def disturb(tensor: Tensor) -> Tensor:
            if tensor.numel() < 2 or not (tensor.is_floating_point() or tensor.is_complex()):
                return tensor
            wide = widened(tensor)
            spread = wide.std()
            return wide + 0.1 * spread * self.noise(wide) if bool(torch.isfinite(spread)) else tensor

        return mapped(value, disturb)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape and device of ``like``, complex for complex ones, from one generator."""
        dtype = torch.complex128 if like.is_complex() else torch.float64
        return torch.randn(like.shape, generator=self._generator, dtype=dtype).to(like.device)

    def _leave_special_points(self, parameter: Tensor) -> None:
        if parameter.numel() == 0:
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
                self._mode or nullcontext(),
            ):
                output = self._model(*args, **kwargs)
            if self._select is not None:
                output = self._select(output)
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

    @torch.no_grad()
    def change_by(self, factors: Mapping[int, float]) -> float:
        """Relative change of the output when the parameters of these indices are multiplied by these factors."""
        before = {i: self.parameters[i].detach().clone() for i in factors}
        for i, factor in factors.items():
            self.parameters[i].mul_(factor)
        try:
            return relative_change(self.reference, self.outputs())
        finally:
            for i, tensor in before.items():
                self.parameters[i].copy_(tensor)

    @torch.no_grad()
    def change_when_replaced(self, index: int) -> float:
        """Relative change of the output when this parameter is replaced by noise of the same size."""
        parameter = self.parameters[index]
        original = parameter.clone()
        parameter.copy_(self.noise(parameter) * original.norm() / max(1, original.numel()) ** 0.5)
        try:
            return relative_change(self.reference, self.outputs())
        finally:
            parameter.copy_(original)


def relative_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Largest ``‖after - before‖ / ‖before‖`` of the pairs; infinite where shapes or zeros do not match."""
    if [t.shape for t in before] != [t.shape for t in after]:
        return float("inf")
    worst = 0.0
    for b, a in zip(before, after, strict=True):
        difference, size = float((a - b).norm()), float(b.norm())
        if difference != 0:
            worst = max(worst, difference / size if size > 0 and difference == difference else float("inf"))
    return worst


def _as_trained(copy: nn.Module, model: nn.Module) -> dict[str, nn.Module]:
    """Put a copy into the mode that is trained, and return its frozen norms by name.

    Flags stay as they are where any module is in training mode; a model wholly in evaluation mode is switched.
    """
    frozen = frozen_norms(model)
    if not any(module.training for module in model.modules()):
        try:
            copy.train()
        except Exception:  # exported programs refuse; another ``train`` may need what a copy does not have
            for module in copy.modules():
                module.training = True
    modules = dict(copy.named_modules())
    return {name: modules[name] for name in frozen}


def _make_repeatable(model: nn.Module, frozen: Mapping[str, nn.Module]) -> None:
    """No dropout and no running statistics, but for frozen norms; every parameter in double precision."""
    kept = set(frozen.values())
    for module in model.modules():
        if _draws(module):
            module.training = False
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # it takes a row out of the gradient, not out of the function
        for holder in (module, getattr(module, "config", None)):
            for name in _LAYER_DROPS:
                if isinstance(getattr(holder, name, None), float):
                    setattr(holder, name, 0.0)
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
        if isinstance(module, _NormBase):
            module.training = module not in kept
        if isinstance(module, _NormBase) and module not in kept:
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    for parameter in model.parameters():
        parameter.data = widened(parameter.data)  # parameters of classes of their own are not converted on the way


def _draws(module: nn.Module) -> bool:
    """Whether a layer does nothing but draw: dropout, and the like of other packages (``DropPath``)."""
    if isinstance(module, _RANDOM_LAYERS):
        return True
    name = type(module).__name__.lower()
    empty = not any(True for _ in itertools.chain(module.parameters(), module.buffers(), module.children()))
    return empty and any(word in name for word in ("drop", "stochasticdepth"))


def _lift(parameter: Tensor) -> None:
    """Bring very small tensors (a layer scale of 1e-6) to an ordinary size: what they multiply would drown in rounding.

    A scaling symmetry holds at every size.
    """
    if parameter.numel() == 0 or (parameter.numel() == 1 and not parameter.requires_grad):
        return
    fan_in = parameter.numel() // parameter.shape[0] if parameter.dim() else 1
    size, ordinary = float(parameter.norm()) / parameter.numel() ** 0.5, 0.5 / fan_in**0.5
    if 0 < size < _SMALL * ordinary:
        parameter.mul_(ordinary / size)


def _without_eps(model: nn.Module, frozen: Mapping[str, nn.Module]) -> None:
    kept = set(frozen.values())
    for module in model.modules():
        if module in kept:
            continue
        for name in _EPS_ATTRIBUTES:
            value = getattr(module, name, None)
            if isinstance(value, float) or (value is None and name == "eps" and is_norm(module)):
                setattr(module, name, EPS)


def _as_double(tensor: Tensor) -> Tensor:
    return widened(tensor.detach().clone())


def _floating_tensors(value: Any) -> Iterator[Tensor]:
    for tensor in tensors_in(value):
        if tensor.is_floating_point():
            yield tensor
        elif tensor.is_complex():
            yield torch.view_as_real(tensor)
