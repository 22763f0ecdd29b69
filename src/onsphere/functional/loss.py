"""The loss of a model on given batches as a pure function of selected parameters; the model itself is never touched.

    L(w) = sum_i (n_i / N) loss_fn(model(x_i; w), y_i),         n_i examples in batch i, N in all

A :class:`Functional` owns a copy of the model's structure that shares the tensors but none of the flags. In mode
"train" batch norms use the statistics of each batch, in mode "eval" the running ones; everything else, dropout above
all, is in evaluation mode in both. Buffers are handed over as copies, so whatever a forward pass writes is thrown away,
and the random state is given back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from onsphere.functional.batches import as_batches, call_arguments, examples_in
from onsphere.functional.copying import refuse
from onsphere.functional.recomputation import without_recomputation
from onsphere.functional.selection import Selection, check_finite, select_parameters
from onsphere.functional.untouched import shared_copy, untouched_random_state
from onsphere.functional.wrappers import matched_names, unwrapped
from onsphere.symmetry.sphere_groups import joint_sphere

__all__ = ["Functional", "Mode"]

Mode = Literal["train", "eval"]
LossFunction = Callable[[Any, Any], Tensor]


class Functional:
    """A model's loss as a function of some of its parameters.

    Args:
        model: Any module.
        loss_fn: ``loss_fn(output, target)``, a mean over examples, 0-d.
        batches: An iterable of ``(input, target)``, or one such pair. It is read once and kept. A tuple or list of
            inputs is passed as positional arguments, a dictionary as keyword arguments.
        parameters: Which ones (:mod:`onsphere.functional.selection`). None: all that require a gradient; with
            ``sphere`` all that are scale-invariant.
        sphere: The parameters are one point of a sphere. Nothing here depends on it but the default of ``parameters``.
        mode: ``train``: batch norms use each batch's statistics. ``eval``: the running ones.

    Attributes:
        names: The selected parameters, in registration order.
        size: P, how many numbers they hold.
        slices: Where each lies in the flat vector ``[P]``.
        batches: The pairs.
        examples: How many examples each has.
        shares: n_i / N.

    Raises:
        ValueError: There are no batches, no parameters, weights or losses that are not finite; the model is not
            deterministic; the loss is not a mean over examples (with one batch: not any kind of average); an unknown
            mode or name.
        TypeError: A batch is not a pair, or the loss is not a 0-d tensor of real floating point.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: Any,
        parameters: Selection = None,
        *,
        sphere: bool = False,
        mode: Mode = "train",
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
        model = unwrapped(model)
        self.batches = as_batches(batches)
        self.examples = [examples_in(x, y, i) for i, (x, y) in enumerate(self.batches)]
        self.shares = [n / sum(self.examples) for n in self.examples]
        self.loss_fn, self.mode, self.sphere = loss_fn, mode, sphere
        if sphere and parameters is None:
            self.names = joint_sphere(model, self.batches[0][0])
        else:
            self.names = select_parameters(model, parameters)
        self._values = {n: p.detach().clone() for n, p in model.named_parameters()}
        self._buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
        refuse(model)
        check_finite(self._values)
        every = model.named_parameters(remove_duplicate=False)
        first = {id(p): name for name, p in model.named_parameters()}
        self._aliases = {name: first[id(p)] for name, p in every}  # tied parameters have several names
        self._network = shared_copy(model, mode)
        self._kept = {name for name, _ in self._network.named_buffers()}
        selected = [self._values[name] for name in self.names]
        self.shapes = [p.shape for p in selected]
        self._dtypes = [p.dtype for p in selected]
        self._devices = [p.device for p in selected]
        self.device, self.dtype = selected[0].device, max(self._dtypes, key=lambda d: torch.finfo(d).bits)
        self._uniform = len(set(self._dtypes)) == len(set(self._devices)) == 1
        ends = list(itertools.accumulate(p.numel() for p in selected))
        self.size = ends[-1]
        self.slices = {n: slice(e - p.numel(), e) for n, p, e in zip(self.names, selected, ends, strict=True)}
        self._check()

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
            params: The selected parameters.
            index: Which batch.
            values: Other parameters and buffers by name, where they are not to be those at construction.
        """
        args, kwargs = call_arguments(self.batches[index][0])
        state = {**self._values, **self._buffers, **(values or {})}
        for name in self._buffers:
            state[name] = state[name].clone()  # a forward pass may write to it
        state = {name: state[name] for name in state if name in self._values or name in self._kept}
        state.update(zip(self.names, params, strict=True))
        with sdpa_kernel(SDPBackend.MATH):  # the only attention kernel with second derivatives everywhere
            return functional_call(self._network, state, args, kwargs)

    def loss(self, params: Sequence[Tensor], index: int, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss of batch ``index``, 0-d, differentiable by ``params``."""
        with self.guard():
            return self.loss_of(self.output(params, index, values), index)

    def loss_of(self, output: Any, index: int) -> Tensor:
        """The loss of batch ``index`` for an output of the model, 0-d and finite."""
        return self._checked_loss(self.loss_fn(output, self.batches[index][1]), index)

    def gradient(self, index: int, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """The Euclidean gradient ``[P]`` of the loss of batch ``index``; zero where the loss does not depend."""
        with self.guard():
            params = [p.clone().requires_grad_() for p in self.selected(values)]
            return self.flatten(gradients(self.loss(params, index, values), params))

    # -- checks --------------------------------------------------------------------------------------------

    def _checked_loss(self, loss: Any, index: int) -> Tensor:
        if not isinstance(loss, Tensor) or not loss.is_floating_point():
            found = f"a tensor of {loss.dtype}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise TypeError(f"loss_fn returned {found}; it must return a 0-d tensor of real floating point")
        if loss.numel() != 1:
            raise ValueError(
                f"loss_fn returned a tensor of shape {tuple(loss.shape)}; it must return one number, the mean over the "
                "examples (reduction='mean')"
            )
        if not bool(torch.isfinite(loss.detach())):
            raise ValueError(
                f"the loss of batch {index} is {float(loss.detach())}; there is no curvature at such weights"
            )
        return loss.reshape(())

    def _check(self) -> None:
        params = self.selected()
        with self.guard(), torch.no_grad():
            first, second = self.output(params, 0), self.output(params, 0)
            target = self.batches[0][1]
            losses = [float(self._checked_loss(self.loss_fn(out, target), 0)) for out in (first, second)]
            precision = 1e3 * torch.finfo(self.dtype).eps
            if abs(losses[0] - losses[1]) > precision * max(abs(losses[0]), abs(losses[1])):
                raise ValueError(
                    f"the model is not deterministic: two forward passes of the same batch give the losses "
                    f"{losses[0]:.9g} and {losses[1]:.9g} (dropout layers are off already); draw no random numbers in "
                    "the forward pass or the loss"
                )
            self._check_mean(first, target, losses[0], precision)

    def _check_mean(self, output: Any, target: Any, whole: float, precision: float) -> None:
        """The loss of the outputs must be the mean of those of their two parts, of 1/3 and 2/3 of the examples."""
        n = self.examples[0]
        if n < 2 or not _splits(output, n) or not _splits(target, n):
            return
        cut = max(1, n // 3)
        try:
            parts = [float(self.loss_fn(output[s], target[s])) for s in (slice(0, cut), slice(cut, n))]
        except (RuntimeError, ValueError, IndexError, TypeError):
            return  # a loss that needs the whole batch
        if not all(map(_finite, parts)):
            return  # every target of a part ignored, for example
        allowed = precision * max(abs(whole), *map(abs, parts))
        mean = (cut * parts[0] + (n - cut) * parts[1]) / n
        if abs(whole - mean) <= allowed:
            return
        if len(self.batches) > 1 or not min(parts) - allowed <= whole <= max(parts) + allowed:
            raise ValueError(
                f"loss_fn is not a mean over examples: it gives {whole:.6g} for {n} examples, and {parts[0]:.6g} and "
                f"{parts[1]:.6g} for the first {cut} and the other {n - cut}, whose mean is {mean:.6g}. Use "
                "reduction='mean' (a weighted average is fine with a single batch)"
            )


def gradients(loss: Tensor, params: Sequence[Tensor], **kwargs: Any) -> list[Tensor]:
    """Gradients of ``loss`` by every parameter; zeros for those it does not depend on."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in params]
    found = torch.autograd.grad(loss, params, allow_unused=True, **kwargs)
    dense = [g.to_dense() if g is not None and g.is_sparse else g for g in found]
    return [torch.zeros_like(p) if g is None else g for g, p in zip(dense, params, strict=True)]


def _splits(value: Any, n: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == n


def _finite(number: float) -> bool:
    return number - number == 0
