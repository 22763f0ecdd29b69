"""Which modules normalise, told by what they compute and not by what they are called.

A norm layer sends x to ``n(x) * gain + bias``, where with gain and bias taken off and eps made negligible

    n(c x) = n(x)  for c > 0,        n(n(x)) = n(x),        dn/dx is not zero,

so it removes a scale, removes it once and for all, and is no threshold. Every layer, batch, group, instance, RMS or L2
norm obeys this, under whatever name and however its gain is written (``w``, ``1 + w``, one number); a softmax, an
activation, a norm with running statistics or a block that merely begins with a norm does not. The test runs a float64
copy of the module on a few numbers of its own.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onsphere.functional.copying import copied
from onsphere.functional.nests import widened
from onsphere.functional.untouched import untouched_random_state
from onsphere.normalisation import is_norm
from onsphere.symmetry.exact_mode import EPS, ExactMode

__all__ = ["NormForm", "hidden_eps", "norm_form", "norm_forms", "set_eps"]

# Numbers agree to this relative size in float64; a custom kernel may sum in another order.
_SAME = 1e-9
# Larger attributes than this are no eps.
_LARGEST_EPS = 1e-2
_WIDTHS = ("normalized_shape", "num_features", "num_channels", "hidden_size", "dim", "size", "features")


@dataclass(frozen=True)
class NormForm:
    """How a norm layer is parametrised.

    Attributes:
        gain: Name of the parameter that multiplies the normalised input, or None.
        bias: Name of the parameter that is added, or None.
        neutral: The value of the gain that multiplies by one: 1, or 0 where the layer multiplies by ``1 + w``.
        eps: Names of the attributes or buffers that hold its eps; empty where it is written into the forward pass.
    """

    gain: str | None
    bias: str | None
    neutral: float
    eps: tuple[str, ...]


def norm_forms(model: nn.Module) -> dict[str, NormForm]:
    """Every norm layer of ``model`` by name, in registration order; a shared one once, by its first name.

    Args:
        model: Any module; it is not run, copies of its parts are.

    Returns:
        The layers that normalise, with their parametrisation.
    """
    with untouched_random_state(model), torch.inference_mode(False):
        found = {name: norm_form(module) for name, module in model.named_modules()}
    return {name: form for name, form in found.items() if form is not None}


def norm_form(module: nn.Module) -> NormForm | None:
    """How ``module`` is parametrised if it is a norm layer, or None if it is none.

    Args:
        module: Any module. torch's norm layers and their subclasses count by class; others are recognised if they have
            no parts with parameters, at most a gain and a bias, and take one tensor.

    Returns:
        The form, or None.
    """
    if is_norm(module):
        own = {name for name, p in module.named_parameters(recurse=False) if p is not None}
        parametrised = {n for n in ("weight", "bias") if parametrize.is_parametrized(module, n)}
        gain, bias = (name if name in own | parametrised else None for name in ("weight", "bias"))
        return NormForm(gain, bias, 1.0, _eps_names(module) or ("eps",))
    own_parameters = dict(module.named_parameters(recurse=False))
    if not _may_normalise(module, own_parameters):
        return None
    try:
        twin = copied(module, change=widened).train().requires_grad_(False)
    except Exception:  # whatever a user's module does when it is copied
        return None
    for name in _eps_names(twin):
        _set_number(twin, name, EPS)
    for x in _inputs(module, own_parameters):
        form = _form_for(twin, list(own_parameters), x)
        if form is not None:
            return NormForm(form[0], form[1], form[2], _eps_names(module))
    return None


def set_eps(module: nn.Module, form: NormForm, eps: float) -> None:
    """Give a norm layer another eps where it keeps one."""
    for name in form.eps:
        _set_number(module, name, eps)


def hidden_eps(module: nn.Module, form: NormForm) -> float:
    """The eps a norm layer works with, read off its output for a small input; 0 if there is nothing to see.

    For input of variance v the output is smaller than for a large one by sqrt(v / (v + eps)).

    Args:
        module: A norm layer; a copy of it is run.
        form: How the layer is parametrised, from :func:`norm_form`.

    Returns:
        About the eps; values below 1e-11 are rounding where a layer casts to float32.
    """
    own = dict(module.named_parameters(recurse=False))
    with torch.no_grad(), untouched_random_state(module), torch.inference_mode(False):
        try:
            twin = copied(module, change=widened).train().requires_grad_(False)
            for name, value in ((form.gain, form.neutral), (form.bias, 0.0)):
                if name is not None:
                    getattr(twin, name).fill_(value)
        except Exception:  # whatever a user's module does when it is copied
            return 0.0
        for x in _inputs(module, own):
            small, large = _call(twin, 1e-3 * x), _call(twin, 1e3 * x)
            if small is not None and large is not None and small.shape == x.shape:
                ratio = float(small.norm() / large.norm())
                return max(0.0, 1e-6 * (1 / ratio**2 - 1)) if ratio > 0 else float("inf")
    return 0.0


def _may_normalise(module: nn.Module, own: Mapping[str, nn.Parameter]) -> bool:
    parts = any(True for child in module.children() for _ in child.parameters())
    vectors = all(max(p.shape, default=1) == p.numel() for p in own.values())
    return not (
        parts
        or len(own) > 2
        or not vectors
        or parametrize.is_parametrized(module)
        or isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict | nn.Identity)
        or any(isinstance(p, nn.UninitializedParameter) or p.is_complex() or p.is_meta for p in own.values())
        or type(module).__module__.startswith("torch.nn.modules")
    )


def _inputs(module: nn.Module, own: Mapping[str, nn.Parameter]) -> Iterator[Tensor]:
    """Small inputs of the shapes that a layer of this width may take."""
    widths = [p.numel() for p in own.values() if p.numel() > 1]
    if is_norm(module) or not widths:
        for name in _WIDTHS:
            value = getattr(module, name, None)
            value = value[-1] if isinstance(value, tuple | list) and value else value
            if isinstance(value, int) and not isinstance(value, bool) and value > 1:
                widths.append(value)
    generator = torch.Generator().manual_seed(0)
    for d in dict.fromkeys([*widths, *([] if widths else [8])]):
        for shape in ((4, d), (2, 5, d), (2, d, 5), (2, d, 3, 3), (2, 3, 3, d), (2, d, 2, 3, 2)):
            yield torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3


def _form_for(module: nn.Module, names: list[str], x: Tensor) -> tuple[str | None, str | None, float] | None:
    """Gain, bias and neutral value, if the module is a norm for inputs like ``x``."""
    if _call(module, x) is None:
        return None
    other = x.roll(1, 0) * 0.7 + x.flip(-1)

    def at(values: tuple[float, ...], point: Tensor) -> Tensor | None:
        with torch.no_grad():
            for name, value in zip(names, values, strict=True):
                getattr(module, name).fill_(value)
        return _exactly(module, point)

    grid = {v: (at(v, x), at(v, other)) for v in itertools.product((0.0, 1.0, 2.0), repeat=len(names))}
    if any(
        y is None or y.shape != x.shape or not bool(torch.isfinite(y).all()) for pair in grid.values() for y in pair
    ):
        return None
    values = {v: (a, b) for v, (a, b) in grid.items() if a is not None and b is not None}
    zero = (0.0,) * len(names)
    gain = bias = None
    slopes: dict[str, Tensor] = {}
    for i, name in enumerate(names):
        one, two = (tuple(k if j == i else 0.0 for j in range(len(names))) for k in (1.0, 2.0))
        slope, elsewhere = (values[one][k] - values[zero][k] for k in (0, 1))
        if not _same(values[two][0] - values[zero][0], 2 * slope):
            return None  # not linear in this parameter
        slopes[name] = slope
        if _same(slope, elsewhere) and bias is None:
            bias = name
        elif gain is None:
            gain = name
        else:
            return None
    base, neutral = values[zero][0], 1.0
    if gain is not None and not _same(base, torch.zeros_like(base)):
        if not _same(base, slopes[gain]):
            return None  # neither w * n(x) nor (1 + w) * n(x)
        neutral = 0.0
    at(tuple(neutral if name == gain else 0.0 for name in names), x)
    return (gain, bias, neutral) if _is_normalisation(module, x, other) else None


def _is_normalisation(module: nn.Module, x: Tensor, other: Tensor) -> bool:
    """The three properties of the module's text, for a module with neutral gain and no bias."""
    n = _exactly(module, x)
    if n is None:
        return False
    images = [_exactly(module, point) for point in (8 * x, x / 8, n, other)]
    if any(y is None or y.shape != n.shape for y in images):
        return False
    large, small, again, elsewhere = (y for y in images if y is not None)
    if not (_same(large, n) and _same(small, n) and _same(again, n)) or _same(elsewhere, n):
        return False
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        y = _exactly(module, leaf)
        if y is None or not y.requires_grad:
            return False
        (slope,) = torch.autograd.grad((y * other.sin()).sum(), leaf, allow_unused=True)
    return slope is not None and float(slope.norm() * x.norm()) > 1e-6 * float(y.detach().norm())


