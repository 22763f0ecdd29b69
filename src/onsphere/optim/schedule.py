"""A learning-rate schedule made from a regime map: start just above convergence, end inside it.

    step       0 .. hold T          the start ELR, just above the threshold at which convergence ends
               .. (1 - tail) T      down to the end ELR (linear, cosine or geometric)
               .. T and after       the end ELR, where training converges

with T steps in all. At the start ELR training is in chaotic equilibrium: the loss levels off, the weights wander far.
The way down passes the threshold, and the end makes the loss small. Minima found so have a lower test error than those
of a constant ELR below the threshold, which stays near the initial weights (docs/results.md).

Source: Kodryan et al., NeurIPS 2022 (starting ELRs of low chaotic equilibrium lead to the best minima).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from onsphere.groups import parameter_names, sphere_kind
from onsphere.optim.optimizer import SphereSGD
from onsphere.optim.proposal import END_FACTOR, START_FACTOR, propose_elrs
from onsphere.products import squared_norm
from onsphere.sharding import check_parts

Shape = Literal["linear", "cosine", "geometric"]

HOLD, TAIL = 0.5, 0.0
SHAPE: Shape = "linear"


class RegimeSchedule(LRScheduler):
    """Holds a start ELR, anneals to an end ELR, and holds that; call ``step()`` after every optimiser step.

    With :class:`onsphere.SphereSGD` the numbers are effective learning rates as they stand. Which groups follow:

    - ``start`` and ``end`` as floats: all groups on a sphere take them. If some groups are on a sphere, the others keep
      the learning rate that they have, multiplied by the same course (1 at the start); if none is, all take them.
    - as sequences, one number for each group: every group takes its own.

    Like torch's own schedulers it changes the learning rates by factors, so it may be chained with a warm-up or stand
    in a ``SequentialLR``.

    Args:
        optimizer: Any torch optimiser, SphereSGD or another.
        start: ELR of the first steps, positive.
        end: ELR of the last steps, positive.
        total_steps: Steps of the whole training.
        hold: Fraction of the steps at ``start``, in [0, 1].
        tail: Fraction of the steps at ``end``; ``hold + tail`` is at most 1.
        shape: Way down: ``linear``, ``cosine`` or ``geometric`` (equal factors).
        keep_elr: For optimisers other than SphereSGD: in groups with ``"sphere": "joint"`` the learning rate becomes
            ELR · norm², of the present norm, so that the ELR is the scheduled one while the norm moves. It
            costs one norm a step, and means the ELR of SGD, not that of adaptive optimisers.
        last_epoch: As in torch: -1 starts anew.

    Raises:
        TypeError: ``optimizer`` is no torch optimiser, or with ``keep_elr`` the parts of a tensor on a sphere
            do not add up (a ``Partial`` DTensor, FSDP 1, DeepSpeed).
        ValueError: A value is out of range, a sequence does not have one number for each group, or
            ``keep_elr`` is of no use.

    Example:
        >>> import torch
        >>> from onsphere.optim import RegimeSchedule, SphereSGD
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = SphereSGD([{"params": [weight], "sphere": "joint"}], lr=1.0)
        >>> schedule = RegimeSchedule(optimizer, start=1e-2, end=1e-4, total_steps=100, shape="geometric")
        >>> [float(f"{schedule.elr_at(step):.3g}") for step in (0, 50, 75, 100)]
        [0.01, 0.01, 0.001, 0.0001]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start: float | Sequence[float],
        end: float | Sequence[float],
        total_steps: int,
        *,
        hold: float = HOLD,
        tail: float = TAIL,
        shape: Shape = SHAPE,
        keep_elr: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"RegimeSchedule was given a {type(optimizer).__name__}; give it a torch.optim.Optimizer")
        _check_course(total_steps, hold, tail, shape)
        self.start, self.end = _one_each(start, "start"), _one_each(end, "end")
        self.total_steps, self.hold, self.tail, self.shape = total_steps, hold, tail, shape
        groups = optimizer.param_groups
        on_sphere = [sphere_kind(group) is not None for group in groups]
        # which groups take the numbers as they are; the others follow in proportion
        self._absolute = [not any(on_sphere) or on for on in on_sphere]
        for name, values in (("start", self.start), ("end", self.end)):
            if isinstance(values, list):
                if len(values) != len(groups):
                    raise ValueError(
                        f"{name} has {len(values)} numbers, the optimizer {len(groups)} param groups; give one number "
                        "for each group, or a single number"
                    )
                self._absolute = [True] * len(groups)
        if keep_elr:
            _check_keep_elr(optimizer)
        self.keep_elr = keep_elr
        self._squared_norms = [1.0] * len(groups)
        super().__init__(optimizer, last_epoch)

    @classmethod
    def from_map(
        cls,
        optimizer: Optimizer,
        regimes: Any,
        total_steps: int,
        *,
        start_factor: float = START_FACTOR,
        end_factor: float = END_FACTOR,
        **options: Any,
    ) -> RegimeSchedule:
        """The schedule that a regime map proposes; see :func:`propose_elrs` for the rule.

        Momentum raises the ELR of the applied update to lr / (1 - momentum), and maps are made without it: groups on a
        sphere get the proposed ELR times (1 - momentum).

        Args:
            optimizer: Any torch optimiser, as in the constructor.
            regimes: The map, as in :func:`propose_elrs`.
            total_steps: Steps of the whole training.
            start_factor: The start ELR over the one where convergence ends, as in :func:`propose_elrs`.
            end_factor: The end ELR over the one where convergence ends, as in :func:`propose_elrs`.
            **options: The constructor's other arguments.

        Raises:
            ValueError: The map does not say where convergence ends, or as in the constructor.
        """
        proposed = propose_elrs(regimes, start_factor=start_factor, end_factor=end_factor)
        groups = optimizer.param_groups if isinstance(optimizer, Optimizer) else []
        rates = {_momentum(group) for group in groups if sphere_kind(group) is not None}
        if len(rates) > 1:
            raise ValueError(
                f"the groups on spheres have the momenta {sorted(rates)}; give start and end for each group instead, "
                "the proposed ELR times (1 - momentum)"
            )
        factor = 1 - (rates.pop() if rates else 0.0)
        return cls(optimizer, factor * proposed.start, factor * proposed.end, total_steps, **options)

    def elr_at(self, step: int, group: int = 0) -> float:
        """The scheduled ELR of a step (0 is the first), of one group where they differ."""
        start, end = (v[group] if isinstance(v, list) else v for v in (self.start, self.end))
        return course(step, self.total_steps, start, end, self.hold, self.tail, self.shape)

    def get_lr(self) -> list[float | Tensor]:
        """The next learning rate of every group; called by ``step()``."""
        fresh = self.last_epoch <= 0
        rates: list[float | Tensor] = []
        for i, group in enumerate(self.optimizer.param_groups):
            lr, squared = group["lr"], self._squared_norm(group)
            if fresh:
                before = group["initial_lr"]
                # factors that schedulers made earlier have applied by now are kept
                factor = lr / before if float(before) != 0 else 1.0
                rates.append(self._target(i, self.last_epoch) * squared * factor)
            else:
                now, last = (self._target(i, step) for step in (self.last_epoch, self.last_epoch - 1))
                rates.append(lr * (now / last * (squared / self._squared_norms[i])))
            self._squared_norms[i] = squared
        return rates

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """The learning rates without regard to other schedulers: what ``SequentialLR`` asks for."""
        self._squared_norms = [self._squared_norm(group) for group in self.optimizer.param_groups]
        return [self._target(i, self.last_epoch) * squared for i, squared in enumerate(self._squared_norms)]

    def _target(self, group: int, step: int) -> float | Any:
        """The learning rate of a group in a step, but for its squared norm."""
        if self._absolute[group]:
            return self.elr_at(step, group)
        base = self.base_lrs[group]
        return self.elr_at(step) / self.elr_at(0) * (base if not isinstance(base, Tensor) else base.item())

    def _squared_norm(self, group: Mapping[str, Any]) -> float:
        if not self.keep_elr or sphere_kind(group) is None:
            return 1.0
        return float(squared_norm([p.detach() for p in group["params"]]))


