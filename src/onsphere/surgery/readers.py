"""What reads what in one forward pass of a model that has no graph.

While a copy of the model runs on one batch, every tensor that leaves a linear layer or a norm carries the layer's
name, and keeps it through operations that only move, drop or pool numbers; a norm's name passes activations too.
Whatever else takes such a tensor is a reader of that layer: a norm, a product with a parameter, the model's output, or
something else (an addition to a residual stream, an attention product).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from onsphere.functional.nests import tensors_outside_objects
from onsphere.functional.untouched import private_copy, untouched_random_state
from onsphere.surgery.recognise import NormForm

__all__ = ["ACTIVATIONS", "LINEAR_CALLS", "LINEAR_LAYERS", "NORM_CALLS", "TRANSPARENT_CALLS", "Reading"]

LINEAR_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_SAME_NUMBERS = (
    "chunk clone contiguous double expand flatten float getitem moveaxis movedim permute rearrange reshape "
    "split squeeze swapaxes swapdims t to transpose unflatten unsqueeze view view_as"
)
_DROPOUT_AND_POOLING = [
    "dropout",
    *(
        f"{name}{d}d"
        for d in (1, 2, 3)
        for name in ("dropout", "max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
    ),
]
#: Calls after which a bias is still a shift of every channel.
TRANSPARENT_CALLS = frozenset([*_SAME_NUMBERS.split(), *_DROPOUT_AND_POOLING])
#: Functions of one number each, and averages and lists over positions: a linear layer after them can still take over
#: most of a gain.
ACTIVATIONS = frozenset(
    (
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "rrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "tanh",
        "sigmoid",
        "softplus",
        "hardtanh",
        "hardswish",
        "mean",
        "cat",
        "stack",
    )
)
#: Functional norms.
NORM_CALLS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize"})
#: Products; of a tensor with a parameter they are linear layers.
LINEAR_CALLS = frozenset(
    (
        "linear",
        "bilinear",
        "addmm",
        "matmul",
        "mm",
        "bmm",
        "baddbmm",
        "einsum",
        "multi_head_attention_forward",
        *tuple(f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3)),
    )
)
_PRODUCT = "(a product with a parameter in the forward pass)"


@dataclass(frozen=True)
class _Origin:
    """Where a tensor comes from.

    Attributes:
        layers: linear layers and norms whose output it is, through transparent operations.
        norms: norms whose output it is, through transparent operations and activations.
        last: linear layers that it depends on with no linear layer or norm after them.
    """

    layers: frozenset[str] = frozenset()
    norms: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()


_NOWHERE = _Origin()


class Reading:
    """Runs a copy of a model once and says what read what.

    Args:
        model: any module; a copy of it runs, in evaluation mode.
        norms: its norm layers by name.
        args: positional arguments of one call.
        kwargs: keyword arguments of the same call.

    Attributes:
        before_norm: names of the linear layers whose output nothing but norms reads.
        heads: names of the linear layers that make the output.
        readers: for every norm that ran: "linear", "norm", "output" or "other".

    Raises:
        ValueError: the forward pass fails, or a product with a parameter that is no layer makes the output.
    """

    def __init__(
        self, model: nn.Module, norms: Mapping[str, NormForm], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        copied = private_copy(model)
        watch = _Watch()
        for name, module in copied.named_modules():
            if isinstance(module, LINEAR_LAYERS) or name in norms:
                module.register_forward_pre_hook(watch.enter(norm=name in norms), with_kwargs=True)
                module.register_forward_hook(watch.leave(name, norm=name in norms))
        try:
            with untouched_random_state(model), torch.no_grad(), watch:
                output = copied(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"the forward pass failed on the batch given ({type(error).__name__}: {error}); give the arguments of "
                "one ordinary call: a tensor, a tuple of positional or a dictionary of keyword arguments"
            ) from error
        made: set[str] = set()
        for tensor in tensors_outside_objects(output):
            origin = watch.origin(tensor)
            made |= origin.last
            for name in origin.layers | origin.norms:
                watch.read[name].add("output")
        if _PRODUCT in made:
            raise ValueError(
                "the output is made by a product with a parameter in the forward pass, not by a linear layer of its "
                "own: pass head=False to leave it as it is"
            )
        self.heads = [name for name, _ in copied.named_modules() if name in made]
        self.before_norm = {n for n, kinds in watch.read.items() if n not in norms and kinds == {"norm"}}
        self.readers = {n: frozenset(kinds) for n, kinds in watch.read.items() if n in norms and kinds}


class _Watch(TorchFunctionMode):
    """Follows tensors through torch functions between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[str, set[str]] = {}
        self._origins: dict[int, tuple[Tensor, _Origin]] = {}  # the tensor too: an id is only good while it lives
        self._inside = 0

    def origin(self, tensor: Tensor) -> _Origin:
        """Where a tensor comes from."""
        return self._origins.get(id(tensor), (tensor, _NOWHERE))[1]

    def enter(self, *, norm: bool) -> Callable[..., None]:
        """A hook for the entrance of a layer."""

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._inside:
                for tensor in tensors_outside_objects((args, kwargs)):
                    self._note(self.origin(tensor), "norm" if norm else "linear")
            self._inside += 1

        return hook

    def leave(self, name: str, *, norm: bool) -> Callable[..., None]:
        """A hook for the exit of a layer."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._inside -= 1
            if not self._inside:
                self.read.setdefault(name, set())
                own = frozenset([name])
                for tensor in tensors_outside_objects(output):
                    self._put(tensor, _Origin(own, own if norm else frozenset(), frozenset() if norm else own))

        return hook

    def _put(self, tensor: Tensor, origin: _Origin) -> None:
        self._origins[id(tensor)] = (tensor, origin)

    def _note(self, origin: _Origin, kind: str) -> None:
        for name in origin.layers | origin.norms:
            self.read[name].add(kind)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch function and say where its result comes from."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._inside:
            return result
        given = list(tensors_outside_objects((args, kwargs)))
        origins = [self.origin(t) for t in given]
        made = list(tensors_outside_objects(result))
        if not made or all(origin == _NOWHERE for origin in origins):
            return result
        called = getattr(func, "__name__", "").strip("_")
        merged = _Origin(
            layers=frozenset(name for origin in origins for name in origin.layers),
            norms=frozenset(name for origin in origins for name in origin.norms),
            last=frozenset(name for origin in origins for name in origin.last),
        )
        if called in TRANSPARENT_CALLS or called == "get":  # "get": x.T and the like
            new = merged
        elif called in ACTIVATIONS:
            for origin in origins:
                for name in origin.layers - origin.norms:
                    self.read[name].add("other")
            new = _Origin(merged.norms, merged.norms, merged.last)
        elif called in NORM_CALLS:
            self._note(merged, "norm")
            new = _NOWHERE
        elif called in LINEAR_CALLS and any(
            isinstance(t, nn.Parameter) or isinstance(t._base, nn.Parameter) for t in given
        ):
            self._note(merged, "linear")
            new = _Origin(last=frozenset([_PRODUCT]))
        else:
            self._note(merged, "other")
            new = _Origin(last=merged.last)
        for tensor in made:
            self._put(tensor, new)
        return result
