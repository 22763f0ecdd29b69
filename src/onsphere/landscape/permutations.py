"""Which channels of a network may be reordered together without changing its function.

Reordering the outputs of a layer, everything channel-wise behind it (norms, activations, pooling) and the inputs of the
layers that read it leaves the function as it was. A *permutation group* is the list of all tensor axes that one
reordering must touch; in a residual net all layers that write one stream are in one group. The groups are read off
the graph of ``torch.fx``: a permutation follows a value through operations known to commute with it and is given up
(the group is fixed) where anything else reads it, so what is found is always safe.

Source: Ainsworth et al. 2023 (Git Re-Basin), section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from onsphere.functional.copying import duplicate
from onsphere.landscape.channels import FIXED, ChannelReader, Value
from onsphere.normalisation import is_norm

__all__ = ["Axis", "Groups", "permutation_groups", "permute"]


@dataclass(frozen=True)
class Axis:
    """One axis of one tensor: ``block`` consecutive entries belong to each channel (behind a flatten)."""

    name: str
    dim: int
    block: int = 1


#: Group name -> the axes that one permutation reorders.
Groups: TypeAlias = Mapping[str, Sequence[Axis]]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_norm(m) or super().is_leaf_module(m, module_qualified_name)


def permutation_groups(model: nn.Module) -> dict[str, tuple[Axis, ...]]:
    """The permutation groups of a plain or residual feed-forward network.

    Args:
        model: Any module ``torch.fx`` can trace. It is neither run nor changed.

    Returns:
        Axes by group, a group being named by the first weight whose outputs it reorders. Empty if nothing can be
        reordered.

    Raises:
        ValueError: The forward pass cannot be traced.
    """
    try:
        copied = duplicate(model)
        graph = _Tracer().trace(copied)
    except Exception as error:  # whatever a user's forward raises when it meets a proxy
        raise ValueError(
            f"the model's forward pass cannot be traced ({error}); say which axes belong together with groups="
        ) from error
    modules = dict(copied.named_modules(remove_duplicate=False))
    first_names = {id(module): name for name, module in reversed(list(copied.named_modules()))}
    reader = ChannelReader(modules)
    found: dict[fx.Node, Any] = {}

    def known(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return found[argument]
        return type(argument)(map(known, argument)) if type(argument) in (list, tuple) else argument

    for node in graph.nodes:
        inputs, options = [known(a) for a in node.args], {k: known(v) for k, v in node.kwargs.items()}
        if node.op in ("placeholder", "get_attr"):
            found[node] = Value(FIXED)
        elif node.op == "call_module":
            found[node] = reader.module(first_names[id(modules[str(node.target)])], [*inputs, *options.values()])
        elif node.op == "output":
            _fix_all(reader, inputs)
        else:
            called = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
            found[node] = reader.call(called, inputs, options)
    # A tensor that has several names, or is used outside the layers seen here, must agree with itself.
    groups: dict[int, list[Axis]] = {}
    for (name, dim), (group, block) in reader.axes.items():
        if reader.root(group) != FIXED:
            groups.setdefault(reader.root(group), []).append(Axis(name, dim, block))
    return {_called_after(axes): tuple(axes) for axes in groups.values()}


def _fix_all(reader: ChannelReader, values: Any) -> None:
    if isinstance(values, list | tuple):
        for value in values:
            _fix_all(reader, value)
    elif isinstance(values, dict):
        _fix_all(reader, list(values.values()))
    else:
        reader.fix(values)


def _called_after(axes: Sequence[Axis]) -> str:
    return next((axis.name for axis in axes if axis.name.endswith("weight")), axes[0].name)


def permute(state: Mapping[str, Tensor], groups: Groups, permutations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reorder the channels of a network.

    Args:
        state: A state dict of the network.
        groups: What :func:`permutation_groups` returned, or an own one.
        permutations: For each group to reorder, which old channel comes to each place, ``[channels]`` integers.

    Returns:
        A new state dict; the network computes the same function with it.

    Raises:
        ValueError: A group or tensor is unknown, or something is no permutation of its channels.
    """
    new = {name: tensor.detach().clone() for name, tensor in state.items()}
    for group, given in permutations.items():
        if group not in groups:
            raise ValueError(f"there is no permutation group {group!r}; there are {', '.join(groups)}")
        order = torch.as_tensor(given).to(torch.int64)
        for axis in groups[group]:
            if axis.name not in new:
                raise ValueError(f"{axis.name!r} of group {group!r} is not in the state")
            size = new[axis.name].shape[axis.dim]
            if size != len(order) * axis.block or not torch.equal(order.sort().values.cpu(), torch.arange(len(order))):
                raise ValueError(
                    f"the order of {group!r} is no permutation of the {size // axis.block} channels of {axis.name!r}"
                )
            index = order[:, None] * axis.block + torch.arange(axis.block, device=order.device)
            new[axis.name] = new[axis.name].index_select(axis.dim, index.reshape(-1).to(new[axis.name].device))
    return new
