"""How far an output moves when parameters are scaled or replaced."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Comparisons", "relative_change"]


class Comparisons:
    """What a probe answers about its parameters; it says what its output is.

    Attributes:
        parameters: The tensors that are scaled.
        reference: The output at the present point.
    """

    parameters: list[Tensor]
    reference: list[Tensor]

    def outputs(self) -> list[Tensor]:
        """The outputs at the present parameters."""
        raise NotImplementedError

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of ``like``."""
        raise NotImplementedError

    @torch.no_grad()
    def change_by(self, factors: Mapping[int, float]) -> float:
        """Relative change of the output when the parameters of these indices are multiplied by these factors."""
        before = {i: self.parameters[i].detach().clone() for i in factors}
        for i, factor in factors.items():
            self.parameters[i].mul_(factor)
        try:
            return relative_change(self.reference, self.outputs())
        finally:
            for i, tensor in before.items():
                self.parameters[i].copy_(tensor)

    @torch.no_grad()
    def change_between(self, exponents: Sequence[float], start: float, end: float) -> float:
        """Relative change of the output from parameters times 2^(start c) to 2^(end c), c their exponents."""
        before = {i: self.parameters[i].detach().clone() for i, c in enumerate(exponents) if c != 0}
        ends = []
        try:
            for k in (start, end):
                for i, tensor in before.items():
                    self.parameters[i].copy_(tensor * 2.0 ** (k * float(exponents[i])))
                ends.append(self.outputs())
        finally:
            for i, tensor in before.items():
                self.parameters[i].copy_(tensor)
        return relative_change(*ends)

    def changes_along(self, exponents: Sequence[float]) -> Iterator[float]:
        """Relative changes of the output from 2^(k c) to 2^((k + 1) c) times the parameters, k = 0, 1, ... in turn.

        Args:
            exponents: c, one for each parameter.
        """
        last: list[Tensor] | None = None
        for k in itertools.count():
            with torch.no_grad():
                before = {i: self.parameters[i].detach().clone() for i, c in enumerate(exponents) if c != 0}
                try:
                    for i, tensor in before.items():
                        self.parameters[i].copy_(tensor * 2.0 ** (k * float(exponents[i])))
                    now = self.reference if k == 0 else self.outputs()
                finally:
                    for i, tensor in before.items():
                        self.parameters[i].copy_(tensor)
            if last is not None:
                yield relative_change(last, now)
            last = now

    @torch.no_grad()
    def change_when_replaced(self, index: int) -> float:
        """Largest relative change of the output when this parameter is replaced: by noise, its negative, zero.

        Noise in place of a few numbers may be a positive multiple of them, which an invariant tensor does not feel.
        """
        parameter = self.parameters[index]
        original = parameter.clone()
        most = 0.0
        try:
            for other in (
                self.noise(parameter) * original.norm() / max(1, original.numel()) ** 0.5,
                -original,
                torch.zeros_like(original),
            ):
                parameter.copy_(other)
                most = max(most, relative_change(self.reference, self.outputs()))
                if most > 1e-3:
                    break
            return most
        finally:
            parameter.copy_(original)


@torch.no_grad()
def relative_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Largest ``‖after - before‖ / ‖before‖`` of the pairs; infinite where shapes or zeros do not match."""
    if [t.shape for t in before] != [t.shape for t in after]:
        return float("inf")
    worst = 0.0
    for b, a in zip(before, after, strict=True):
        difference, size = float((a - b).norm()), float(b.norm())
        if difference != 0:
            worst = max(worst, difference / size if size > 0 and difference == difference else float("inf"))
    return worst
