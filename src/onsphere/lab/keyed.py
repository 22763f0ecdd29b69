"""What once was a dictionary and is a class now: everything that reads a dictionary goes on for one version.

A read by name warns and says how to write it. What it gives is what the dictionary held, plain values as JSON has them:
a list where the attribute is a tuple, None where a number is not finite.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from typing import Any

from pydantic_core import from_json, to_json


class Keyed:
    """Base of such a class: a dataclass or a pydantic model whose fields were the names of a dictionary."""

    def __getitem__(self, name: str) -> Any:
        """The value of a field, as JSON has it.

        Raises:
            KeyError: There is no field of that name.
        """
        return _held(self, name)[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field, as JSON has it, or the default if there is no such field."""
        return _held(self, name).get(name, default)

    def __contains__(self, name: object) -> bool:
        """Whether there is a field of that name."""
        return name in _held(self)

    def __iter__(self) -> Any:  # an iterator of texts; a pydantic model's own gives pairs
        """The names of the fields."""
        return iter(_held(self))

    def keys(self) -> KeysView[str]:
        """The names of the fields."""
        return _held(self).keys()

    def values(self) -> ValuesView[Any]:
        """The values of the fields, as JSON has them."""
        return _held(self).values()

    def items(self) -> ItemsView[str, Any]:
        """The fields with their values, as JSON has them."""
        return _held(self).items()

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        """The fields as a dictionary, those of another mapping over them."""
        return _held(self) | dict(other)

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        """Another mapping as a dictionary, the fields over it."""
        return dict(other) | _held(self)


Mapping.register(Keyed)  # so that pandas makes a row of one, as of a dictionary


def _held(of: Keyed, name: str = "") -> dict[str, Any]:
    """What the dictionary held, with a warning in the line that reads it."""
    what = re.findall("[A-Z][a-z]*", type(of).__name__)[-1].lower()
    one = f"write {what}.{name} instead of {what}[{name!r}]"
    whole = f"this {what} is no dictionary any more: write {what}.NAME for one value, result.to_dict() for all"
    warnings.warn(one if name else whole, DeprecationWarning, stacklevel=3)
    found: dict[str, Any] = from_json(to_json(of, inf_nan_mode="null"))
    return found
