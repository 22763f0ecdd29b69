"""An ensemble as one safetensors file, loaded again as one module.

The file holds every parameter and buffer once, ``[members, ...]``, and in its header, as JSON, the name and options of
the architecture (:func:`onsphere.lab.models.build`) and whatever else was recorded of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onsphere.ensembles import Ensemble
from onsphere.lab.models import MODELS, ModelError, build
from onsphere.lab.store.files import write_tensors

__all__ = ["EnsembleFileError", "ensemble_metadata", "load_ensemble", "save_ensemble"]

_KEY, _FORMAT = "onsphere.ensemble", 1


class EnsembleFileError(ValueError):
    """A file that is no ensemble, or metadata that cannot be written into one."""


def save_ensemble(
    path: str | Path, ensemble: Ensemble | Sequence[nn.Module], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Write an ensemble into one file, whole or not at all.

    Args:
        path: Name of the file, by custom ``.safetensors``; its folder must exist.
        ensemble: The ensemble, or its members.
        metadata: ``"model"``: a name of :mod:`onsphere.lab.models` or ``"package.module:factory"``; ``"options"``:
            what :func:`onsphere.lab.models.build` takes besides, ``input_shape`` and ``classes`` at least; and
            anything else that JSON can hold: data set, seeds, metrics, members that failed.

    Returns:
        What the header holds: the metadata, ``"members"`` and ``"format"``.

    Raises:
        InputError: What is at ``path`` is no regular file.
        EnsembleFileError: Metadata without model or options, or that JSON cannot hold; or the model and options build
            another architecture than the members have.
        ValueError: As :meth:`onsphere.ensembles.Ensemble.from_members`.
    """
    if not isinstance(ensemble, Ensemble):
        ensemble = Ensemble.from_members(list(ensemble))
    path = Path(path)
    if not path.parent.is_dir():
        raise EnsembleFileError(f"{path}: there is no folder {path.parent}; make it first")
    header = {**metadata, "members": ensemble.members, "format": _FORMAT}
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EnsembleFileError(
            f"metadata must be what JSON can hold (numbers, strings, lists, ...): {error}"
        ) from None
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in ensemble.tensors().items()}
    _ensemble(_architecture(json.loads(text), None, "metadata"), tensors, "metadata")
    write_tensors(path, tensors, {_KEY: text})
    return dict(json.loads(text))


def load_ensemble(path: str | Path, *, model: str | Callable[..., nn.Module] | None = None) -> Ensemble:
    """Read an ensemble as one module, in evaluation mode, on the CPU.

    Args:
        path: A file that :func:`save_ensemble` wrote.
        model: The architecture of a file whose model is none of onsphere's own: a file never decides which code is
            imported. ``"package.module:factory"`` or the factory itself; built with the recorded options.

    Returns:
        The ensemble, in the data types in which it was saved.

    Raises:
        EnsembleFileError: No such file, no safetensors file, no ensemble, a newer format, a model of your own that
            ``model`` does not give, or tensors that do not fit the architecture.
    """
    header, tensors = _read(Path(path), with_tensors=True)
    return _ensemble(_architecture(header, model, str(path)), tensors, str(path))


def ensemble_metadata(path: str | Path) -> dict[str, Any]:
    """What a file's header holds, without reading the weights.

    Args:
        path: A file that :func:`save_ensemble` wrote.

    Raises:
        EnsembleFileError: As :func:`load_ensemble`.
    """
    return _read(Path(path), with_tensors=False)[0]


def _read(path: Path, *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise EnsembleFileError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise EnsembleFileError(f"{path}: this is no whole safetensors file: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise EnsembleFileError(f"{path}: its header records no ensemble; only save_ensemble writes files to load here")
    if header["format"] > _FORMAT:
        raise EnsembleFileError(
            f"{path}: format {header['format']} is newer than this onsphere's ({_FORMAT}); update it"
        )
    return header, tensors


def _architecture(header: dict[str, Any], model: str | Callable[..., nn.Module] | None, where: str) -> nn.Module:
    """One network as recorded; ``model`` is asked for only where a file names code of the user's own."""
    name, options = header.get("model"), header.get("options")
    if not isinstance(name, str) or not isinstance(options, dict):
        raise EnsembleFileError(
            f"{where}: 'model' must be a name and 'options' what build() takes, not {name}, {options}"
        )
    if model is None and name not in MODELS and where != "metadata":
        raise EnsembleFileError(
            f"{where}: its model is {name!r}, code of your own; give it as model={name!r} to have it imported "
            f"(onsphere's are {', '.join(MODELS)})"
        )
    try:
        return build(name if model is None else model, **options)
    except (ModelError, TypeError) as error:
        raise EnsembleFileError(f"{where}: model {name!r} cannot be built: {error}") from error


def _ensemble(template: nn.Module, tensors: dict[str, Tensor], where: str) -> Ensemble:
    try:
        with torch.no_grad():
            return Ensemble.from_stacked(template, tensors)
    except ValueError as error:
        raise EnsembleFileError(f"{where}: the tensors do not fit the model: {error}") from error
