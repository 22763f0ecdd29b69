"""Matrices as a direction times learnable gains, and back: :func:`decouple` and :func:`fuse`.

    W = diag(r) D diag(c)       D on a sphere of fixed norm, r a gain for each row, c one for each column

D keeps the tensor that W was, so that groups and optimisers go on holding it; r and c start at one, so that the
function is the same to the bit. What a fixed norm takes from the function, a scale for each matrix, the gains give
back, under a learning rate of their own and without decay. :func:`fuse` multiplies out, and the plain model is back.

Source: arXiv 2606.25971 (magnitude-direction decoupling); the start at one, with the norm left in D, is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.utils import parametrize

from onsphere.groups import listed_params, sphere_kind
from onsphere.sharding import check_parts, is_spread

__all__ = ["Gains", "decouple", "fuse"]

Which = Literal["rows", "columns", "both"]


class Gains(nn.Module):
    """A tensor's rows (slices along dimension 0) and columns (along dimension 1) times a gain each.

    Attributes:
        rows: The gains of the rows ``[R]``, or None.
        columns: The gains of the columns ``[C]``, or None.
    """

    rows: nn.Parameter | None
    columns: nn.Parameter | None

    def __init__(self, tensor: Tensor, gains: Which, order: tuple[str, ...]) -> None:
        super().__init__()
        self._order = order  # of the module's parameters, which fuse restores
        sizes = {"rows": tensor.shape[0], "columns": tensor.shape[1]}
        for name, size in sizes.items():
            ones = nn.Parameter(tensor.new_ones(size)) if gains in (name, "both") else None
            self.register_parameter(name, ones)

    def forward(self, direction: Tensor) -> Tensor:
        """``[R, C, ...]`` to the same."""
        ones = (1,) * (direction.dim() - 2)
        if self.rows is not None:
            direction = direction * self.rows.view(-1, 1, *ones)
        if self.columns is not None:
            direction = direction * self.columns.view(1, -1, *ones)
        return direction


def decouple(model: nn.Module, groups: Iterable[Mapping[str, Any]], gains: Which = "rows") -> list[dict[str, Any]]:
    """Give the matrices on spheres learnable gains: each becomes a direction on its sphere times these.

    The model is changed in place, and computes what it did to the bit; its ``state_dict`` has other keys until
    :func:`fuse`. The optimiser is made of the groups that are returned, and holds the directions' norms if it is kept
    on them::

        groups = onsphere.decouple(model, onsphere.norm_groups(model, batch), gains="rows")
        optimizer = onsphere.keep_on_sphere(torch.optim.AdamW(groups, lr=1e-3), groups)

    Decouple ahead of ``fully_shard`` and ``torch.compile``.

    Args:
        model: The model that trains.
        groups: Param groups of its tensors, as :func:`onsphere.norm_groups` or :func:`onsphere.sphere_groups` returns
            them; those with a ``sphere`` are decoupled, of them the tensors of at least two dimensions.
        gains: One for each row, each column, or both.

    Returns:
        The groups with the tensors' names of now, followed by one of all gains, without sphere and weight decay. Give
        it an ``lr`` of its own if it should have one.

    Raises:
        TypeError: A tensor is split over processes.
        ValueError: ``gains`` is something else, no tensor can have gains, a tensor is not the model's, it has two
            places in it (tied weights) or is parametrised already.

    Source: arXiv 2606.25971, sections 2 and 3.

    Example:
        >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)), torch.randn(16, 4)
        >>> before = model(x)
        >>> groups = onsphere.decouple(model, onsphere.norm_groups(model, x), gains="rows")
        >>> bool((model(x) == before).all()), groups[-1]["names"]
        (True, ['0.parametrizations.weight.0.rows'])
        >>> list(onsphere.fuse(model).state_dict()) == list(nn.Sequential(*model).state_dict())
        True
    """
    if gains not in get_args(Which):
        raise ValueError(f"gains is {gains!r}; it must be one of {', '.join(get_args(Which))}")
    given = [dict(group) | {"params": listed_params(group["params"])} for group in groups]
    chosen = [p for group in given if sphere_kind(group) is not None for p in group["params"] if p.dim() >= 2]
    if not chosen:
        raise ValueError(
            "no group has a sphere with a tensor of at least two dimensions, so there is nothing to decouple"
        )
    places = _places(model)
    for p in chosen:  # nothing is changed unless all can be
        _check(p, places.get(id(p), []))
    added: list[tuple[str, nn.Parameter]] = []
    for p in chosen:
        ((prefix, module, name),) = places[id(p)]
        made = Gains(p.detach(), gains, tuple(module._parameters))
        parametrize.register_parametrization(module, name, made)
        added += [(f"{prefix}parametrizations.{name}.0.{which}", gain) for which, gain in made.named_parameters()]
    called = {id(p): name for name, p in model.named_parameters()}
    for group in given:
        if "names" in group:
            group["names"] = [called.get(id(p), name) for p, name in zip(group["params"], group["names"], strict=True)]
    new = {"params": [gain for _, gain in added], "names": [name for name, _ in added]}
    return [*given, new | {"sphere": None, "weight_decay": 0.0}]


def fuse(model: nn.Module) -> nn.Module:
    """Multiply the gains of :func:`decouple` into their matrices: the plain model, of the same function.

    Args:
        model: The model that was decoupled; it is changed in place (fuse a ``copy.deepcopy`` to go on training).

    Returns:
        The model; its ``state_dict`` has the keys that it had before it was decoupled.

    Raises:
        TypeError: A matrix is split over processes: gather the model first.
        ValueError: Nothing in it is decoupled, or a matrix has other parametrisations besides the gains.

    Example:
        >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)), torch.randn(16, 4)
        >>> groups = onsphere.decouple(model, onsphere.norm_groups(model, x))
        >>> list(onsphere.fuse(model).state_dict())
        ['0.weight', '0.bias', '1.weight', '1.bias', '2.weight', '2.bias']
    """
    found = [
        (module, name, own)
        for module in model.modules()
        if parametrize.is_parametrized(module)
        for name, own in module.parametrizations.items()  # type: ignore[operator, union-attr]
        if any(isinstance(one, Gains) for one in own)
    ]
    if not found:
        raise ValueError("nothing in this model is decoupled; onsphere.decouple does it")
    for module, name, own in found:
        if len(own) > 1:
            raise ValueError(f"{name} of {type(module).__name__} has other parametrisations besides its gains")
        if is_spread(own.original):
            raise TypeError(
                f"{name} of {type(module).__name__} is split over processes; gather the model, then fuse it"
            )
    for module, name, own in found:
        order = own[0]._order
        _alone(module)
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for each in sorted(module._parameters, key=lambda each: order.index(each) if each in order else len(order)):
            module._parameters[each] = module._parameters.pop(each)
    return model


def _alone(module: nn.Module) -> None:
    """Give a parametrised module a class of its own: copies of it share one, from which torch takes the property."""
    shared = type(module)
    body = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, body)


def _places(model: nn.Module) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """Where each parameter is: the prefix of its name, its module, and its name there."""
    places: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            places.setdefault(id(p), []).append((f"{prefix}." if prefix else "", module, name))
    return places


def _check(p: Tensor, where: list[tuple[str, nn.Module, str]]) -> None:
    if not where:
        raise ValueError(f"a tensor of shape {tuple(p.shape)} in the groups is no parameter of the model")
    names = [f"{prefix}{name}" for prefix, _, name in where]
    if len(where) > 1:
        raise ValueError(
            f"{names[0]} and {names[1]} are one tensor (tied weights), and gains of the one would be gains of the "
            "other: untie them, or leave the tensor out of the groups on spheres"
        )
    if ".parametrizations." in f".{names[0]}" or parametrize.is_parametrized(where[0][1], where[0][2]):
        raise ValueError(f"{names[0]} is parametrised already; remove that, or leave it out of the groups on spheres")
    check_parts(p, names[0])
    if is_spread(p):
        raise TypeError(f"{names[0]} is split over processes; decouple the model ahead of fully_shard")
