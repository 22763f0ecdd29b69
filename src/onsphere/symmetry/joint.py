"""The one sphere of all scale-invariant parameters of a model, found from a batch of whatever the model takes."""

from __future__ import annotations

from typing import Any

from torch import nn

from onsphere.functional.batches import Called, Forward, call_arguments, first_examples
from onsphere.functional.selection import select_parameters
from onsphere.symmetry.probe import SymmetryError
from onsphere.symmetry.sphere_groups import sphere_groups

__all__ = ["joint_sphere"]

_ENOUGH = 64  # examples to recognise scale-invariant parameters by


def joint_sphere(
    model: nn.Module, inputs: Any, *, forward: Forward | None = None, examples: int | None = None
) -> tuple[str, ...]:
    """The names of all scale-invariant parameters, found by :func:`onsphere.sphere_groups`.

    Args:
        model: Any module with norm layers.
        inputs: The inputs of one batch: a tensor, a tuple of positional arguments, a dictionary of keyword arguments,
            or whatever ``forward`` takes.
        forward: How the model is called, where that is not ``model(input)``.
        examples: How many examples the batch has; 64 of them are looked at. None: all.

    Returns:
        Names in the order of ``model.named_parameters()``.

    Raises:
        onsphere.SymmetryError: No parameter is scale-invariant, or the forward pass fails (a ValueError).
    """
    inputs = inputs if examples is None else first_examples(inputs, examples, _ENOUGH)
    try:
        if forward is None:
            args, kwargs = call_arguments(inputs)
            names = sphere_groups(model, *args, **kwargs)[0]["names"]
        else:
            called = sphere_groups(Called(model, forward), inputs)[0]["names"]
            names = [name.removeprefix(Called.prefix) for name in called]
    except SymmetryError as error:
        raise SymmetryError(
            f"which weights are on the sphere could not be found ({error}); name them with parameters="
        ) from error
    return select_parameters(model, names)
