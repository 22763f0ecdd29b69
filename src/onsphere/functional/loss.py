"""The loss of a model on given batches as a pure function of selected parameters; the model itself is never touched.

    L(w) = sum_i (n_i / N) loss_fn(model(x_i; w), y_i),         n_i examples in batch i, N in all

A :class:`Functional` owns a copy of the model's structure that shares the tensors but none of the flags. In mode
"train" batch norms use the statistics of each batch, in mode "eval" the running ones; everything else, dropout above
all, is in evaluation mode in both. Buffers are handed over as copies, so whatever a forward pass writes is thrown away,
and the random state is given back. A loss or forward pass that reads the model's parameters by itself is refused
(:mod:`onsphere.functional.reads`); one that differentiates is not, and gets norms with derivatives of every order
(:mod:`onsphere.functional.norms`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from onsphere.functional.batches import Batches, Called, Forward, aliases, as_batches, call_with, examples_in, placed
from onsphere.functional.checks import LossFunction, check_deterministic, check_mean, one_number, precision_of
from onsphere.functional.copying import refuse
from onsphere.functional.norms import NormsWrittenOut, differentiates_norms
from onsphere.functional.reads import ParameterReads
from onsphere.functional.recomputation import without_recomputation
from onsphere.functional.selection import Selection, check_finite, select_parameters
from onsphere.functional.untouched import shared_copy, untouched_random_state
from onsphere.functional.wrappers import matched_names, unwrapped

__all__ = ["Functional", "LossFunction", "Mode"]

Mode = Literal["train", "eval"]


class Functional:
    """A model's loss as a function of some of its parameters.

    Args:
        model: Any module; it stays as it is.
        loss_fn: ``loss_fn(output, target)``, a mean over examples, 0-d.
        batches: An iterable of ``(input, target)``, or one such pair (:mod:`onsphere.functional.batches`). It is read
            once and kept. A tuple or list of inputs is passed as positional arguments, a dictionary as keyword
            arguments.
        parameters: The parameters to look at (:mod:`onsphere.functional.selection`). None: all that require a gradient.
        sphere: The parameters are one point of a sphere, and have to be named here
            (:class:`onsphere.curvature.Functional` finds them). Nothing else depends on it.
        mode: ``train``: batch norms use each batch's statistics. ``eval``: the running ones.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Attributes:
        names: The selected parameters, in registration order.
        size: P, how many numbers they hold.
        slices: Where each lies in the flat vector ``[P]``.
        batches: The pairs (input, target), as a list.
        examples: How many examples each batch has.
        shares: Each batch's share n_i / N of the examples.

    Raises:
        ValueError: There are no batches, no parameters, weights or losses that are not finite; the model is not
            deterministic; the loss is not a mean over examples (with one batch: not any kind of average); the loss or
            the forward pass reads parameters of ``model`` by itself; an unknown mode or name.
        TypeError: A batch is not a pair, or the loss is not a 0-d tensor of real floating point.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: Batches,
        parameters: Selection = None,
        *,
        sphere: bool = False,
        mode: Mode = "train",
        forward: Forward | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
        model = unwrapped(model)
        self.batches = placed(as_batches(batches, model, forward=forward), model)
        self._given = [aliases(pair) for pair in self.batches]
        self.examples = [examples_in(x, y, i) for i, (x, y) in enumerate(self.batches)]
        self.shares = [n / sum(self.examples) for n in self.examples]
        self.loss_fn, self.mode, self.sphere = loss_fn, mode, sphere
        if sphere and parameters is None:
            parameters = self._sphere_of(model, self.batches[0][0], forward)
        self.names = select_parameters(model, parameters)
        self._values = {n: p.detach().clone() for n, p in model.named_parameters()}
        self._buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
        refuse(model)
        check_finite(self._values)
        every = model.named_parameters(remove_duplicate=False)
        first = {id(p): name for name, p in model.named_parameters()}
        self._aliases = {name: first[id(p)] for name, p in every}  # tied parameters have several names
        self._network = Called(shared_copy(model, mode), forward)
        self._kept = {name for name, _ in self._network.model.named_buffers()}
        self._written_out = False
        selected = [self._values[name] for name in self.names]
        self.shapes = [p.shape for p in selected]
        self._dtypes = [p.dtype for p in selected]
        self._devices = [p.device for p in selected]
        self.device, self.dtype = selected[0].device, max(self._dtypes, key=lambda d: torch.finfo(d).bits)
        self._uniform = len(set(self._dtypes)) == len(set(self._devices)) == 1
        ends = list(itertools.accumulate(p.numel() for p in selected))
        self.size = ends[-1]
        self.slices = {n: slice(e - p.numel(), e) for n, p, e in zip(self.names, selected, ends, strict=True)}
        self._check(model)

    def _sphere_of(self, model: nn.Module, inputs: Any, forward: Forward | None) -> tuple[str, ...]:
        """The parameters of the sphere where none were named."""
        raise ValueError("name the parameters on the sphere with `parameters`")

    # -- vectors -------------------------------------------------------------------------------------------

    def values(self) -> dict[str, Tensor]:
        """All parameters of the model as they were at construction, by name (do not change them in place)."""
        return dict(self._values)

    def selected(self, values: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """The selected parameters, at construction or of ``values``; detached."""
        source = self._values if values is None else {**self._values, **values}
        return [source[name].detach() for name in self.names]

    def flatten(self, tensors: Iterable[Tensor], dtype: torch.dtype | None = None) -> Tensor:
        """Tensors of the selected parameters' shapes as one vector ``[P]``."""
        if self._uniform:
            return torch.cat([t.reshape(-1) for t in tensors]).to(dtype or self.dtype)
        return torch.cat([t.reshape(-1).to(self.device, dtype or self.dtype) for t in tensors])

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """A vector ``[P]`` as tensors of the selected parameters' shapes, dtypes and devices."""
        if self._uniform:
            cut = torch.split_with_sizes(vector.to(self.device, self.dtype), [shape.numel() for shape in self.shapes])
            return [part.view(shape) for part, shape in zip(cut, self.shapes, strict=True)]
        parts = (vector[where] for where in self.slices.values())
        return [
            part.reshape(shape).to(device, dtype)
            for part, shape, device, dtype in zip(parts, self.shapes, self._devices, self._dtypes, strict=True)
        ]

    def named(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values under the model's own names: prefixes of wrappers left out, tied ones under their first name.

        Raises:
            ValueError: A name that the model does not have.
        """
        known = {**self._aliases, **{name: name for name in self._buffers}}
        matched = matched_names(values, known)
        if unknown := [name for name in matched if name not in known]:
            raise ValueError(
                f"the values hold {unknown[0]!r}, which the model does not have; "
                f"it has {', '.join(list(known)[:6])}, ..."
            )
        return {known[name]: value for name, value in matched.items()}

    # -- the loss ------------------------------------------------------------------------------------------

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Gradients on, nothing recomputed, and the random states given back afterwards."""
        with (
            untouched_random_state(self._network),
            torch.inference_mode(False),
            torch.enable_grad(),
            without_recomputation(),
        ):
            yield

    def output(self, params: Sequence[Tensor], index: int, values: Mapping[str, Tensor] | None = None) -> Any:
        """What the model gives for batch ``index``.

        Args:
            params: The selected parameters, in the order of ``names``.
            index: The number of the batch.
            values: Other parameters and buffers by name, where they are not to be those at construction.
        """
        state = {**self._values, **self._buffers, **(values or {})}
        for name in self._buffers:
            state[name] = state[name].clone()  # a forward pass may write to it
        state = {name: state[name] for name in state if name in self._values or name in self._kept}
        state.update(zip(self.names, params, strict=True))
        norms = NormsWrittenOut() if self._written_out else nullcontext()
        with sdpa_kernel(SDPBackend.MATH), norms:  # the only attention kernel with second derivatives everywhere
            return call_with(self._network, state, self._given[index][0])

    def loss(self, params: Sequence[Tensor], index: int, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss of batch ``index``, 0-d, differentiable by ``params``."""
        with self.guard():
            return self.loss_of(self.output(params, index, values), index)

    def loss_of(self, output: Any, index: int) -> Tensor:
        """The loss of batch ``index`` for an output of the model, 0-d and finite."""
        with NormsWrittenOut() if self._written_out else nullcontext():
            loss = one_number(self.loss_fn(output, self._given[index][1]))
        if not bool(torch.isfinite(loss.detach())):
            raise ValueError(
                f"the loss of batch {index} is {float(loss.detach())}; there is no curvature at such weights"
            )
        return loss

    def gradient(self, index: int, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """The Euclidean gradient ``[P]`` of the loss of batch ``index``; zero where the loss does not depend."""
        with self.guard():
            params = [p.clone().requires_grad_() for p in self.selected(values)]
            return self.flatten(gradients(self.loss(params, index, values), params))

    # -- checks --------------------------------------------------------------------------------------------

    def _check(self, model: nn.Module) -> None:
        """Two passes over the first batch, with gradients as some forward passes need them."""
        with self.guard():
            params = [p.clone().requires_grad_() for p in self.selected()]
            watched = ParameterReads(model)
            with watched:
                first = self.output(params, 0)
                loss = self.loss_of(first, 0)
            watched.ends_of(loss)
            watched.refuse()
            self._written_out = differentiates_norms(loss)
            second = self.output(params, 0)
            losses = float(loss.detach()), float(self.loss_of(second, 0).detach())
            precision = precision_of(self.dtype)
            check_deterministic((_detached(first), _detached(second)), losses, precision)
            target, alone = self._given[0][1], len(self.batches) == 1
            check_mean(self.loss_fn, _detached(first), target, losses[0], self.examples[0], precision, alone=alone)


def gradients(loss: Tensor, params: Sequence[Tensor], **kwargs: Any) -> list[Tensor]:
    """Gradients of ``loss`` by every parameter; zeros for those it does not depend on."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in params]
    found = torch.autograd.grad(loss, params, allow_unused=True, **kwargs)
    dense = [g.to_dense() if g is not None and g.is_sparse else g for g in found]
    return [torch.zeros_like(p) if g is None else g for g, p in zip(dense, params, strict=True)]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
