"""SGD at a fixed effective learning rate: scale-invariant weights stay on a sphere while they train.

    g = gradient,   v <- momentum P v + g     (P: tangent part; without momentum v = g)
    x <- x - lr rho² v,   x <- rho x / ||x||  so that lr is the effective learning rate, whatever the radius rho

For weights whose scale does not matter the gradient at norm rho is 1/rho times the one on the unit sphere, and turns x
by an angle with tan(angle) = lr ||g_unit||, g_unit = rho g: the radius drops out. The class checks and gathers; the
work is in :mod:`onsphere.optim.inplace` (in place) and :mod:`onsphere.optim.updates` (pure).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd as torch_sgd

from onsphere.groups import parameter_names, same_slices, settle_radius, slices_of, sphere_kind
from onsphere.optim.by_slices import rows_step
from onsphere.optim.inplace import sphere_sgd_
from onsphere.optim.rates import check_lr, check_no_decay, check_options, check_reach, check_step, scalar
from onsphere.optim.spread import Move, move_
from onsphere.optim.updates import sgd, sphere_sgd
from onsphere.radii import as_radius
from onsphere.sharding import check_current, each, is_spread, part, same_layout


class SphereSGD(Optimizer):
    """SGD whose learning rate is the effective learning rate of the weights on spheres.

    After every step the tensors of a sphere group are scaled back to their radius, which is recorded at construction
    as ``group["radius"]`` and so travels with ``state_dict``. Loading other weights into the model later does
    not change it: the next step brings them to the recorded radius.

    With ``momentum`` the buffer is projected onto the tangent space at the current point before it is used. Without
    that the old steps, tangent where they were taken, point off the sphere here: they lengthen or shorten x, and the
    projection silently turns that into a different learning rate. At stationarity the effective learning rate of the
    applied update is ``lr / (1 - momentum)``. Buffers are in gradient units (they scale as 1 / rho).

    A parameter of a joint sphere that has no gradient counts as one of gradient zero: it keeps its direction (unless
    its momentum still carries it) and is scaled with the rest. Where no tensor of a sphere has a gradient nothing
    moves. An entry of a gradient that is not finite damages that entry, as with ``torch.optim.SGD``, and no other: a
    sphere whose norm is not finite is not projected. Groups without ``sphere`` get the step of ``torch.optim.SGD``, bit
    for bit with a float learning rate.

    Parameters may be DTensors (FSDP2, tensor parallelism): norms are those of the whole tensors, added up over the
    processes by one all-reduce a mesh and step, in which every rank takes part.

    Args:
        params: Param groups, at least one with ``"sphere": "joint"`` (its tensors share one norm), ``"rows"`` (every
            slice along dimension 0 of every tensor has its own), ``"columns"`` (along dimension 1) or ``"blocks"``
            (slices of equal labels share one, :mod:`onsphere.groups`): what ``onsphere.sphere_groups(model, batch)``
            returns. A group may set ``lr``, ``momentum``, ``weight_decay`` and ``geodesic`` for itself, a sphere group
            ``radius`` too.
        lr: Effective learning rate of the sphere groups, a float or a one-element tensor, finite and not negative.
        momentum: Momentum factor, in [0, 1).
        weight_decay: Weight decay of the groups without a sphere; a sphere group must have 0.
        geodesic: Move along the great circle by exactly ``lr rho ||v_tangent|| rad`` instead of step and projection.
        radius: Put every sphere group that has no ``radius`` of its own there; ``None``: where its tensors are now.
        other_lr: Learning rate of groups without a sphere that have no ``lr``; ``None``: the same ``lr``.
        maximize: Whether to ascend instead of descend.
        foreach: ``False`` runs the pure functions tensor by tensor, slower and with more memory; ``True`` works in
            place on lists; ``None`` chooses the latter unless a parameter is of a tensor subclass.

    Raises:
        TypeError: A sphere parameter does not hold real floating-point numbers, or is a ``Partial`` DTensor.
        ValueError: A value is out of range, no group has a sphere, a sphere group has weight decay, its tensors have no
            direction (zero or non-finite norm), or another rank has other groups of sharded tensors.
        RuntimeError: Another rank of the mesh of sharded tensors has made no such group in two minutes.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = SphereSGD([{"params": [weight], "sphere": "joint"}], lr=1e-3)
        >>> optimizer.param_groups[0]["radius"]
        5.0

    Source: Kodryan et al., NeurIPS 2022 (step and projection of the total norm, rows as "fix all ELRs").
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        geodesic: bool = False,
        radius: float | None = None,
        other_lr: float | Tensor | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        check_lr(lr, "lr")
        if other_lr is not None:
            check_lr(other_lr, "other_lr")
        check_options(momentum, weight_decay)
        groups = params if isinstance(params, Tensor) else list(cast(Iterable[Any], params))
        if not isinstance(groups, Tensor) and not any(_has_sphere(group) for group in groups):
            raise ValueError(
                "no parameter group has a sphere; pass onsphere.sphere_groups(model, batch), or mark the "
                'scale-invariant weights yourself: SphereSGD([{"params": weights, "sphere": "joint"}, '
                '{"params": others}], lr)'
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "geodesic": geodesic,
            "radius": radius,
            "other_lr": other_lr,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(groups, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, checked; a sphere group is put on its radius. The dictionary given is not changed.

        Args:
            param_group: As in the constructor.

        Raises:
            TypeError: As in the constructor.
            ValueError: As in the constructor, or a parameter is already in another group.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a param group must be a dict, not a {type(param_group).__name__}")
        group = dict(param_group)
        sphere = group["sphere"] = sphere_kind(group)
        radius = group.pop("radius", None)
        if sphere is None:
            if radius is not None:
                raise ValueError('a param group has a "radius" but no "sphere"; add "sphere": "joint" or "rows"')
            if self.defaults["other_lr"] is not None:
                group.setdefault("lr", self.defaults["other_lr"])
        super().add_param_group(group)
        try:
            check_lr(group["lr"], 'group["lr"]')
            check_options(group["momentum"], group["weight_decay"])
            del group["radius"], group["other_lr"]  # the base class has filled them in from the defaults
            if sphere is not None:
                check_no_decay(group)
                group["radius"] = settle_radius(group, self.defaults["radius"] if radius is None else radius)
            check_reach(group, read=True)
        except Exception:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Loading a state_dict comes through here as well; unlike unpickling it finds groups already present.
        present = self.__dict__.get("param_groups")
        if present is not None and "param_groups" in state:
            for i, (old, new) in enumerate(zip(present, state["param_groups"], strict=True)):
                if not same_slices(old, new):
                    raise ValueError(
                        f'group {i} has "sphere": {old.get("sphere")!r}, the loaded one {new.get("sphere")!r}; '
                        "load the state of a SphereSGD that was made with the same groups"
                    )
                if new.get("sphere") is not None and new.get("radius") is not None:
                    views = slices_of(old).views(old["params"])
                    try:
                        as_radius(new["radius"], views, rows=slices_of(old).pools(views))
                    except ValueError as error:
                        raise ValueError(f"group {i} of the loaded state: {error}") from error
        super().__setstate__(state)
        for name in ("radius", "other_lr"):
            self.defaults.setdefault(name, None)
        for group in self.param_groups:
            for name, value in _BACKFILL.items():
                group.setdefault(name, value)
            if group["sphere"] is None:
                continue
            if group.get("radius") is None:
                group["radius"] = settle_radius(group)
            elif isinstance(group["radius"], list):
                devices = [p.device for p in group["params"]]
                group["radius"] = [r.to(d) for r, d in zip(group["radius"], devices, strict=True)]

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step and put the weights back onto their spheres.

        Args:
            closure: Reevaluates the model, calls ``backward`` and returns the loss.

        Returns:
            What the closure returned, or ``None``.

        Raises:
            RuntimeError: The gradient of a parameter on a sphere is sparse.
            ValueError: A setting that was written into a param group is out of range, or ``fully_shard`` has put other
                parameters in the place of these since; then nothing has moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            check_step(group)
            for i, p in enumerate(group["params"]):
                if p.grad is None:
                    check_current(p, f"parameter {i} of a group")
        spread = []
        for group in self.param_groups:
            if group["sphere"] is None:
                self._step_in_space(group)
            elif any(map(is_spread, group["params"])):
                spread.append(self._spread(group))
            else:
                self._step_on_sphere(group)
        if spread:
            move_(spread)
        return loss

    def _spread(self, group: dict[str, Any]) -> Move:
        """The step of a sphere group with DTensors, also if there is no gradient here: elsewhere there may be some."""
        params, grads = group["params"], [p.grad for p in group["params"]]
        _check_dense(group, grads)
        if group["maximize"]:
            grads = [None if g is None else -g for g in grads]
        buffers = self._buffers(params) if group["momentum"] != 0 else []
        lr, slices = scalar(group["lr"], params[0].device), slices_of(group)
        params, grads, buffers = slices.views(params), slices.views(grads), slices.views(buffers)
        kind = {"rows": slices.pools(params), "momentum": group["momentum"], "geodesic": group["geodesic"]}
        return Move(params, grads, buffers, group["radius"], lr=lr, **kind)

    def _step_on_sphere(self, group: dict[str, Any]) -> None:
        params, slices, radius = group["params"], slices_of(group), group["radius"]
        grads = [p.grad for p in params]
        missing = [i for i, g in enumerate(grads) if g is None]
        if len(missing) == len(params):
            return
        if missing and slices.rows:  # a row's sphere is its own affair: without a gradient it is left alone
            present = [i for i, g in enumerate(grads) if g is not None]
            params, grads = [params[i] for i in present], [grads[i] for i in present]
            radius = [radius[i] for i in present] if isinstance(radius, list) else radius
            slices = slices.some(present)
        elif missing:  # on a joint sphere it is rescaled with the others
            grads = [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)]
        _check_dense(group, grads)
        if group["maximize"]:
            grads = [-g for g in grads]
        buffers = self._buffers(params) if group["momentum"] != 0 else []
        lr = scalar(group["lr"], params[0].device)
        options = {"lr": lr, "momentum": group["momentum"], "geodesic": group["geodesic"]}
        in_place = _in_place(group["foreach"], params)
        params, grads, buffers = slices.views(params), slices.views(grads), slices.views(buffers)
        rows = slices.pools(params)
        if in_place:
            sphere_sgd_(params, grads, buffers, radius=radius, rows=rows, **options)
        elif not rows:
            _write(params, buffers, *sphere_sgd(params, grads, buffers, radius=radius, **options))
        else:
            for i, p in enumerate(params):
                rho, state = radius[i] if isinstance(radius, list) else radius, buffers[i : i + 1]
                _write([p], state, *rows_step([p], [grads[i]], state, rho, each(rows, i), options))

    def _step_in_space(self, group: dict[str, Any]) -> None:
        owners = [p for p in group["params"] if p.grad is not None]
        if not owners:
            return
        # Such a step is one number at a time: of a spread tensor each process steps what it holds.
        params, grads = [part(p) for p in owners], [part(same_layout(p.grad, p)) for p in owners]
        use_momentum, spread = group["momentum"] != 0, any(map(is_spread, owners))
        sparse = any(g.is_sparse for g in grads)
        if _in_place(group["foreach"], params) and (sparse or not torch.compiler.is_compiling()):
            buffers = [self.state[p].get("momentum_buffer") for p in owners] if use_momentum else []
            if use_momentum and spread:
                buffers = [part(buffer) for buffer in self._buffers(owners)]
            torch_sgd(
                params,
                grads,
                buffers,
                has_sparse_grad=sparse,
                foreach=group["foreach"],
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=0.0,
                nesterov=False,
                maximize=group["maximize"],
            )
            if not spread:
                for p, buffer in zip(owners, buffers, strict=False):
                    self.state[p]["momentum_buffer"] = buffer
            return
        if group["maximize"]:
            grads = [-g for g in grads]
        buffers = [part(buffer) for buffer in self._buffers(owners)] if use_momentum else []
        lr = scalar(group["lr"], params[0].device)
        options = {"lr": lr, "momentum": group["momentum"], "weight_decay": group["weight_decay"]}
        _write(params, buffers, *sgd(params, grads, buffers, **options))

    def _buffers(self, params: list[Tensor]) -> list[Tensor]:
        """Momentum buffers, zero when they are new."""
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return [self.state[p]["momentum_buffer"] for p in params]


_BACKFILL: dict[str, Any] = {
    "sphere": None,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "geodesic": False,
    "maximize": False,
    "foreach": None,
}


def _write(params: list[Tensor], buffers: list[Tensor], new: list[Tensor], new_buffers: list[Tensor]) -> None:
    for old, value in zip([*params, *buffers], [*new, *new_buffers], strict=True):
        old.copy_(value)


def _in_place(foreach: bool | None, params: list[Tensor]) -> bool:
    return all(type(p) in (Tensor, torch.nn.Parameter) for p in params) if foreach is None else foreach


def _check_dense(group: dict[str, Any], grads: Sequence[Tensor | None]) -> None:
    if any(g is not None and g.is_sparse for g in grads):
        named = zip(parameter_names(group), group["params"], strict=True)
        names = [name for name, p in named if p.grad is not None and p.grad.is_sparse]
        raise RuntimeError(
            f"{', '.join(names)} has a sparse gradient, which cannot be projected; use sparse=False in the "
            "embedding, or put it in a group without a sphere"
        )


def _has_sphere(group: object) -> bool:
    return isinstance(group, dict) and sphere_kind(group) is not None
