"""The three protocols of training on the sphere, and the checks of arguments that depend on the protocol."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, decay_factor, positive

__all__ = ["Protocol", "given", "known", "only", "rate_and_decay", "space_dimension"]

#: What is held fixed: ELR and weight decay, lr and weight decay, or ELR and norm.
Protocol = Literal["fixed_elr", "fixed_lr", "sphere"]


def known(protocol: str) -> str:
    """``protocol`` itself, or a ValueError that lists the three."""
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol is {protocol!r}; it must be one of {', '.join(get_args(Protocol))}")
    return protocol


def given(protocol: str, **argument: Numbers | None) -> Numbers:
    """The value of the one argument, or a ValueError if it is None."""
    ((name, value),) = argument.items()
    if value is None:
        raise ValueError(f'{name} is missing; protocol "{protocol}" needs it')
    return value


def only(protocol: str, **arguments: Numbers | None) -> None:
    """Refuse arguments that the protocol does not have (ValueError)."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f'{name} is given, but protocol "{protocol}" has none; leave it out')


def rate_and_decay(protocol: str, lr: Numbers | None, weight_decay: Numbers | None) -> tuple[Array, Array]:
    """A learning rate and a weight decay in (0, 1 / lr), or a ValueError."""
    rate = positive("lr", given(protocol, lr=lr))
    decay = positive("weight_decay", given(protocol, weight_decay=weight_decay))
    decay_factor(rate, decay)
    return rate, decay


def space_dimension(dimension: int) -> int:
    """``dimension`` as an int of at least 2, or a ValueError."""
    if isinstance(dimension, bool) or not isinstance(dimension, int | np.integer) or dimension < 2:
        raise ValueError(f"dimension is {dimension!r}; it must be an integer of at least 2")
    return int(dimension)
