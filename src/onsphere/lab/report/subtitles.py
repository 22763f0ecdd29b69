"""What was trained on what, in a line: the same words on every page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onsphere.lab.options import WIDTHS, DataOptions
from onsphere.lab.report.sections import counted

#: What is said of the ELR with momentum.
MOMENTUM = "with momentum lr / ((1 − momentum) norm²), since a gradient that lasts moves weights by lr / (1 − momentum)"


def subtitle(spec: Any, **but: Any) -> str:
    """Data, network, loss, steps and batch of a spec that trains, in a line.

    Args:
        spec: With the fields of :class:`~onsphere.lab.options.DataOptions`,
            :class:`~onsphere.lab.options.NetworkOptions` and :class:`~onsphere.lab.options.TrainingOptions`.
        **but: Fields that are used in place of the spec's.
    """
    batch = "full batch" if spec.batch_size == "full" else f"batch {spec.batch_size}"
    words = [data_words(spec), network_words(spec, **but), spec.loss, f"{spec.steps} steps, {batch}"]
    return " · ".join(words)


def data_words(spec: DataOptions) -> str:
    """Which data, how many of them, how much label noise."""
    images = f"{spec.train} images" if spec.train else "all training images"
    return f"{spec.data}, {images}{noise_words(spec)}"


def noise_words(spec: DataOptions) -> str:
    """How much label noise there is, after a comma; nothing where there is none."""
    drawn = ", drawn among all classes" if spec.label_noise_kind == "any" else ""
    return f", {100 * spec.label_noise:g} % label noise{drawn}" if spec.label_noise else ""


def tensor_words(elr_of: str, names: Sequence[str]) -> str:
    """Which scale-invariant tensors norm, ELR and effective gradient are those of.

    Args:
        elr_of: The field of :class:`~onsphere.lab.options.ElrOptions`.
        names: The tensors that count.
    """
    kinds = {"all": "all there are", "weights": "convolutions and matrices, no gains and biases of norms"}
    listed = ", ".join(names[:4]) + ", ..." * (len(names) > 4)
    return f"{counted(len(names), 'scale-invariant tensor')} ({kinds.get(elr_of, elr_of)}): {listed}"


def network_words(spec: Any, widths: tuple[int, ...] | None = None) -> str:
    """Which network and how wide; ``widths`` are those that are used where the spec names none."""
    layers, width = WIDTHS.get(spec.model, ((), None))
    if layers:
        return f"{spec.model} {'-'.join(map(str, spec.widths or widths or layers))}"
    width = spec.width or width
    return f"{spec.model} of width {width}" if width else str(spec.model)
