"""What feeds what inside a model: which layers a norm reads, and which layer makes the output.

The graph of ``torch.fx.symbolic_trace`` answers where a model can be traced: a layer feeds a norm if
everything that reads its output is a norm or leads to one through operations that only move, drop or pool
numbers. Where the forward pass cannot be traced, one batch shows the same in one forward pass
(:mod:`onsphere.surgery.readers`); without a batch the order in which a parent registers its children is the next best
guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from onsphere.functional.copying import duplicate
from onsphere.normalisation import is_norm
from onsphere.surgery.readers import ACTIVATIONS, LINEAR_CALLS, LINEAR_LAYERS, NORM_CALLS, TRANSPARENT_CALLS, Reading
from onsphere.surgery.recognise import NormForm

__all__ = ["Wiring", "linear_layers"]

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
_ACTIVATION_LAYERS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Hardtanh,
    nn.Hardswish,
)

# Modules that multiply what they read by a matrix of their own, so that it may take over a gain.
_OTHER_LINEAR = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)


class Wiring:
    """Which linear and convolutional layers of a model feed norms, what reads its norms, and what makes its output.

    Args:
        model: any module; it is neither run nor changed (copies of it are).
        norms: its norm layers by name (:func:`onsphere.surgery.recognise.norm_forms`).
        args: positional arguments of one call, or None. They are used where the model has no graph.
        kwargs: keyword arguments of the same call.

    Attributes:
        before_norm: names of the layers whose output nothing but norms reads, through transparent operations.
        heads: names of the layers that make the output, no linear layer or norm coming after them.
        readers: for norms of which it is known, what reads their output, through transparent operations and
            activations: "linear", "norm", "output" or "other".
        traced: whether a graph or a forward pass of the whole model said so. If not, graphs of those parts that have
            one did, and for the rest the order in which layers are registered.

    Raises:
        ValueError: the forward pass fails on the arguments given.
    """

    def __init__(
        self,
        model: nn.Module,
        norms: Mapping[str, NormForm],
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.before_norm: set[str] = set()
        self.heads: list[str] = []
        self.readers: dict[str, frozenset[str]] = {}
        self._names = tuple(norms)
        self.traced = self._trace(model, "", at_top=True)
        if not self.traced and args is not None:
            seen = Reading(model, norms, args, dict(kwargs or {}))
            self.traced, self.heads = True, seen.heads
            self.before_norm, self.readers = seen.before_norm, seen.readers
        if not self.traced:
            self._by_registration(model, "")
            order = [
                name for name, module in model.named_modules() if isinstance(module, LINEAR_LAYERS) or name in norms
            ]
            linear = [name for name in order if name not in self.before_norm and name not in norms]
            # A norm registered after it may well follow it.
            self.heads = linear[-1:] if order[-1:] == linear[-1:] else []

    def _trace(self, model: nn.Module, prefix: str, at_top: bool = False) -> bool:
        """Read the graph of ``model`` into this object; False if it cannot be traced."""
        norms = {name.removeprefix(prefix) for name in self._names if name.startswith(prefix)}
        try:
            # On a copy: a forward that stores what it computes would keep a proxy.
            copied = duplicate(model)
            graph = _LeafTracer({id(copied.get_submodule(name)) for name in norms}).trace(copied)
        except Exception:  # whatever a user's forward raises when it meets a proxy
            return False
        read = _Graph(graph, dict(copied.named_modules()), norms)
        names = {id(module): name for name, module in reversed(list(copied.named_modules()))}
        fed: dict[str, bool] = {}
        for node in graph.nodes:
            if read.is_linear(node):
                name = names[id(read.modules[str(node.target)])]
                fed[name] = fed.get(name, True) and read.only_norms_read(node)
            elif node.op == "call_module" and read.is_norm(node):
                name = prefix + names[id(read.modules[str(node.target)])]
                self.readers[name] = self.readers.get(name, frozenset()) | read.readers(node)
        self.before_norm |= {prefix + name for name, ok in fed.items() if ok}
        if at_top:
            self.heads = list(dict.fromkeys(names[id(read.modules[n])] for n in read.output_layers()))
        else:
            # What leaves a part goes somewhere unseen.
            known = {name: found for name, found in self.readers.items() if "output" not in found}
            self.readers = known
        return True

    def _by_registration(self, parent: nn.Module, prefix: str) -> None:
        """The next registered child that is no dropout, flatten or pooling decides: it must be one of torch's norms."""
        children = [(n, c) for n, c in parent.named_children() if not isinstance(c, _TRANSPARENT_LAYERS)]
        for (name, child), (after, following) in zip(children, [*children[1:], ("", parent)], strict=True):
            if isinstance(child, LINEAR_LAYERS):
                if following is not parent and is_norm(following) and prefix + after in self._names:
                    self.before_norm.add(prefix + name)
            elif next(child.children(), None) is not None and not self._trace(child, f"{prefix}{name}."):
                self._by_registration(child, f"{prefix}{name}.")


