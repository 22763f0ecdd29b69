"""An ensemble as one module: the members' weights stacked, all members run at once, probabilities averaged.

    log p(c | x) = logsumexp_i log softmax(f_i(x))_c - log n

One network's code runs under ``torch.func.vmap`` over the stacked weights, so that n small matrix products become one
batched product. The members are always in evaluation mode: batch norm uses its running statistics. Without gradients a
shape of input that comes again is traced into a flat list of operations (:mod:`onsphere.tracing`), which leaves out
the cost of vmap and of the members' Python.

Where their code does not run under vmap (recurrent layers, ``.item()``, branches on numbers, TorchScript) the members
run one after another; a warning says so once, and ``repr`` from then on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import vmap

from onsphere.ensembles._members import OutputError, called, evaluated, is_scripted, logits_of, views
from onsphere.functional.copying import duplicate
from onsphere.functional.recomputation import without_recomputation
from onsphere.tracing import trace

__all__ = ["Ensemble"]

MOST_PROGRAMS = 8  # shapes of input that are traced; further ones run untraced
UNTRACED = "untraced"  # stands for the program of a shape that came once


class Ensemble(nn.Module):
    """Members of one architecture as one module: their input [batch, ...] in, log-probabilities [batch, classes] out.

    Make it with :meth:`from_members` or :meth:`from_stacked`. ``state_dict()`` holds every tensor once, the members
    as its first dimension; ``to(...)``, ``torch.compile`` and ``torch.export`` work as for any module. Whatever
    ``train()`` is called with, the members stay in evaluation mode.
    """

    def __init__(self, stacked: nn.Module, members: int) -> None:
        super().__init__()
        self.stacked, self.members = stacked, members
        self._programs: dict[Any, Any] = {}  # by what an input is like
        self._sequential: str | None = None  # why the members run one after another
        self._views: list[nn.Module] = []  # of scripted members
        self.train(False)

    @classmethod
    def from_members(cls, members: Sequence[nn.Module]) -> Self:
        """Stack the weights of trained networks.

        Args:
            members: At least one; all of one architecture, data type and device. They are copied and stay as they are.

        Raises:
            ValueError: No members, different architectures, or weights that are not finite; the message names the
                member.
            TypeError: Something else than modules.

        Source:
            Chirkova et al. 2020 (averaged probabilities).
        """
        members = list(members)
        if not members:
            raise ValueError("there are no members; an ensemble needs at least one")
        for i, member in enumerate(members):
            if not isinstance(member, nn.Module):
                raise TypeError(f"member {i} is a {type(member).__name__}; members must be torch.nn.Module")
            _check_alike(members[0], member, i)
        each = [_tensors(member) for member in members]
        return cls.from_stacked(members[0], {name: torch.stack([t[name] for t in each]) for name in each[0]})

    @classmethod
    def from_stacked(cls, template: nn.Module, tensors: Mapping[str, Tensor]) -> Self:
        """Put stacked weights into an architecture.

        Args:
            template: A network of the architecture; copied, its own weights are not used.
            tensors: Every parameter and buffer of the template by name, each ``[members, ...]``.

        Raises:
            ValueError: Names or shapes that do not belong to the template, or values that are not finite; the message
                names them.
        """
        own = _tensors(template)
        if missing := [name for name in own if name not in tensors]:
            raise ValueError(f"no tensor {missing[0]!r} is given, which the architecture has")
        if unknown := [name for name in tensors if name not in own]:
            raise ValueError(f"tensor {unknown[0]!r} is given, which the architecture does not have")
        if not own:
            raise ValueError("the architecture has no parameters; its members would all be the same")
        members = tensors[next(iter(own))].shape[:1]
        for name, value in own.items():
            if tensors[name].shape != (*members, *value.shape) or not members[0]:
                raise ValueError(
                    f"tensor {name!r} has shape {tuple(tensors[name].shape)}; it must be [members, "
                    f"{', '.join(map(str, value.shape))}] with the same number of members, at least 1, for all"
                )
        _check_finite(tensors)
        stacked = evaluated(duplicate(template))
        for name, value in _tensors(stacked).items():
            value.data = tensors[name].detach().clone()  # a shared parameter stays shared
        return cls(stacked, members[0])

    def tensors(self) -> dict[str, Tensor]:
        """The members' parameters and buffers by the names of one member, each ``[members, ...]``."""
        return _tensors(self.stacked)

    def train(self, mode: bool = True) -> Self:
        """As for any module, but the members stay in evaluation mode."""
        super().train(mode)
        self.stacked.eval()
        return self

    def member_logits(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits of every member, ``[members, batch, classes]``.

        Args:
            *args: What one member takes: ``[batch, ...]``, and further inputs, if any.
            **kwargs: Further inputs by name.

        Raises:
            ValueError: A member's output neither is nor has, as ``logits``, ``[batch, classes]`` with at least two
                classes.

        Warns:
            UserWarning: The members' code does not run under vmap; once.
        """
        return self._logits(self.tensors(), args, kwargs)

    def _logits(self, tensors: dict[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        # A compiler has its own way with recomputation; with the members' weights handed over there is none.
        with nullcontext() if torch.compiler.is_compiling() else without_recomputation():
            return self._together(tensors, args, kwargs)

    def _together(self, tensors: dict[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        if self._sequential is not None:
            return self._one_after_another(tensors, args, kwargs)
        try:
            stacked: Tensor = vmap(lambda own: logits_of(called(self.stacked, own, args, kwargs)))(tensors)
            return stacked
        except OutputError:
            raise
        except Exception as error:
            found = self._one_after_another(tensors, args, kwargs)  # what fails here as well is theirs to see
            text = str(error).strip()
            self._sequential = text.splitlines()[0] if text else type(error).__name__
        self._programs.clear()
        warnings.warn(
            f"the members run one after another, because their code does not run under torch.vmap: {self._sequential}",
            UserWarning,
            stacklevel=4,
        )
        return found

    def _one_after_another(
        self, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor:
        if is_scripted(self.stacked):
            self._views = self._views or views(self.stacked, self.members)
            return torch.stack([logits_of(member(*args, **kwargs)) for member in self._views])
        each = [{name: value[i] for name, value in tensors.items()} for i in range(self.members)]
        return torch.stack([logits_of(called(self.stacked, own, args, kwargs)) for own in each])

    def member_log_probabilities(self, *args: Any, **kwargs: Any) -> Tensor:
        """Log-probabilities of every member, ``[members, batch, classes]``; arguments as :meth:`member_logits`."""
        return self.member_logits(*args, **kwargs).log_softmax(-1)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Log of the averaged probabilities, ``[batch, classes]``; arguments as :meth:`member_logits`."""
        plain = len(args) == 1 and not kwargs and self._sequential is None and not _differs(args[0])
        program = self._program(args[0]) if plain else None
        if program is None:
            return averaged(self.member_log_probabilities(*args, **kwargs))
        result: Tensor = program(list(self.tensors().values()), args[0])
        return result

    def _program(self, x: Tensor) -> Any:
        """What is traced for inputs like this one; None where it comes first, is one too many, or cannot be traced."""
        key = (x.shape, x.stride(), x.dtype, x.device)
        if key not in self._programs:
            if len(self._programs) < MOST_PROGRAMS:
                self._programs[key] = UNTRACED
            return None
        if self._programs[key] is UNTRACED:
            tensors = self.tensors()

            def predict(values: list[Tensor], x: Tensor) -> Tensor:
                return averaged(self._logits(dict(zip(tensors, values, strict=True)), (x,), {}).log_softmax(-1))

            try:
                self._programs[key] = trace(predict, list(tensors.values()), x)
            except Exception:  # whatever tracing cannot take runs untraced
                self._programs[key] = None
        return self._programs[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_programs": {}, "_views": []}  # a copy or a file holds no programs

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._programs.clear()  # the members may move, or change their type
        self._views.clear()
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def export(self, path: str | PathLike[str], example: Tensor, *, dynamic_batch: bool = True) -> None:
        """Write a file that computes :meth:`forward` with torch alone, without onsphere or the members' code.

        ``torch.export.load(path).module()`` is the module that it holds. Where the members' code under vmap fixes the
        batch size, as convolutions do in torch, the file runs the members one after another.

        Args:
            path: Name of the file; by custom it ends in ``.pt2``.
            example: An input ``[batch, ...]`` of the type and device to be used; only its shape matters.
            dynamic_batch: Whether the file takes any batch size, or the example's alone.

        Raises:
            ValueError: The example has no batch dimension or is empty, the network's code does not allow any batch
                size, or ``path`` is there and no regular file.
        """
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError(f"{path} is there and is no regular file (a folder, a device): give the path of a file")
        if example.ndim < 1 or not len(example):
            raise ValueError(f"example has shape {tuple(example.shape)}; it must be [batch, ...] with a batch above 0")
        shapes: Any = None
        if dynamic_batch:
            if len(example) < 2:  # torch takes a size of 1 for a constant
                example = torch.cat([example, example])
            shapes = {"x": {0: torch.export.Dim("batch")}}
        with torch.no_grad():
            self.member_logits(example)  # finds out whether vmap takes them
        modules: tuple[nn.Module, ...] = (self, _OneAfterAnother(self)) if dynamic_batch else (self,)
        for module in modules:
            try:
                with torch.no_grad():
                    program = torch.export.export(module, (example,), dynamic_shapes=shapes)
                break
            except torch._dynamo.exc.UserError as error:
                reason = str(error).strip().splitlines()[0]
        else:
            advice = "; dynamic_batch=False fixes the example's" if dynamic_batch else ""
            raise ValueError(f"the members' code cannot be exported: {reason}{advice}")
        torch.export.save(program, path)

    def extra_repr(self) -> str:
        """What ``repr`` shows besides the architecture."""
        order = "" if self._sequential is None else f", one after another: {self._sequential}"
        return f"members={self.members}{order}"


def averaged(log_probabilities: Tensor) -> Tensor:
    """Log of the mean over the first dimension; ``torch.logsumexp`` takes twice as long, for infinities."""
    least = torch.finfo(log_probabilities.dtype).min
    top = log_probabilities.detach().amax(0).clamp_min(least)
    return (log_probabilities - top).exp().sum(0).log() + (top - math.log(len(log_probabilities)))


def _differs(x: Tensor) -> bool:
    """Whether a call means more than its input's numbers, so that no program recorded before may stand for it."""
    inside = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)
    return inside or type(x) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(x)


class _OneAfterAnother(nn.Module):
    """The same function with the members unrolled, for export: convolutions under vmap fix the batch size."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, x: Tensor) -> Tensor:
        logits = self.ensemble._one_after_another(self.ensemble.tensors(), (x,), {})
        return averaged(logits.log_softmax(-1))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _check_alike(first: nn.Module, other: nn.Module, number: int) -> None:
    """ValueError unless ``other`` has the modules, settings, shapes, types and device of the first member."""
    problem = f"members must have one architecture, and member {number} differs from member 0"
    ours = {name: f"{type(m).__name__}({m.extra_repr()})" for name, m in first.named_modules()}
    theirs = {name: f"{type(m).__name__}({m.extra_repr()})" for name, m in other.named_modules()}
    for name in [*ours, *theirs]:
        a, b = ours.get(name, "nothing"), theirs.get(name, "nothing")
        if a != b:
            raise ValueError(f"{problem}: {name or 'the network'} is {b}, not {a}")
    for (name, a_module), (_, b_module) in zip(first.named_modules(), other.named_modules(), strict=True):
        held = {key for key, value in vars(a_module).items() if isinstance(value, Tensor)}
        for key in sorted(held):
            ours_held, theirs_held = vars(a_module)[key], vars(b_module).get(key)
            if not isinstance(theirs_held, Tensor) or not torch.equal(ours_held, theirs_held):
                where = f"{name}.{key}" if name else key
                raise ValueError(
                    f"{problem}: {where} is another tensor, which is neither a parameter nor a buffer and so cannot be "
                    "stacked; register it as a buffer"
                )
    a_tensors, b_tensors = _tensors(first), _tensors(other)
    for name in [*a_tensors, *b_tensors]:
        found = [
            f"{list(t[name].shape)} {t[name].dtype} on {t[name].device}" if name in t else "absent"
            for t in (a_tensors, b_tensors)
        ]
        if found[0] != found[1]:
            raise ValueError(f"{problem}: {name} is {found[1]}, not {found[0]}")


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.is_meta or not value.is_floating_point():
            continue
        bad = (~torch.isfinite(value)).reshape(len(value), -1).any(1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"member{'s' * (len(bad) > 1)} {', '.join(map(str, bad[:5]))} failed to train: {name} is not finite; "
                "leave such members out"
            )