def course(step: int, total_steps: int, start: float, end: float, hold: float, tail: float, shape: Shape) -> float:
    """The ELR of a step: ``start`` until ``hold``, then down to ``end`` at ``1 - tail``, fractions of the steps."""
    first, last = hold * total_steps, (1 - tail) * total_steps
    if step <= first:
        return start if step < last or last > first else end
    if step >= last:
        return end
    u = (step - first) / (last - first)
    if shape == "geometric":
        return math.exp((1 - u) * math.log(start) + u * math.log(end))
    return end + (start - end) * (1 - u if shape == "linear" else (1 + math.cos(math.pi * u)) / 2)


def _one_each(value: float | Sequence[float], name: str) -> float | list[float]:
    values = list(value) if isinstance(value, Sequence) else [value]
    for number in values:
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise ValueError(f"{name} is {number!r}; it must be a positive, finite number")
    floats = [float(number) for number in values]
    return floats if isinstance(value, Sequence) else floats[0]


def _check_course(total_steps: object, hold: float, tail: float, shape: object) -> None:
    if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
        raise ValueError(f"total_steps is {total_steps!r}; it must be a whole number of at least 1")
    for name, value in (("hold", hold), ("tail", tail)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}; it must be a fraction of the steps, 0 to 1")
    if hold + tail > 1:
        raise ValueError(f"hold {hold:g} and tail {tail:g} are more than all steps together; their sum is at most 1")
    if shape not in get_args(Shape):
        raise ValueError(f"shape is {shape!r}; it must be one of {', '.join(get_args(Shape))}")


def _check_keep_elr(optimizer: Optimizer) -> None:
    if isinstance(optimizer, SphereSGD):
        raise ValueError("keep_elr is not for SphereSGD, whose learning rate is the ELR already; leave it out")
    kinds = [sphere_kind(group) for group in optimizer.param_groups]
    if "joint" not in kinds or "rows" in kinds:
        raise ValueError(
            'keep_elr needs param groups with "sphere": "joint" (and none with "rows", whose norms differ): make the '
            "optimizer from onsphere.sphere_groups(model, batch)"
        )
    for group, kind in zip(optimizer.param_groups, kinds, strict=True):
        if kind is not None:
            for name, p in zip(parameter_names(group), group["params"], strict=True):
                check_parts(p, name)


def _momentum(group: Mapping[str, Any]) -> float:
    return float(group.get("momentum", 0.0))
