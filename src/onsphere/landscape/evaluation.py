"""Loss and error of a network at any point of weight space, with batch statistics that belong to that point.

Running statistics of batch norms describe the weights they were collected at; a point between two networks has none.
So they are re-estimated there (``mode="reestimate"``: those of the whole data, then evaluation mode), or every batch
is normalised by its own (``mode="train"``). ``mode="eval"`` takes them as they are in the points, interpolated
linearly like any buffer, for those who want to see what that does. Norms that are frozen in the model
(:func:`onsphere.normalisation.frozen_norms`) keep those of the points in every mode, as they do in training. Dropout is
off.

The user's model is copied once, without its hooks, and never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onsphere.functional.batches import (
    Batches,
    Called,
    Forward,
    aliases,
    as_batches,
    call,
    call_with,
    examples_in,
    placed,
)
from onsphere.functional.checks import LossFunction, check_deterministic, check_mean, one_number, precision_of
from onsphere.functional.reads import ParameterReads
from onsphere.functional.untouched import private_copy
from onsphere.functional.wrappers import unwrapped
from onsphere.normalisation import BatchStatistics
from onsphere.normalisation.frozen import frozen_norms, mark_frozen
from onsphere.normalisation.reestimation import whole_statistics
from onsphere.symmetry.joint import joint_sphere

__all__ = ["Batches", "Evaluation", "Forward", "LossFunction", "Mode"]

#: How batch norms get their statistics.
Mode = Literal["reestimate", "train", "eval"]


class Evaluation:
    """Evaluates points of a model's weight space on fixed batches.

    Args:
        model: The model, copied and never run.
        loss_fn: ``loss_fn(output, target)``, a mean over examples.
        batches: (input, target) pairs or one such pair (:mod:`onsphere.functional.batches`); a list is made of them, so
            that every point sees the same.
        mode: Where batch norms get their statistics: "reestimate", "train" or "eval"; the module's text has the
            particulars.
        statistics: With ``mode="reestimate"``, the batches to re-estimate from (training data, when ``batches`` are
            test data); by default ``batches``.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.
        points: Other modules whose parameters the loss must not read, the ends of a path.

    Raises:
        ValueError: For an unknown mode, empty batches, or statistics in another mode; at the first point, for a loss
            that is no mean or reads the parameters of the model or of a point by itself, or a model that is not
            deterministic.
        TypeError: A batch is not a pair, or the loss is not a tensor of real floating point.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: Batches,
        mode: Mode = "reestimate",
        statistics: Batches | None = None,
        *,
        forward: Forward | None = None,
        points: tuple[object, ...] = (),
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
        if statistics is not None and mode != "reestimate":
            raise ValueError(f'statistics are for mode="reestimate"; mode is {mode!r}')
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
        model = unwrapped(model)
        self.model = private_copy(model)
        frozen = frozen_norms(model)
        mark_frozen(self.model, frozen)
        self.loss_fn, self.mode, self.forward = loss_fn, mode, forward
        self.batches = self._read(batches, "batches")
        self.statistics = self.batches if statistics is None else self._read(statistics, "statistics")
        batch_norms = {name: m for name, m in self.model.named_modules() if isinstance(m, _BatchNorm)}
        kept = {name: norm for name, norm in batch_norms.items() if norm.running_mean is not None}
        self.norms = [norm for name, norm in kept.items() if name not in frozen]
        self._fixed = len(kept) - len(self.norms)
        self._own = len(batch_norms) > len(kept) or any(isinstance(m, BatchStatistics) for m in self.model.modules())
        self._sizes = [examples_in(x, y, i) for i, (x, y) in enumerate(self.batches)]
        self.examples = sum(self._sizes)
        dtypes = [p.dtype for p in self.model.parameters() if p.is_floating_point()]
        self._precision = precision_of(max(dtypes, key=lambda d: torch.finfo(d).bits, default=torch.float32))
        self._watched: ParameterReads | None = ParameterReads(model, *points)
        self._differentiates: bool | None = None  # whether a pass needs gradients, once it is known
        self._unlike: bool | None = None  # whether batches are; one answer for all points

    def _read(self, batches: Batches, name: str) -> list[tuple[Any, Any]]:
        pairs = placed(as_batches(batches, self.model, forward=self.forward, name=name), self.model)
        return [aliases(pair) for pair in pairs]

    @property
    def sentence(self) -> str:
        """Where batch statistics came from, in words."""
        if not self.norms:
            if self._fixed:
                return "frozen batch norm, statistics of the points"
            return "statistics of each batch (none are kept)" if self._own else "no batch norm"
        frozen = f"; {self._fixed} frozen norms with those of the points" if self._fixed else ""
        if self.mode == "reestimate":
            n = sum(examples_in(x, y, i) for i, (x, y) in enumerate(self.statistics))
            return f"batch norm statistics re-estimated at each point over {n} examples{frozen}"
        return ("statistics of each batch" if self.mode == "train" else "running statistics of the points") + frozen

    def __call__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> tuple[float, float | None]:
        """Mean loss and share of wrong predictions (None where targets are no classes) at a point."""
        self.place(parameters, buffers)
        self.check()
        loss: Tensor | float = 0.0  # summed where the model is: one transfer a point
        wrong: Tensor | int = 0
        counted = 0
        for (inputs, target), examples in zip(self.batches, self._sizes, strict=True):
            with torch.set_grad_enabled(bool(self._differentiates)):
                output = self.run(self.model, inputs)
                value = one_number(self.loss_fn(output, target)).detach()
            loss = loss + value.double() * examples
            right = _right(output, target)
            if right is not None:
                wrong, counted = wrong + (~right).sum(), counted + right.numel()
        return float(loss) / self.examples, int(wrong) / counted if counted else None

    def joint_sphere(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the scale-invariant parameters of the user's model, from the first batch."""
        return joint_sphere(model, self.batches[0][0], forward=self.forward, examples=self._sizes[0])

    def run(self, model: nn.Module, inputs: Any) -> Any:
        """The output of the copy, or of another model of its kind, for the inputs of a batch."""
        return call(model, inputs, self.forward)

    def output(self, network: nn.Module, parameters: Mapping[str, Tensor], inputs: Any) -> Any:
        """The output of a network as a function of parameters."""
        return call_with(Called(network, self.forward), parameters, inputs)

    def place(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> nn.Module:
        """Put the private copy at a point, batch norms set up as the mode says, and return it."""
        if self._differentiates is None:
            self._differentiates = self._needs_gradients()
        with torch.no_grad():
            for named, new in ((self.model.named_parameters(), parameters), (self.model.named_buffers(), buffers)):
                for name, tensor in named:
                    if name in new:
                        tensor.copy_(new[name])
        self.model.eval()
        if self.mode == "reestimate":
            with torch.set_grad_enabled(bool(self._differentiates)):
                self._unlike = whole_statistics(
                    self.model, self.statistics, lambda model, pair: self.run(model, pair[0]), self._unlike
                )
        elif self.mode == "train":
            for norm in self.norms:
                norm.training = True
        return self.model

    def _needs_gradients(self) -> bool:
        """Whether the forward pass or the loss differentiates."""
        inputs, target = self.batches[0]
        for gradients in (False, True):
            try:
                with torch.set_grad_enabled(gradients):
                    self.loss_fn(self.run(self.model, inputs), target)
            except RuntimeError:
                continue
            except Exception:  # whatever is wrong shows where it matters
                return False
            return gradients
        return False

    def check(self) -> None:
        """Refuse a loss or model that cannot be measured, at the first point: two passes over the first batch.

        Raises:
            ValueError: The loss is no mean or reads parameters by itself, or the model is not deterministic.
            TypeError: The loss is not a tensor of real floating point.
        """
        if self._watched is None:
            return
        watched, self._watched = self._watched, None
        inputs, target = self.batches[0]
        with torch.enable_grad():
            with watched:
                first = self.run(self.model, inputs)
                loss = one_number(self.loss_fn(first, target))
            watched.ends_of(loss)
            watched.refuse()
            second = self.run(self.model, inputs)
            losses = float(loss.detach()), float(one_number(self.loss_fn(second, target)).detach())
            outputs = tuple(out.detach() if isinstance(out, Tensor) else out for out in (first, second))
            check_deterministic((outputs[0], outputs[1]), losses, self._precision)
            alone = len(self.batches) == 1
            check_mean(self.loss_fn, outputs[0], target, losses[0], self._sizes[0], self._precision, alone=alone)


def _right(output: Any, target: Any) -> Tensor | None:
    """Which predictions are right, or None if the targets are not classes."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or output.dim() < 2 or output.shape[1] < 2:
        return None
    if target.is_floating_point() or target.is_complex() or output.shape[:1] + output.shape[2:] != target.shape:
        return None
    return output.argmax(1) == target
