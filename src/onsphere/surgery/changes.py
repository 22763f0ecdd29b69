"""What was done to a model that was made scale-invariant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Changes"]


@dataclass(frozen=True)
class Changes:
    """What :func:`onsphere.make_scale_invariant` did to a model; ``str()`` reads as a short report.

    Attributes:
        norms: names of all norm layers.
        affine: names of those among them that had a weight or bias and have it no more (a layer that is not one of
            torch's keeps a frozen gain of one and a frozen bias of zero, which its forward pass reads).
        biases: names of the removed biases, each of a layer feeding straight into a norm.
        kept_biases: names of the trainable biases that remain, because no norm directly follows.
        head: name of the frozen head, or None with ``head=False``.
        head_norm: Frobenius norm of the head's weight now.
        head_norm_before: Frobenius norm of the head's weight before.
        eps: eps of every norm layer but those in ``hidden_eps``.
        traced: whether the model's graph or a forward pass said what feeds what; otherwise the order of registration
            did.
        not_invariant: names of the trainable parameters that are not on the joint sphere, found by
            :func:`onsphere.find_symmetries`; None if no batch was given to look at.
        kept_gains: names of the norms whose weight and bias stayed trainable, because nothing that reads their output
            could make up for them, or because it is not known what reads it.
        hidden_eps: norms whose eps is written into their forward pass, where it cannot be changed, with that eps.
        frozen: norms in evaluation mode in a model that trains, which were left as they are: they do not normalise.
    """

    norms: tuple[str, ...]
    affine: tuple[str, ...]
    biases: tuple[str, ...]
    kept_biases: tuple[str, ...]
    head: str | None
    head_norm: float | None
    head_norm_before: float | None
    eps: float
    traced: bool
    not_invariant: tuple[str, ...] | None = None
    kept_gains: tuple[str, ...] = ()
    hidden_eps: Mapping[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line for each kind of change."""
        lines = [
            f"{len(self.norms)} norm layers: eps {self.eps:g}",
            f"weight and bias removed from {_listing(self.affine)}" if self.affine else "no norm had an affine",
            f"biases removed before norms: {_listing(self.biases)}",
            "no head was frozen: what makes the output trains on, and its norm sets the size of the outputs"
            if self.head is None
            else f"head {self.head!r}: norm {self.head_norm_before:.4g} -> {self.head_norm:g}, frozen",
        ]
        if self.kept_gains:
            lines.append(
                "weight and bias kept, no linear layer that reads the output could make up for them: "
                f"{_listing(self.kept_gains)}"
            )
        if self.frozen:
            lines.append(f"frozen norms, which do not normalise, left as they are: {_listing(self.frozen)}")
        if self.hidden_eps:
            listed = (f"{name} ({eps:.1g})" for name, eps in self.hidden_eps.items())
            lines.append(f"eps written into the forward pass, which stays: {', '.join(listed)}")
        if self.kept_biases:
            lines.append(f"biases kept, no norm directly follows: {_listing(self.kept_biases)}")
        if self.not_invariant is not None:
            lines.append(
                f"trainable but not scale-invariant: {_listing(self.not_invariant)}"
                if self.not_invariant
                else "every trainable parameter is scale-invariant, certified by rescaling"
            )
        if not self.traced:
            lines.append(
                "the model cannot be traced by torch.fx, so what feeds which norm was taken in part from the "
                "order in which layers are registered; give a batch (check=) to have it seen"
            )
        return lines

    def __str__(self) -> str:
        return "made scale-invariant\n  " + "\n  ".join(self.lines())


def _listing(names: tuple[str, ...]) -> str:
    return ", ".join(names) if names else "none"
