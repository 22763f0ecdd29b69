"""Follow channels through the graph of a network: which axes of which tensors must be reordered together.

A value that flows along the graph carries a group of channels. Layers that write channels open a group, layers that
read them add their input axis to it, additions join groups. Group 0 must stay in order: the input, the output, and
everything that meets an operation not known to commute with a permutation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from onsphere.normalisation import BatchStatistics, is_norm

__all__ = ["FIXED", "ChannelReader", "Value"]

_POOLING = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)
_POINTWISE_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd)
_NOT_POINTWISE = {"MultiheadAttention", "Threshold", "GLU", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "PReLU"}
_POINTWISE = frozenset(
    (
        *("relu", "relu_", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "relu6", "hardtanh"),
        *("hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign", "logsigmoid", "abs", "exp", "sqrt"),
        *("rsqrt", "neg", "square", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
        *("feature_alpha_dropout", "clamp", "contiguous", "clone", "float", "double", "detach"),
    )
)
_ARITHMETIC = frozenset(
    ("add", "add_", "iadd", "sub", "sub_", "isub", "mul", "mul_", "imul", "div", "truediv", "itruediv")
)
_POOL_CALLS = frozenset(
    f"{kind}{d}d" for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool") for d in (1, 2, 3)
)


@dataclass
class Value:
    """What flows along the graph: a group of channels (None: nothing known), and where they are.

    ``maps``: dimension 1 of a feature map of ``rank`` dimensions; ``flat``: a flattened map; ``last``: the last one.
    """

    group: int | None = None
    layout: str = "none"
    rank: int = 0


FIXED = 0  # the group of everything that must stay in order


class ChannelReader:
    """Walks one graph and joins axes into groups."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.parent = [FIXED]
        self.size: dict[int, int] = {}
        self.axes: dict[tuple[str, int], tuple[int, int]] = {}  # (tensor, dim) -> (group, block)

    def root(self, group: int) -> int:
        """The group that ``group`` has become part of."""
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def join(self, a: int, b: int) -> int:
        """Make two groups one; groups of different sizes must stay in order. Returns the root."""
        a, b = sorted((self.root(a), self.root(b)))
        if a != b:
            same = self.size.get(a, self.size.get(b)) == self.size.get(b)
            self.parent[b] = a
            if a != FIXED and not same:
                self.parent[a] = FIXED
        return self.root(a)

    def new(self, size: int) -> int:
        """Open a group of ``size`` channels."""
        self.parent.append(len(self.parent))
        self.size[len(self.parent) - 1] = size
        return len(self.parent) - 1

    def fix(self, value: Any) -> None:
        """The channels of ``value`` must stay in order."""
        if isinstance(value, Value) and value.group is not None:
            self.join(value.group, FIXED)

    def mark(self, name: str, dim: int, group: int, block: int = 1) -> None:
        """Axis ``dim`` of tensor ``name`` is reordered with ``group``."""
        known = self.axes.setdefault((name, dim), (group, block))
        self.join(known[0], group)
        if known[1] != block:
            self.join(group, FIXED)

    # -- layers ----------------------------------------------------------------------------------------

    def module(self, name: str, inputs: Sequence[Any]) -> Value:
        """What a layer makes of its inputs."""
        layer = self.modules[name]
        x = inputs[0] if inputs and isinstance(inputs[0], Value) else Value()
        if isinstance(layer, nn.Linear) and len(inputs) == 1:
            return self._linear(name, layer, x)
        if isinstance(layer, _ConvNd) and len(inputs) == 1:
            return self._convolution(name, layer, x)
        if is_norm(layer) and len(inputs) == 1 and x.group is not None:
            return self._norm(name, layer, x)
        if isinstance(layer, nn.Flatten) and layer.start_dim == 1 and layer.end_dim == -1:
            return self._flatten(x)
        if isinstance(layer, _POOLING) and not getattr(layer, "return_indices", False):
            return self._pool(x)
        if isinstance(layer, nn.PReLU) and x.group is not None:
            if layer.num_parameters == 1:
                return x
            if x.layout == "maps":
                self.mark(f"{name}.weight", 0, x.group)
                return x
        if isinstance(layer, _POINTWISE_MODULES) or (
            type(layer).__module__ == "torch.nn.modules.activation" and type(layer).__name__ not in _NOT_POINTWISE
        ):
            return x
        for value in inputs:
            self.fix(value)
        return Value(FIXED)

    def _linear(self, name: str, layer: nn.Linear, x: Value) -> Value:
        self._read(f"{name}.weight", 1, x, layer.in_features, flat=True)
        return self._write(name, layer, 0, layer.out_features, "last", 0)

    def _convolution(self, name: str, layer: _ConvNd, x: Value) -> Value:
        transposed = isinstance(layer, _ConvTransposeNd)
        rank = layer.weight.dim()
        if layer.groups == 1:
            self._read(f"{name}.weight", 0 if transposed else 1, x, layer.in_channels, flat=False)
            return self._write(name, layer, 1 if transposed else 0, layer.out_channels, "maps", rank)
        if layer.groups == layer.in_channels == layer.out_channels and x.group is not None and x.layout == "maps":
            self.mark(f"{name}.weight", 0, x.group)
            if layer.bias is not None:
                self.mark(f"{name}.bias", 0, x.group)
            return x
        self.fix(x)
        return Value(FIXED)

    def _read(self, name: str, dim: int, x: Value, size: int, *, flat: bool) -> None:
        """A layer reads channels of ``x`` along ``dim`` of its weight."""
        if x.group is None or self.root(x.group) == FIXED:
            return
        channels = self.size[self.root(x.group)]
        layouts = ("flat", "last") if flat else ("maps",)
        if x.layout in layouts and (size == channels or (x.layout == "flat" and size % channels == 0)):
            self.mark(name, dim, x.group, size // channels)
        else:
            self.fix(x)

    def _write(self, name: str, layer: Any, dim: int, size: int, layout: str, rank: int) -> Value:
        known = self.axes.get((f"{name}.weight", dim))
        group = self.new(size) if known is None else known[0]
        self.mark(f"{name}.weight", dim, group)
        if layer.bias is not None:
            self.mark(f"{name}.bias", 0, group)
        return Value(group, layout, rank)

    def _norm(self, name: str, layer: nn.Module, x: Value) -> Value:
        assert x.group is not None
        if self.root(x.group) == FIXED:
            return x
        channels, shape = self.size[self.root(x.group)], getattr(layer, "normalized_shape", None)
        if shape is not None:  # layer norms and RMS norms
            if (x.layout == "last" and tuple(shape) == (channels,)) or (
                x.layout == "maps" and len(shape) == x.rank - 1 and shape[0] == channels
            ):
                per_channel = True
            elif x.layout == "maps" and len(shape) < x.rank - 1:
                per_channel = False  # normalises inside each channel
            else:
                self.fix(x)
                return x
        elif isinstance(layer, nn.GroupNorm):
            per_channel = layer.num_channels == channels and layer.num_groups in (1, channels)
            if not per_channel:
                self.fix(x)
                return x
        else:
            block, left = divmod(int(getattr(layer, "num_features", 0)), channels)
            allowed = isinstance(layer, _BatchNorm | BatchStatistics) or x.layout == "maps"
            if left or block < 1 or (block > 1 and x.layout != "flat") or not allowed:
                self.fix(x)
                return x
            for part in ("weight", "bias", "running_mean", "running_var"):
                if isinstance(getattr(layer, part, None), Tensor):
                    self.mark(f"{name}.{part}", 0, x.group, block)
            return x
        for part in ("weight", "bias"):
            if per_channel and isinstance(getattr(layer, part, None), Tensor):
                self.mark(f"{name}.{part}", 0, x.group)
        return x

    def _flatten(self, x: Value) -> Value:
        return Value(x.group, "flat", 2) if x.layout == "maps" else x

    def _pool(self, x: Value) -> Value:
        if x.layout not in ("maps", "none"):
            self.fix(x)
        return x

    # -- functions and methods -------------------------------------------------------------------------

    def call(self, called: str, inputs: Sequence[Any], options: Mapping[str, Any]) -> Value:
        """What a function or method makes of its inputs."""
        values = [v for v in [*inputs, *options.values()] if isinstance(v, Value) and v.group is not None]
        if called in ("size", "dim") or (called == "getattr" and inputs[1] in ("shape", "ndim", "dtype", "device")):
            return Value()
        if not values:
            return Value()
        x = inputs[0] if isinstance(inputs[0], Value) else values[0]
        if called in _ARITHMETIC:
            return self._combined(values)
        if len(values) == 1 and x is values[0]:
            if called in _POINTWISE:
                return x
            if called in _POOL_CALLS:
                return self._pool(x)
            if called == "flatten" and (*inputs[1:], *options.values()) in ((1,), (1, -1)):
                return self._flatten(x)
            # x.view(len(x), -1)
            if called in ("view", "reshape") and len(inputs) == 3 and inputs[2] == -1 and isinstance(inputs[1], Value):
                return self._flatten(x)
            if called == "mean" and x.layout == "maps" and self._is_global(x, inputs, options):
                keep = options.get("keepdim", inputs[2] if len(inputs) > 2 else False)
                return x if keep else Value(x.group, "flat", 2)
        for value in [*values, *(v for item in inputs if isinstance(item, list | tuple) for v in item)]:
            self.fix(value)
        return Value(FIXED)

    def _combined(self, values: Sequence[Value]) -> Value:
        for value in values[1:]:
            assert value.group is not None and values[0].group is not None
            self.join(values[0].group, value.group)
            if value.layout != values[0].layout:
                self.fix(value)
        return values[0]

    @staticmethod
    def _is_global(x: Value, inputs: Sequence[Any], options: Mapping[str, Any]) -> bool:
        dims = options.get("dim", inputs[1] if len(inputs) > 1 else None)
        dims = (dims,) if isinstance(dims, int) else tuple(dims or ())
        return sorted(d % x.rank for d in dims if isinstance(d, int)) == list(range(2, x.rank))