def _exactly(module: nn.Module, x: Tensor) -> Tensor | None:
    with ExactMode():
        return _call(module, x)


def _call(module: nn.Module, x: Tensor) -> Tensor | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            y = module(x.clone() if not x.requires_grad else x)
        except Exception:  # another shape, more arguments: whatever a user's forward raises
            return None
    return y.double() if isinstance(y, Tensor) and y.is_floating_point() else None


def _same(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= _SAME * max(1e-3, float(a.abs().max()), float(b.abs().max()))


def _eps_names(module: nn.Module) -> tuple[str, ...]:
    """Attributes and buffers with "eps" in their name that hold a small positive number (or None: torch's default)."""
    held = {**{n: b for n, b in module._buffers.items() if b is not None}, **vars(module)}
    return tuple(
        name
        for name, value in held.items()
        if "eps" in name.lower()
        and (
            (isinstance(value, float) and 0 < value <= _LARGEST_EPS)
            or (value is None and is_norm(module))
            or (isinstance(value, Tensor) and value.numel() == 1 and 0 < float(value) <= _LARGEST_EPS)
        )
    )


def _set_number(module: nn.Module, name: str, value: float) -> None:
    held = getattr(module, name)
    if isinstance(held, Tensor):
        with torch.no_grad():
            held.fill_(value)
    else:
        setattr(module, name, value)