class _LeafTracer(fx.Tracer):
    """Keeps norm layers as one node each, whoever wrote them."""

    def __init__(self, norms: set[int]) -> None:
        super().__init__()
        self._leaves = norms

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self._leaves or super().is_leaf_module(m, module_qualified_name)


def _called(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


class _Graph:
    """A traced graph, its modules by name and the names of its norms."""

    def __init__(self, graph: fx.Graph, modules: dict[str, nn.Module], norms: set[str]) -> None:
        self.graph, self.modules = graph, modules
        self._norms = {id(modules[name]) for name in norms}

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def is_linear(self, node: fx.Node) -> bool:
        return isinstance(self._module(node), LINEAR_LAYERS)

    def is_norm(self, node: fx.Node) -> bool:
        module = self._module(node)
        if module is not None:
            return id(module) in self._norms
        return node.op in ("call_function", "call_method") and _called(node) in NORM_CALLS

    def _passes(self, node: fx.Node, layers: tuple[type[nn.Module], ...], calls: frozenset[str]) -> bool:
        module = self._module(node)
        if module is not None:
            return isinstance(module, layers)
        return node.op in ("call_function", "call_method") and _called(node) in calls

    def only_norms_read(self, node: fx.Node) -> bool:
        """Whether every use of ``node``'s value, through transparent operations, is the input of a norm."""
        uses = [user for user in node.users if _called(user) not in ("size", "getattr", "dim")]
        return bool(uses) and all(
            (self.is_norm(user) and user.args[:1] == (node,))
            or (self._passes(user, _TRANSPARENT_LAYERS, TRANSPARENT_CALLS) and self.only_norms_read(user))
            for user in uses
        )

    def readers(self, node: fx.Node) -> frozenset[str]:
        """What reads ``node``'s value, through transparent operations and activations."""
        found: set[str] = set()
        for user in node.users:
            if _called(user) in ("size", "getattr", "dim"):
                continue
            product = user.op == "call_function" and _called(user) in LINEAR_CALLS and user.args[:1] == (node,)
            if user.op == "output":
                found.add("output")
            elif product or self.is_linear(user) or isinstance(self._module(user), _OTHER_LINEAR):
                found.add("linear")
            elif self.is_norm(user):
                found.add("norm")
            elif self._passes(user, _TRANSPARENT_LAYERS + _ACTIVATION_LAYERS, TRANSPARENT_CALLS | ACTIVATIONS):
                found |= self.readers(user)
            else:
                found.add("other")
        return frozenset(found)

    def output_layers(self) -> Iterator[str]:
        """Linear layers from which the output is reached without another linear layer or a norm on the way."""
        waiting = [node for node in self.graph.nodes if node.op == "output"]
        seen: set[fx.Node] = set()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if self.is_linear(node):
                yield str(node.target)
            elif not self.is_norm(node):
                waiting.extend(node.all_input_nodes)


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear and (transposed) convolutional layers of ``model`` with their names, in registration order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LINEAR_LAYERS))
