"""Whether a forward pass or a loss reads a model's parameters by itself, past those it was given.

A measurement runs a copy of a model at weights of its own. What reads the user's parameters directly (an L2 term over
``model.parameters()``, a loss that calls the model again, a list of parameters kept outside the module tree) does not
follow: its derivative would be dropped, and at other weights its value would be wrong. So it is refused. Two things
show it: an operation on a tensor that lies where a parameter lies (also without gradients, through ``.data``, in a
view), and a graph of the loss that ends in a parameter (a term computed before).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["ParameterReads", "nodes"]


class ParameterReads(TorchDispatchMode):
    """Notes which parameters are read while it is entered.

    Args:
        *points: Modules whose parameters are watched; anything else is passed over.
    """

    def __init__(self, *points: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        named = [item for point in points if isinstance(point, nn.Module) for item in point.named_parameters()]
        self._parameters = {id(p): name for name, p in named}
        self._held = [p for _, p in named]  # so that no other tensor gets their ids
        self._places: dict[int, list[tuple[int, int, str]]] = {}
        for name, parameter in named:
            if place := _place(parameter):
                self._places.setdefault(place[0], []).append((*place[1:], name))
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note parameters among its arguments."""
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor):
                self._note(leaf, view=bool(getattr(func, "is_view", False)))
        return func(*args, **(kwargs or {}))

    def _note(self, tensor: Tensor, *, view: bool) -> None:
        place = _place(tensor)
        if place is None:
            return
        for start, end, name in self._places.get(place[0], ()):
            # A view of something larger that parameters lie in may be of what is beside them.
            inside = start <= place[1] and place[2] <= end
            if inside or (not view and place[1] < end and start < place[2]):
                self.names.add(name)

    def ends_of(self, *roots: object) -> None:
        """Note the parameters in which the graphs of tensors end."""
        for node in nodes(root for root in roots if isinstance(root, Tensor)):
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) in self._parameters:
                self.names.add(self._parameters[id(leaf)])

    def refuse(self) -> None:
        """Refuse what was noted (ValueError)."""
        if not self.names:
            return
        names = sorted(self.names)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(
            f"the loss or the forward pass reads parameters of the model by itself ({', '.join(names[:3])}{more}), "
            "past those it is measured at, so that their part would be left out: return what it needs from the model, "
            "forward=lambda model, x: (model(x), sum(p.square().sum() for p in model.parameters())), and take it from "
            "the output in loss_fn; if it means a fixed network, give it a copy (copy.deepcopy)"
        )


def _place(tensor: Tensor) -> tuple[int, int, int] | None:
    """The storage of a tensor, and where in it the tensor begins and ends, in bytes; None where it has none."""
    try:
        storage = tensor.untyped_storage()
        if storage.data_ptr() == 0 or tensor.numel() == 0:
            return None
        start = int(tensor.storage_offset()) * tensor.element_size()
        span = 1 + sum((n - 1) * int(s) for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    except (RuntimeError, NotImplementedError):  # sparse, meta, or a wrapper around other tensors
        return None
    return storage.data_ptr(), start, start + span * tensor.element_size()


def nodes(roots: Iterable[Tensor]) -> Iterator[Any]:
    """Every node of the graphs of these tensors, once."""
    waiting: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        waiting += following
