"""From a spec to its model and a batch, and from these to the symmetries.

Whatever is wrong with model or batch is an :class:`InputError`, also a :class:`onsphere.SymmetryError`, which says that
this model cannot be answered about with this batch: the folder that was made for it is taken back and the command ends
with status 2. The search is one call, which a resumed run makes again.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import onsphere
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Experiment, Refused, Session
from onsphere.lab.experiments.symmetries.page import printed, report
from onsphere.lab.experiments.symmetries.result import SymmetriesResult
from onsphere.lab.experiments.symmetries.spec import SymmetriesSpec
from onsphere.lab.experiments.symmetries.words import answer, describe
from onsphere.lab.models import MODELS, ModelError, build, resolve
from onsphere.lab.options import InputError
from onsphere.lab.result import elapsed

_LARGE = 3_000_000  # trainable numbers from which a search takes long enough to say that it has begun


@dataclass(frozen=True, eq=False)
class Question:
    """What :func:`onsphere.find_symmetries` is called with.

    Attributes:
        model: The network that is searched.
        inputs: Positional arguments of one call.
        kwargs: Keyword arguments of the same call.
        output: Picks the part of the output to look at, or None.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    output: Callable[[Any], Any] | None


def question(spec: SymmetriesSpec) -> Question:
    """Build the network and draw a batch; the same spec gives the same numbers, and no random state changes.

    A factory of one's own is called without arguments, but for what it requires of ``input_shape`` and ``classes``,
    and what the spec sets of ``width``, ``widths`` and ``eps``.

    Raises:
        InputError: The model cannot be imported or built, or the device cannot be used.
    """
    try:
        model = _built(spec)
    except ModelError as error:
        raise InputError(f"--model: {error}") from error
    if spec.dtype is not None:
        model = model.to(getattr(torch, spec.dtype))
    if spec.device is not None:
        try:
            model = model.to(spec.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"--device: {spec.device!r} is not usable here ({reason}); cpu always is") from None
    positional, keywords = _batch(spec, model)
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        _give_shapes(spec, model, positional, keywords)
    return Question(model, positional, keywords, _picker(spec.output) if spec.output else None)


def measure(session: Session[SymmetriesSpec, Question]) -> dict[str, Any]:
    """Find the symmetries; asked to stop, it does so before the search or after it.

    Raises:
        Refused: The model's symmetries cannot be found with this batch.
        Interrupted: The run was asked to stop.
    """
    spec, asked = session.spec, session.given
    trained = [p.numel() for p in asked.model.parameters() if p.requires_grad]
    if sum(trained) > _LARGE:
        session.progress.note(f"{spec.model}: {sum(trained):,} numbers in {len(trained)} tensors, a backward pass each")
    if session.stop():
        raise Interrupted
    began = time.monotonic()
    arguments: dict[str, Any] = dict(asked.kwargs)
    try:
        found = onsphere.find_symmetries(
            asked.model, *asked.inputs, output=asked.output, rows=spec.rows, unused=spec.unused, **arguments
        )
    except onsphere.SymmetryError as error:
        wrong_output = isinstance(error.__cause__, InputError)  # speaks for itself
        raise Refused(str(error.__cause__) if wrong_output else f"{spec.model}: {error}") from error
    seconds = elapsed(began)
    if session.stop():
        raise Interrupted
    return found.to_dict() | {"seconds": seconds}


EXPERIMENT = Experiment(
    spec=SymmetriesSpec,
    result=SymmetriesResult,
    prepare=lambda spec, model, data, progress: question(spec),
    measure=measure,
    report=report,
    answer=lambda result: answer(result.found),
    describe=lambda result: describe(result.found),
    runs=lambda result: 0,
    printed=printed,
)


def _built(spec: SymmetriesSpec) -> nn.Module:
    shapes = [shape for _, shape in spec.inputs() + spec.token_inputs()]
    input_shape = shapes[0][1:] or (1,)
    options = {"width": spec.width, "widths": spec.widths, "eps": spec.eps}
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if spec.model in MODELS:
        return build(spec.model, input_shape=input_shape, classes=spec.classes, seed=spec.seed, **chosen)
    name, factory = resolve(spec.model)
    arguments = _arguments(name, factory, {"input_shape": input_shape, "classes": spec.classes}, chosen)

    def make() -> nn.Module:
        made: nn.Module = factory(**arguments)
        return made

    make.__name__ = name
    try:
        return build(make, input_shape=input_shape, classes=spec.classes, seed=spec.seed)
    except ModelError:
        raise
    except Exception as error:  # whatever the factory raises
        raise ModelError(f"{name} failed: {type(error).__name__}: {error}") from error


def _arguments(
    name: str, factory: Callable[..., nn.Module], offered: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """What a factory is called with: of ``offered`` what it requires by name, and all that was ``chosen``."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return dict(chosen)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in chosen:
        if option not in parameters and not takes_any:
            raise InputError(f"--{option}: {name} does not take {option}")
    required = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in chosen
    ]
    missing = [option for option in required if option not in offered]
    if missing:
        raise ModelError(
            f"{name} requires {', '.join(missing)}, and is called without arguments (but for input_shape, classes, "
            "width, widths and eps): give them defaults, or write a function without arguments around it"
        )
    return {option: offered[option] for option in required} | dict(chosen)


def _batch(spec: SymmetriesSpec, model: nn.Module) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    like = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(spec.seed)
    drawn = [(name, torch.randn(shape, generator=generator).to(like)) for name, shape in spec.inputs()]
    for name, shape in spec.token_inputs():
        assert spec.vocab is not None
        drawn.append((name, torch.randint(spec.vocab, shape, generator=generator).to(like.device)))
    return tuple(t for name, t in drawn if name is None), {name: t for name, t in drawn if name is not None}


def _give_shapes(
    spec: SymmetriesSpec, model: nn.Module, positional: tuple[Tensor, ...], keywords: Mapping[str, Tensor]
) -> None:
    """One forward pass, in which lazy modules learn how large they are."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(spec.seed)
            model(*positional, **keywords)
    except Exception as error:  # whatever the model raises
        raise InputError(f"{spec.model}: the forward pass failed ({type(error).__name__}: {error})") from error


def _picker(path: str) -> Callable[[Any], Any]:
    """A function that takes one part of an output: keys of mappings, indices of sequences, attributes."""

    def pick(output: Any) -> Any:
        for part in path.split("."):
            try:
                if isinstance(output, Mapping):
                    output = output[part]
                elif isinstance(output, list | tuple) and part.isdecimal():
                    output = output[int(part)]
                else:
                    output = getattr(output, part)
            except (KeyError, IndexError, AttributeError):
                has = f"; it has {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
                raise InputError(
                    f"--output: the model's output ({type(output).__name__}) has no {part!r}{has}"
                ) from None
        return output

    return pick
