"""The result of ``onsphere symmetries``: the symmetries themselves, with the run that found them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import PlainSerializer, PlainValidator

from onsphere.lab.experiments.symmetries.spec import SymmetriesSpec
from onsphere.lab.experiments.symmetries.words import describe
from onsphere.lab.result import ExperimentResult
from onsphere.lab.store import Run
from onsphere.symmetry import Symmetries

Found = Annotated[Symmetries, PlainValidator(Symmetries.from_dict), PlainSerializer(Symmetries.to_dict)]


@dataclass(frozen=True, repr=False, kw_only=True)
class SymmetriesResult(ExperimentResult):
    """What a run of ``onsphere symmetries`` gives; ``seconds`` are those of the search.

    Attributes:
        found: What :func:`onsphere.find_symmetries` returned; its values stand in ``result.json`` beside the others.
    """

    command: ClassVar[str] = "symmetries"

    spec: SymmetriesSpec
    found: Found

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints and ``result.json`` holds; None for what is not finite."""
        values = super().to_dict()
        found, last = values.pop("found"), {name: values.pop(name) for name in ("spec", "seconds")}
        return {**values, **found, **last}

    @classmethod
    def restored(cls, run: Run, values: Mapping[str, Any]) -> Self:
        """The result from what :meth:`to_dict` gave, in which the symmetries stand beside the other values.

        Raises:
            KeyError: A value of the symmetries is missing.
            ValueError: Another value is missing, or is not what the types say.
        """
        return super().restored(run, {**values, "found": dict(values)})

    def to_frame(self) -> Any:
        """One row a tensor, as :meth:`onsphere.Symmetries.to_frame` gives them (needs pandas)."""
        return self.found.to_frame()

    def __repr__(self) -> str:
        return f"SymmetriesResult: {self.spec.model}\n  {describe(self.found)}\n  page: {self.report}"
