"""The signature of a function that starts an experiment: all that it takes, though it only passes it on."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, TypeVar, get_type_hints

from onsphere.lab.experiment import Experiment
from onsphere.lab.options import Options

F = TypeVar("F", bound=Callable[..., Any])


def takes(spec: type[Options]) -> Callable[[F], F]:
    """Show ``out``, ``progress``, ``stop`` and the fields of a spec in a signature, for ``help()`` and completion.

    The function passes ``**given`` on to :meth:`~onsphere.lab.experiment.Experiment.start`; it stays what it is.
    """

    def shown(function: F) -> F:
        whole, kind = signature(function), Parameter.KEYWORD_ONLY
        types = get_type_hints(spec)  # without what pydantic is told about them
        own = {one.name: one for one in whole.parameters.values() if one.kind is not Parameter.VAR_KEYWORD}
        shared = [one for one in signature(Experiment.start).parameters.values() if one.kind is kind]
        fields = [
            Parameter(name, kind, default=field.get_default(call_default_factory=True), annotation=types[name])
            for name, field in spec.model_fields.items()
            if name not in own
        ]
        function.__signature__ = whole.replace(parameters=[*own.values(), *shared, *fields])  # type: ignore[attr-defined]
        return function

    return shown
