"""Reference networks, and building a network from a name, a factory or a path to one.

The scale-invariant ones (``mlp``, ``layer-norm-mlp``, ``convnet``, ``resnet18``) have norms without parameters, no
bias before them, and a frozen last layer ``head`` of a given Frobenius norm: what remains trainable is exactly the
scale-invariant weights. The ordinary ones (``plain-mlp``, and ``vgg16`` and ``wrn28`` of the memory-split papers) are
trained whole.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onsphere.lab.models.blocks import ModelError, check_common, positive_integer, probability
from onsphere.lab.models.convnet import convnet
from onsphere.lab.models.mlp import layer_norm_mlp, mlp, plain_mlp
from onsphere.lab.models.resnet import resnet18
from onsphere.lab.models.vgg import vgg16
from onsphere.lab.models.wide_resnet import wrn28

__all__ = ["MODELS", "SCALE_INVARIANT", "ModelError", "build", "convnet", "mlp", "plain_mlp", "resnet18", "resolve"]
__all__ += ["layer_norm_mlp", "vgg16", "wrn28"]

#: The reference networks by name.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "layer-norm-mlp": layer_norm_mlp,
    "plain-mlp": plain_mlp,
    "convnet": convnet,
    "resnet18": resnet18,
    "vgg16": vgg16,
    "wrn28": wrn28,
}

#: Those of them whose trainable parameters are all scale-invariant.
SCALE_INVARIANT = ("mlp", "layer-norm-mlp", "convnet", "resnet18")


def build(
    model: str | Callable[..., nn.Module],
    *,
    input_shape: Sequence[int],
    classes: int,
    width: int | None = None,
    widths: Sequence[int] | None = None,
    head_norm: float = 10.0,
    eps: float = 1e-12,
    dropout: float | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build and initialise a network; the same arguments give the same weights, and no random state changes.

    Args:
        model: A name in ``MODELS``; ``"package.module:factory"``, imported with the current folder on the path; or a
            callable. A factory is given those of the arguments below but ``seed`` that its signature names (all of
            them if it has ``**kwargs``), and returns an ``nn.Module``.
        input_shape: shape of one example.
        classes: number of outputs, one for each class.
        width: channels of the first layer, for networks that take ``width``; None for their default.
        widths: units of each hidden layer, for networks that take ``widths``; None for their default.
        head_norm: Frobenius norm of the frozen last layer.
        eps: eps of the batch norms.
        dropout: probability of dropping a unit, for networks that take ``dropout``; None for their default.
        seed: seeds torch's CPU generator while the factory runs.

    Returns:
        The network, in training mode and float32 whatever torch's default dtype is, on the CPU; a factory of yours may
        choose others.

    Raises:
        ModelError: unknown name, module or attribute; a factory that cannot be called with these arguments or does not
            return an ``nn.Module``; ``width``, ``widths`` or ``dropout`` for a network without it; values out of range.
    """
    name, factory = resolve(model)
    input_shape = tuple(input_shape)
    check_common(input_shape, classes, head_norm, eps)
    given: dict[str, Any] = {"input_shape": input_shape, "classes": classes, "head_norm": head_norm, "eps": eps}
    if width is not None:
        given["width"] = positive_integer("width", width)
    if widths is not None:
        if not widths:
            raise ModelError("widths must name at least one layer, such as (64, 64), not ()")
        given["widths"] = tuple(positive_integer("every entry of widths", w) for w in widths)
    if dropout is not None:
        given["dropout"] = probability("dropout", dropout)
    arguments = _accepted(name, factory, given)
    with torch.random.fork_rng(devices=[]), _float32_by_default():
        # Not torch.manual_seed: that would reseed every accelerator as well.
        torch.default_generator.manual_seed(seed)
        try:
            built = factory(**arguments)
        except SystemExit as error:
            raise ModelError(f"{name} ended with SystemExit({error.code}) in place of returning a network") from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"{name} must return an nn.Module, and returned a {type(built).__name__}")
    return built


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """Draws in float64 are other numbers than draws in float32, so the user's default must not decide."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def resolve(model: str | Callable[..., nn.Module]) -> tuple[str, Callable[..., nn.Module]]:
    """The factory that a model's name stands for, and what to call it in messages.

    Args:
        model: As :func:`build` takes it.

    Returns:
        The model's name and its factory.

    Raises:
        ModelError: unknown name, module or attribute, or nothing that can be called.
    """
    if not isinstance(model, str):
        if not callable(model) or isinstance(model, nn.Module):
            raise ModelError(
                "model must be a name, 'package.module:factory' or a function that returns an nn.Module, "
                f"not a {type(model).__name__}"
            )
        return getattr(model, "__name__", type(model).__name__), model
    if model in MODELS:
        return model, MODELS[model]
    module_name, colon, attribute = model.partition(":")
    if not (colon and module_name and attribute):
        raise ModelError(
            f"no model named {model!r}; there are {', '.join(MODELS)}, and 'package.module:factory' for your own"
        )
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise ModelError(f"model {model!r} names a part of Python itself, which makes no network: nothing was imported")
    try:
        with _current_folder_importable():
            found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module raises while it loads
        raise ModelError(
            f"cannot import {module_name!r} for model {model!r}: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{module_name!r} has no {attribute!r}, which model {model!r} names")
        found = getattr(found, part)
    if not _makes_networks(found):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ModelError(
            f"model {model!r} names {what}; it must name a function written in Python, or a class of modules, that "
            "returns a network; it was not called"
        )
    return model, found


def _makes_networks(found: Any) -> bool:
    """Whether something that a name led to may be called: written in Python, outside its own library; or a module."""
    if isinstance(found, functools.partial):
        return _makes_networks(found.func)
    if isinstance(found, type):
        return issubclass(found, nn.Module)
    if isinstance(found, nn.Module) or not callable(found):
        return False
    function = inspect.unwrap(found)
    function = getattr(function, "__func__", function)  # of a method
    if not inspect.isfunction(function):
        function = type(found).__call__  # of an object that can be called
    home = str(getattr(function, "__module__", "")).partition(".")[0]
    return inspect.isfunction(function) and home not in sys.stdlib_module_names


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        # Not pop(0): the module imported may have put folders of its own in front.
        sys.path.remove(here)


def _accepted(name: str, factory: Callable[..., nn.Module], given: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the factory's signature takes by keyword."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} has no readable signature; wrap it in a Python function") from error
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return given
    by_keyword = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for option, other in (("width", "widths"), ("widths", "width"), ("dropout", "")):
        if option in given and option not in by_keyword:
            hint = f"; it takes {other}" if other in by_keyword else ""
            raise ModelError(f"{name} does not take {option}{hint}")
    missing = [
        n
        for n, p in parameters.items()
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and not (n in by_keyword and n in given)
    ]
    if missing:
        raise ModelError(
            f"{name} requires {', '.join(missing)}, and this call gives it {', '.join(given)} by keyword: "
            "pass what is missing, or give it a default"
        )
    return {n: value for n, value in given.items() if n in by_keyword}
