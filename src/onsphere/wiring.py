"""What feeds what inside a model: which layers a norm reads, and which layer makes the output.

The graph of ``torch.fx.symbolic_trace`` answers where a model can be traced: a layer feeds a norm if
everything that reads its output is a norm or leads to one through operations that only move, drop or pool
numbers. Where the forward pass cannot be traced, the order in which a parent registers its children is the
next best guess.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import fx, nn

from onsphere.normalisation import is_norm

__all__ = ["Wiring", "linear_layers"]

_LINEAR_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

# Between a layer and "its" norm these change shape, drop or pool values; a bias stays a per-channel shift.
_TRANSPARENT_LAYERS = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.ChannelShuffle,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
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
_TRANSPARENT_CALLS = frozenset([*_SAME_NUMBERS.split(), *_DROPOUT_AND_POOLING])
_NORM_CALLS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize"})


class Wiring:
    """Which linear and convolutional layers of a model feed norms, and which make its output.

    Args:
        model: any module; it is neither run nor changed (its forward is traced on a copy).

    Attributes:
        before_norm: names of the layers whose output nothing but norms reads, through transparent operations.
        heads: names of the layers that make the output, no linear layer or norm coming after them.
        traced: whether a graph of the whole model said so. If not, graphs of those parts that have one did,
            and for the rest the order in which layers are registered.
    """

    def __init__(self, model: nn.Module) -> None:
        self.before_norm: set[str] = set()
        self.heads: list[str] = []
        self.traced = self._trace(model, "", at_top=True)
        if not self.traced:
            self._by_registration(model, "")
            linear = [name for name, module in linear_layers(model) if name not in self.before_norm]
            self.heads = linear[-1:]

    def _trace(self, model: nn.Module, prefix: str, at_top: bool = False) -> bool:
        """Read the graph of ``model`` into this object; False if it cannot be traced."""
        try:
            # On a copy: a forward that stores what it computes would keep a proxy.
            copied = copy.deepcopy(model)
            graph = _LeafTracer().trace(copied)
        except Exception:  # whatever a user's forward raises when it meets a proxy
            return False
        modules = dict(copied.named_modules())

        def is_linear(node: fx.Node) -> bool:
            return node.op == "call_module" and isinstance(modules[str(node.target)], _LINEAR_LAYERS)

        fed: dict[str, bool] = {}
        for node in graph.nodes:
            if is_linear(node):
                name = str(node.target)
                fed[name] = fed.get(name, True) and _only_norms_read(node, modules)
        names = {id(module): name for name, module in reversed(list(copied.named_modules()))}
        before = {name for name, ok in fed.items() if ok}
        self.before_norm |= {prefix + names[id(modules[name])] for name in before}
        if at_top:
            self.heads = list(dict.fromkeys(names[id(modules[n])] for n in _output_layers(graph, modules)))
        return True

    def _by_registration(self, parent: nn.Module, prefix: str) -> None:
        """The next registered child that is not a dropout, flatten or pooling decides, and must be a norm."""
        children = [(n, c) for n, c in parent.named_children() if not isinstance(c, _TRANSPARENT_LAYERS)]
        for (name, child), (_, following) in zip(children, [*children[1:], ("", parent)], strict=True):
            if isinstance(child, _LINEAR_LAYERS):
                if following is not parent and is_norm(following):
                    self.before_norm.add(prefix + name)
            elif next(child.children(), None) is not None and not self._trace(child, f"{prefix}{name}."):
                self._by_registration(child, f"{prefix}{name}.")


class _LeafTracer(fx.Tracer):
    """Keeps norm layers as one node each, ours like torch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_norm(m) or super().is_leaf_module(m, module_qualified_name)


def _called(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _is_norm_node(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return is_norm(modules[str(node.target)])
    return node.op in ("call_function", "call_method") and _called(node) in _NORM_CALLS


def _is_transparent_node(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _TRANSPARENT_LAYERS)
    return node.op in ("call_function", "call_method") and _called(node) in _TRANSPARENT_CALLS


def _only_norms_read(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether every use of ``node``'s value, through transparent operations, is the input of a norm."""
    readers = [user for user in node.users if _called(user) not in ("size", "getattr", "dim")]
    return bool(readers) and all(
        (_is_norm_node(user, modules) and user.args[:1] == (node,))
        or (_is_transparent_node(user, modules) and _only_norms_read(user, modules))
        for user in readers
    )


def _output_layers(graph: fx.Graph, modules: dict[str, nn.Module]) -> Iterator[str]:
    """Linear layers from which the output is reached without another linear layer or a norm on the way."""
    waiting = [node for node in graph.nodes if node.op == "output"]
    seen: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "call_module" and isinstance(modules[str(node.target)], _LINEAR_LAYERS):
            yield str(node.target)
        elif not _is_norm_node(node, modules):
            waiting.extend(node.all_input_nodes)


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear and (transposed) convolutional layers of ``model`` with their names, in registration order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, _LINEAR_LAYERS))
