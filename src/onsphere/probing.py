"""A copy of a model in which scaling symmetries are exact, so that a forward pass can show or refute them.

In a model as it trains a symmetry is blurred or feigned: the norms' eps breaks ``f(2 w) = f(w)`` by 1e-5 to
1e-2, float32 adds noise, dropout adds more, and a zero or constant tensor looks invariant where it is not
(2 * 0 = 0). The copy is in float64 and training mode, without dropout and running statistics, with eps
1e-200 (which passes torch's checks and rounds away), and with every parameter moved off such special points
by a generator of its own. Scaling by a power of two is exact in floating point, so that an invariant output
then comes back bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from onsphere.normalisation import is_norm

__all__ = ["Probe", "SymmetryError", "relative_change", "untouched_random_state"]

_EPS = 1e-200
_EPS_ATTRIBUTES = ("eps", "epsilon", "variance_epsilon")
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

    Attributes:
        names: trainable parameters of the model, tied ones once, in registration order.
        parameters: the copy's tensors of these names.

    Raises:
        SymmetryError: nothing trainable, lazy or non-finite parameters, a model that cannot be copied, a
            forward pass that fails, is not deterministic, or gives no floating-point output, or zero or
            non-finite ones.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
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
        _make_exact(self._model)
        self._generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, twin in pairs:
                self._leave_special_points(twin)
        self._inputs, self._kwargs = tuple(inputs), dict(kwargs)
        self._buffers = [
            (module, name, buffer.clone())
            for module in self._model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self.reference = self._checked_reference()

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape and device of ``like``, from the probe's own generator."""
        return torch.randn(like.shape, generator=self._generator, dtype=torch.float64).to(like.device)

    def _leave_special_points(self, parameter: Tensor) -> None:
        if parameter.numel() == 0:
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

    def outputs(self) -> list[Tensor]:
        """Every floating-point tensor of the copy's output, nested ones included, for the given inputs."""
        for module, name, buffer in self._buffers:
            module._buffers[name] = buffer.clone()
        args, kwargs = _as_float64(self._inputs), _as_float64(self._kwargs)
        try:
            with torch.autocast(self.parameters[0].device.type, enabled=False):
                output = self._model(*args, **kwargs)
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
                f"the forward pass is not deterministic: two runs on one batch differ by {change:.1e}, "
                "dropout modules being off. Switch off what is random (functional dropout, sampling, "
                "stochastic depth) or what changes from call to call"
            )
        return first

    @torch.no_grad()
    def change(self, indices: Sequence[int], factor: float = 2.0) -> float:
        """Relative change of the output when these are multiplied by ``factor`` (a power of two)."""
        for i in indices:
            self.parameters[i].mul_(factor)
        try:
            return relative_change(self.reference, self.outputs())
        finally:
            for i in indices:
                self.parameters[i].div_(factor)

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


@contextmanager
def untouched_random_state(model: nn.Module) -> Iterator[None]:
    """Give back the random states of torch (the model's devices), numpy and Python as they were."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _make_exact(model: nn.Module) -> None:
    """Training mode, no dropout, no running statistics, no eps, no hooks of the user's, all in float64."""
    for module in model.modules():
        _drop_hooks(module)
        module.training = not isinstance(module, _RANDOM_LAYERS)
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
        if isinstance(module, _NormBase):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
        for name in _EPS_ATTRIBUTES:
            value = getattr(module, name, None)
            if isinstance(value, float) or (value is None and name == "eps" and is_norm(module)):
                setattr(module, name, _EPS)
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(module, name, value.double())


def _drop_hooks(module: nn.Module) -> None:
    """Remove hooks, which may record or change things elsewhere, but those torch computes weights with."""
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        hooks = getattr(module, name)
        for key, hook in list(hooks.items()):
            if not type(hook).__module__.startswith("torch.nn.utils"):
                del hooks[key]


def _as_float64(value: Any) -> Any:
    """A copy of a nest of tensors, the floating ones in float64; everything else as it is."""
    if isinstance(value, Tensor):
        value = value.detach().clone()
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_as_float64, value))
    if type(value) in (list, tuple):
        return type(value)(map(_as_float64, value))
    if isinstance(value, Mapping):
        converted = {key: _as_float64(item) for key, item in value.items()}
        return converted if type(value) is dict else _same_kind(value, converted)
    return value


def _same_kind(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """``items`` in a mapping of the given one's class, or as a plain dict if that takes something else."""
    try:
        return type(mapping)(items)  # type: ignore[call-arg]
    except TypeError:
        return items


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
