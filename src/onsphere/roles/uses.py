"""How a model uses each of its parameters in one forward pass.

A copy of the model runs on one batch while every torch function is looked at. What is computed from parameters alone
(a transpose, a cast, 1 + w, a mask times w) stands for these parameters; where it meets what depends on the input, its
use is noted: looked up, multiplied as a matrix, multiplied number by number, added. Products with matrices are followed
to where they end: in the model's output, or in a choice of the largest (a router).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from onsphere.functional.nests import tensors_in, tensors_outside_objects
from onsphere.functional.untouched import eager, private_copy, untouched_random_state
from onsphere.functional.wrappers import unwrapped

__all__ = ["Use", "uses_of"]

Use = Literal["lookup", "pick", "matrix", "filter", "gain", "bias", "token", "offset", "other", "output", "choice"]

_MATRIX = frozenset(
    (
        *("linear", "bilinear", "addmm", "matmul", "mm", "bmm", "baddbmm", "einsum", "tensordot", "dot", "mv", "addmv"),
        *("multi_head_attention_forward", "grouped_mm", "rmatmul", "chain_matmul"),
        *("cosine_similarity", "cdist", "pairwise_distance"),
        *("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    )
)
#: Products of two, in which a vector is multiplied and not added.
_PLAIN = frozenset(("matmul", "rmatmul", "mv", "dot", "einsum", "tensordot"))
_FILTER = frozenset(f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3))
#: Functions that take a gain and a bias of their own, and where these stand.
_NORMS = {
    "layer_norm": (2, 3),
    "group_norm": (2, 3),
    "batch_norm": (3, 4),
    "instance_norm": (3, 4),
    "rms_norm": (2, -1),
}
_LOOKUP = frozenset(("embedding", "embedding_bag", "getitem", "index_select", "gather", "take_along_dim", "take"))
_GAIN = frozenset(("mul", "rmul", "imul", "multiply", "div", "truediv", "rtruediv", "prelu", "lerp"))
_BIAS = frozenset(("add", "radd", "iadd", "sub", "rsub", "isub", "subtract"))
_TOKEN = frozenset(("cat", "concat", "concatenate", "stack", "where", "scaled_dot_product_attention", "masked_scatter"))
#: After these, scores are still the scores of the product before.
_SCORES = frozenset(
    ("softmax", "log_softmax", "sigmoid", "float", "to", "type_as", "view", "reshape", "flatten", "double")
)
#: After these, a picked matrix is still the same matrix.
_SAME = frozenset(
    ("t", "transpose", "permute", "float", "to", "double", "contiguous", "squeeze", "unsqueeze", "get", "chunk")
)
#: These give their first argument the form of the second, whatever that depends on.
_CARRIED = frozenset(("type_as", "expand_as", "view_as", "reshape_as", "to"))
#: Choices by rank; a maximum alone is a pooling.
_CHOICE = frozenset(("topk", "argmax", "argsort"))


@dataclass(frozen=True)
class _Trace:
    """What is known of a tensor.

    Attributes:
        parameters: The parameters that it is computed from alone, or one of whose matrices it is (an expert's).
        live: Whether it depends on the input.
        last: The matrices whose product it holds with no matrix after them.
        scores: Those whose scores it is, number by number.
    """

    parameters: frozenset[int] = frozenset()
    live: bool = False
    last: frozenset[int] = frozenset()
    scores: frozenset[int] = frozenset()


_NOTHING = _Trace()


def uses_of(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    output: Callable[[Any], Any] | None = None,
) -> dict[str, frozenset[Use]]:
    """The uses of every trainable parameter, by name; without a use, the empty set.

    Args:
        model: Any module; a copy of it runs, in evaluation mode, and it stays as it is.
        args: Positional arguments of one call.
        kwargs: Keyword arguments of the same call.
        output: Picks what counts as the model's output; None takes every tensor in it (not those within objects).

    Raises:
        ValueError: The forward pass fails.
    """
    inner = unwrapped(model)
    copied = private_copy(inner)
    named = [name for name, p in model.named_parameters() if p.requires_grad]
    trainable = [p.requires_grad for p in inner.parameters()]
    twins = [twin for twin, counts in zip(copied.parameters(), trainable, strict=True) if counts]
    watch = _Watch(twins)
    try:
        with untouched_random_state(model), torch.no_grad(), eager():
            for tensor in tensors_in((tuple(args), dict(kwargs))):
                watch.put(tensor, _Trace(live=True))
            with watch:
                result = copied(*args, **kwargs)
            if output is not None:
                result = output(result)
    except Exception as error:
        raise ValueError(
            f"the forward pass failed on the batch given ({type(error).__name__}: {error}); give the arguments of one "
            "ordinary call"
        ) from error
    for tensor in tensors_outside_objects(result):
        last = watch.of(tensor).last
        if len(last) == 1:  # of a sum of several, as a residual stream is, none is the head
            watch.uses[next(iter(last))].add("output")
    return {name: frozenset(watch.uses[i]) for i, name in enumerate(named)}


class _Watch(TorchFunctionMode):
    """Follows parameters and what is computed from them through torch functions."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.uses: list[set[Use]] = [set() for _ in parameters]
        self._parameters = parameters
        # The tensor too: an id is only good while it lives.
        self._traces: dict[int, tuple[Tensor, _Trace]] = {}
        for i, p in enumerate(parameters):
            self.put(p, _Trace(parameters=frozenset([i])))

    def of(self, tensor: Tensor) -> _Trace:
        """What is known of a tensor."""
        return self._traces.get(id(tensor), (tensor, _NOTHING))[1]

    def put(self, tensor: Tensor, trace: _Trace) -> None:
        """Remember what is known of a tensor."""
        self._traces[id(tensor)] = (tensor, trace)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch function and note what it does with parameters."""
        kwargs = kwargs or {}
        before = [(t, self.of(t)) for t in tensors_outside_objects((args, kwargs))]
        result = func(*args, **kwargs)
        made = list(tensors_outside_objects(result))
        if not made or all(trace == _NOTHING for _, trace in before):
            return result
        name = getattr(func, "__name__", "").strip("_")
        live = any(trace.live for _, trace in before)
        given = [(t, trace) for t, trace in before if trace.parameters and (not trace.live or name in _MATRIX)]
        if name in _CARRIED and before[0][1].parameters and not before[0][1].live:
            live = False
        looked_up = name in _LOOKUP and name != "getitem" and bool(given)
        if not live and not looked_up:
            if name in _BIAS and len(before) == 1:  # a gain that is stored as its distance from one
                for i in before[0][1].parameters:
                    self.uses[i].add("offset")
            alone = _Trace(parameters=frozenset().union(*(trace.parameters for _, trace in before)))
            for tensor in made:
                self.put(tensor, alone)
            return result
        matrices = frozenset[int]()
        for tensor, trace in given:
            use = self._use(name, tensor, args, kwargs)
            for i in trace.parameters:
                own = self._own(use, i, alone=len(trace.parameters) == 1)
                if own is not None:
                    self.uses[i].add(own)
                if own in ("matrix", "filter"):
                    matrices |= {i}
        scores = frozenset().union(*(trace.scores for _, trace in before))
        if name in _CHOICE:
            for i in scores:
                self.uses[i].add("choice")
        picked = frozenset(i for _, trace in given for i in trace.parameters if "pick" in self.uses[i])
        last = matrices or frozenset().union(*(trace.last for _, trace in before))
        kept = matrices or (scores if name in _SCORES or name in _BIAS or not _two(before) else frozenset())
        for tensor in made:
            # A matrix of a stack is still one; what passes on such a one (a cast, a transpose) keeps it.
            handed = picked if name in _LOOKUP else _passed_on(before, name)
            self.put(tensor, _Trace(handed, live=True, last=last, scores=kept))
        return result

    def _use(self, name: str, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Use | None:
        if name in _NORMS:
            gain, bias = _NORMS[name]
            places = {gain: "gain", bias: "bias"}
            for place, arg in enumerate(args):
                if arg is tensor and place in places:
                    return "gain" if place == gain else "bias"
            return "gain" if kwargs.get("weight") is tensor else "bias" if kwargs.get("bias") is tensor else None
        if name in _MATRIX or name in _FILTER:
            if tensor.dim() < 2 and name not in _PLAIN:
                return "bias"
            return "filter" if name in _FILTER else "matrix"
        if name in _LOOKUP:
            return "pick" if tensor.dim() > 2 else "lookup"
        wide = tensor.dim() > 1 and sum(size > 1 for size in tensor.shape) > 1
        if name in _GAIN:
            return "gain" if not wide else "other"
        if name in _BIAS:
            return "token" if wide else "bias"
        if name in _TOKEN:
            return "token"
        return "other"

    def _own(self, use: Use | None, index: int, *, alone: bool) -> Use | None:
        """The use of one of several parameters that make a matrix together: a magnitude is a gain."""
        if use in ("matrix", "filter") and not alone:
            shape = self._parameters[index].shape
            return use if sum(size > 1 for size in shape) > 1 else "gain"
        return use


def _two(before: Sequence[tuple[Tensor, _Trace]]) -> bool:
    return sum(trace.live for _, trace in before) > 1


def _passed_on(before: Sequence[tuple[Tensor, _Trace]], name: str) -> frozenset[int]:
    """The matrix that a function of one tensor, which is one, hands on."""
    traces = [trace for _, trace in before]
    return traces[0].parameters if len(traces) == 1 and name in _SAME else frozenset()
