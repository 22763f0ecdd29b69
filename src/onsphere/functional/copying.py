"""How a model is copied: by deepcopy, with what deepcopy does not take seen to.

Models hold more than tensors of their own. What the last forward pass left there (a loss kept for later, the weight
that an old weight norm computed) hangs on a graph, which deepcopy refuses; a copy gets a stand-in for it, which the
next forward pass replaces as it does the original, and which says so if it is read instead.

:func:`duplicate` stops there: the copy is to be used as the model is. :func:`copied` makes one to measure by itself:
wrappers are left out (:mod:`onsphere.functional.wrappers`), hooks dropped, synchronised norms and grouped kernels
replaced by plain ones.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from onsphere.functional.wrappers import Transparent, inside
from onsphere.sharding import is_spread

__all__ = ["LeftoverError", "copied", "drop_hooks", "duplicate", "refuse"]

M = TypeVar("M", bound=nn.Module)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def copied(
    model: nn.Module,
    shared: Mapping[int, Tensor] | None = None,
    *,
    change: Callable[[Tensor], Tensor] | None = None,
) -> nn.Module:
    """A copy of a model that runs by itself, under the same names of parameters and buffers.

    Args:
        model: Any module; it stays as it is.
        shared: Tensors that the copy is to share, by id.
        change: What to do to every other tensor the copy holds (a conversion); it gets a detached copy.

    Raises:
        ValueError: The model holds no numbers (meta device), is sharded, compiled to TorchScript, or cannot be copied.
    """
    _refuse_sharded(model)
    refuse(model)
    convert = change or (lambda tensor: tensor)
    memo: dict[int, Any] = dict(shared or {})
    for p in model.parameters():
        # Parameters are leaves without their .grad, which deepcopy would copy as well.
        if id(p) not in memo and type(p) is nn.Parameter:
            memo[id(p)] = nn.Parameter(convert(p.detach().clone()), requires_grad=p.requires_grad)
    for module in model.modules():
        for hooks in (getattr(module, name) for name in _HOOKS):
            memo |= {id(hook): hook for hook in hooks.values() if not _is_torchs(hook)}  # removed below
        group = getattr(module, "process_group", None)
        if group is not None:
            memo[id(group)] = None  # a copy talks to nobody
    with _copying(model, convert, "measurements run on a copy, so that nothing happens to yours"):
        for module in reversed(list(model.modules())):  # wrappers inside wrappers first
            name = inside(module)
            if name is not None:
                memo[id(module)] = Transparent(name, copy.deepcopy(getattr(module, name), memo))
        twin: nn.Module = memo[id(model)] if id(model) in memo else copy.deepcopy(model, memo)
    for module in twin.modules():
        drop_hooks(module)
        _make_plain(module)
    return twin


def duplicate(model: M) -> M:
    """A copy of a model to be used as the model is: with its hooks, its wrappers and whatever else it holds.

    Args:
        model: Any module, one compiled to TorchScript too; it stays as it is.

    Raises:
        ValueError: The model holds functions through which a copy would still run the original, is sharded, or cannot
            be copied.
    """
    _refuse_sharded(model)
    _refuse_closures(model)
    with _copying(model, None, "the model that was given stays as it is"):
        return copy.deepcopy(model)


def _refuse_sharded(model: nn.Module) -> None:
    if any(map(is_spread, model.parameters())):
        raise ValueError(
            "the model is sharded (its parameters are DTensors), and a process has no whole copy of it to measure: "
            "give an unsharded model with its weights (get_model_state_dict with full_state_dict=True), or search a "
            "twin and map the groups by name (onsphere.Symmetries.groups_for)"
        )


@contextmanager
def _copying(model: nn.Module, convert: Callable[[Tensor], Tensor] | None, why: str) -> Iterator[None]:
    """Within it deepcopy copies what it is given of ``model``, or fails with a sentence for users."""
    try:
        # Without gradients: copies of scripted parameters are no leaves otherwise.
        with _Copying(convert, _names_of_held(model)), torch.no_grad():
            yield
    except Exception as error:  # whatever a user's module does when it is copied
        raise ValueError(
            f"the model cannot be copied ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            f"{why}. Make copy.deepcopy(model) work: take out what cannot be copied (open files, locks)"
        ) from error


def drop_hooks(module: nn.Module) -> None:
    """Remove hooks, which may record or change things elsewhere, but those torch computes weights with."""
    for name in _HOOKS:
        hooks = getattr(module, name)
        for key, hook in list(hooks.items()):
            if not _is_torchs(hook):
                del hooks[key]


def _is_torchs(hook: Any) -> bool:
    return type(hook).__module__.startswith("torch.nn.utils")


def refuse(model: nn.Module) -> None:
    """Refuse models that no copy can stand for (ValueError)."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    empty = [name for name, t in tensors if t.is_meta]
    if empty:
        raise ValueError(
            f"the model holds no numbers: on the meta device lie {', '.join(empty[:3])}. "
            "Load or initialise the weights first (model.to_empty(device='cpu'), then the initialisation)"
        )
    scripted = [name for name, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        raise ValueError(
            f"{scripted[0] or 'the model'} is compiled to TorchScript (scripted or traced), where a copy can be given "
            "no other weights, and its eps, dropout and running statistics are out of reach: give the module it was "
            "made from"
        )
    _refuse_closures(model)


def _refuse_closures(model: nn.Module) -> None:
    """Refuse functions that a copy would share and that hold parts of the original (ValueError)."""
    originals = {id(x) for x in (*model.modules(), *model.parameters())}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key == "_compiled_call_impl":  # is not copied
                continue
            if inspect.isfunction(value) and not inside(module) and originals & set(map(id, _closed_over(value))):
                raise ValueError(
                    f"{key!r} of {name or type(module).__name__} is a function that holds modules or parameters of the "
                    "model, so that a copy would still run the original: make it a method, or a module of its own"
                )


def _closed_over(function: Any) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not yet filled
            continue
        yield getattr(content, "__self__", content)  # a bound method holds its module as well


def _make_plain(module: nn.Module) -> None:
    """Exact ways that always work in place of fast ones that do not."""
    if isinstance(module, nn.SyncBatchNorm):
        module.__class__ = _LocalBatchNorm  # type: ignore[assignment]
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        module.sparse = False  # of the gradient
    # Hugging Face: grouped matrix products of experts take no float64 and have no second derivatives.
    config = getattr(module, "config", None)
    if getattr(config, "_experts_implementation", None) is not None:
        config._experts_implementation = "eager"  # type: ignore[union-attr]


class _LocalBatchNorm(_BatchNorm):
    """A synchronised batch norm in a process by itself, on any device."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


class _Copying(TorchFunctionMode):
    """Within it deepcopy takes tensors that hang on a graph, and converts the others.

    Args:
        convert: What is done to the other tensors; None copies them as deepcopy does.
        names: Where the tensors lie that hang on a graph, by id, as far as that is known.
    """

    def __init__(self, convert: Callable[[Tensor], Tensor] | None, names: Mapping[int, str]) -> None:
        super().__init__()
        self.convert, self.names = convert, names

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Take over deepcopy alone."""
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if self.convert is None and tensor.is_leaf:
            return func(tensor, memo)
        if id(tensor) not in memo:
            if self.convert is not None and tensor.is_leaf:
                twin = tensor.detach().clone() if type(tensor) is Tensor else func(tensor, memo)
                new = self.convert(twin.detach())
                memo[id(tensor)] = new.requires_grad_(tensor.requires_grad)
            else:
                memo[id(tensor)] = _Left.instead_of(tensor, self.names.get(id(tensor), "a module of the model"))
        return memo[id(tensor)]


class LeftoverError(ValueError):
    """A forward pass reads a tensor that hangs on the graph of an earlier one."""


class _Left(Tensor):
    """Stands for a tensor that an earlier forward pass left in a module; reading it is an error that says so."""

    _where: str
    _shape: tuple[int, ...]

    @classmethod
    def instead_of(cls, tensor: Tensor, where: str) -> _Left:
        """A stand-in for ``tensor``, which ``where`` holds."""
        stand_in: _Left = torch.empty(0).as_subclass(cls)
        stand_in._where, stand_in._shape = where, tuple(tensor.shape)
        return stand_in

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse every operation, and say where the tensor lies."""
        held = next((x for x in (*args, *(kwargs or {}).values()) if isinstance(x, _Left)), None)
        where = vars(held).get("_where", "a module") if held is not None else "a module"
        raise LeftoverError(
            f"{where} holds a tensor of the graph of an earlier forward pass, and the forward pass reads it before it "
            "makes a new one: a copy at other weights cannot know what it would be. Detach it or reset it after each "
            "step, or compute it anew in forward"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> _Left:
        return self

    def __repr__(self) -> str:  # type: ignore[override]
        return "a tensor of an earlier forward pass"


def _names_of_held(model: nn.Module) -> dict[int, str]:
    """Where tensors lie that are plain attributes, or in lists and dictionaries that are."""
    names: dict[int, str] = {}
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            if key.startswith("_") and key in vars(nn.Module()):
                continue
            items = (
                value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
            )
            names |= {id(t): f"{prefix}.{key}".lstrip(".") for t in items if isinstance(t, Tensor)}
    return names
