"""A copy of a model in which scaling symmetries are exact, so that a forward pass can show or refute them.

In a model as it trains a symmetry is blurred or feigned: the norms' eps breaks ``f(2 w) = f(w)`` by 1e-5 to
1e-2, float32 adds noise, dropout adds more, and a zero or constant tensor looks invariant where it is not
(2 * 0 = 0). The copy is in float64 and training mode, without dropout and running statistics, with eps
1e-200 (which passes torch's checks and rounds away; :mod:`onsphere.symmetry.exact_mode` sees to those that are
written out in the forward pass), and with every parameter moved off such special points by a generator of its
own. Every forward pass starts from the same random state, so that what is drawn inside is part of the function.
Scaling by a power of two is exact in floating point, so that an invariant output then comes back bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from onsphere.functional.untouched import drop_hooks, eager, mapped
from onsphere.normalisation import is_norm
from onsphere.symmetry.comparisons import Comparisons, relative_change
from onsphere.symmetry.exact_mode import EPS, ExactMode
from onsphere.symmetry.taps import Taps
from onsphere.symmetry.variation import HUGE, apart, constant_floats, drawn_tokens, repeated_tokens, varies

__all__ = ["Probe", "SymmetryError", "relative_change"]

_EPS_ATTRIBUTES = ("eps", "epsilon", "variance_epsilon")
_RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, nn.RReLU)
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
        output: picks from the model's output what to look at; None takes every floating-point tensor in it.
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
        named = dict(model.named_parameters())
        if any(isinstance(p, nn.UninitializedParameter) for p in named.values()):
            raise SymmetryError("the model has lazy parameters without a shape: run one forward pass first")
        bad = [name for name, p in named.items() if not bool(torch.isfinite(p.detach()).all())]
        if bad:
            raise SymmetryError(f"parameters hold values that are not finite: {', '.join(bad[:5])}")
        # A compiled model would compile again for float64; what it wraps is the same function.
        inner = getattr(model, "_orig_mod", model)
        try:
            self._model = copy.deepcopy(inner).double()
        except Exception as error:
            raise SymmetryError(
                f"the model cannot be copied to test it ({type(error).__name__}: {error}); models with the "
                "old torch.nn.utils.weight_norm can be tested before their first forward pass"
            ) from error
        # Names come from the original, tensors from the copy: both list every tensor once and in the same
        # order.
        pairs = list(zip(named.items(), self._model.parameters(), strict=True))
        self.names = [name for (name, p), _ in pairs if p.requires_grad]
        self.parameters = [twin for (_, p), twin in pairs if p.requires_grad]
        if not self.names:
            raise SymmetryError("the model has no trainable parameter: every requires_grad is False")
        _make_repeatable(self._model)
        self._mode = ExactMode() if exact else None
        self._wide = self._mode or ExactMode(keep_eps=True)
        self._select = output
        self._untappable = False
        self._generator = torch.Generator().manual_seed(0)
        self._all = [twin for _, twin in pairs]
        if exact:
            _without_eps(self._model)
            with torch.no_grad():
                for twin in self._all:
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
        return tuple(self._notes)

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
            if tensor.numel() < 2 or not tensor.is_floating_point():
                return tensor
            wide = tensor.double()
            return wide + 0.1 * wide.std() * self.noise(tensor) if bool((wide.abs() < HUGE).all()) else tensor

        return mapped(value, disturb)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape and device of ``like``, from the probe's own generator."""
        return torch.randn(like.shape, generator=self._generator, dtype=torch.float64).to(like.device)

    def _leave_special_points(self, parameter: Tensor) -> None:
        if parameter.numel() == 0 or self._is_constant(parameter):
            return
        noise, first = self.noise(parameter), parameter.reshape(-1)[0]
        if bool((parameter == first).all()):
            if first == 0:
                fan_in = parameter.numel() // parameter.shape[0] if parameter.dim() else 1
                parameter.copy_(0.5 * noise / fan_in**0.5)
            else:
                parameter.mul_(1 + 0.2 * noise.clamp(-2, 2))
        else:
            parameter.add_(0.05 * parameter.std() * noise)

    def _is_constant(self, parameter: Tensor) -> bool:
        """A frozen number may be an eps, and is no weight."""
        return parameter.numel() == 1 and not parameter.requires_grad and bool(parameter.detach() != 0)

    def outputs(self) -> list[Tensor]:
        """Every floating-point tensor of the copy's output, nested ones included, for the given inputs."""
        for module, name, buffer in self._buffers:
            module._buffers[name] = buffer.clone()
        args, kwargs = mapped(self._inputs, _as_float64), mapped(self._kwargs, _as_float64)
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            with torch.autocast(self.parameters[0].device.type, enabled=False), eager(), self._wide:
                output = self._model(*args, **kwargs)
            if self._select is not None:
                output = self._select(output)
        except Exception as error:
            raise SymmetryError(
                f"the forward pass failed on a float64 copy of the model in training mode "
                f"({type(error).__name__}: {error}). Give the arguments of one ordinary call: "
                "a batch of more than one example"
            ) from error
        tensors = [t.double() if t.is_floating_point() else t for t in _floating_tensors(output)]
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


def _make_repeatable(model: nn.Module) -> None:
    """Training mode, no dropout, no running statistics, no hooks of the user's, all in float64."""
    for module in model.modules():
        drop_hooks(module)
        module.training = not isinstance(module, _RANDOM_LAYERS)
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
        if isinstance(module, _NormBase):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(module, name, value.double())


def _without_eps(model: nn.Module) -> None:
    for module in model.modules():
        for name in _EPS_ATTRIBUTES:
            value = getattr(module, name, None)
            if isinstance(value, float) or (value is None and name == "eps" and is_norm(module)):
                setattr(module, name, EPS)


def _as_float64(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().clone()
    return tensor.double() if tensor.is_floating_point() else tensor


def _nudged(tensor: Tensor) -> Tensor:
    return tensor * (1 + 2**-10) if tensor.is_floating_point() else tensor


def _floating_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
        elif value.is_complex():
            yield torch.view_as_real(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _floating_tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _floating_tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _floating_tensors(getattr(value, field.name))
