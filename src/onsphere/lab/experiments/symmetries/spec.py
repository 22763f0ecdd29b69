"""What ``onsphere symmetries`` is asked for. Nothing here imports torch, so ``--help`` stays fast."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from onsphere.lab.options import Options, Widths, list_text, split_list

#: The networks that need no ``--input``, and what they get then.
NAMED = ("mlp", "convnet", "resnet18")
DEFAULT_INPUT = "16x3x16x16"

_SHAPE = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<sizes>[1-9]\d*(?:x[1-9]\d*)*)")


def parse_shape(text: str) -> tuple[str | None, tuple[int, ...]]:
    """``ids=4x16`` as the argument's name, or None for a positional one, and its shape.

    Raises:
        ValueError: It is no shape.
    """
    found = _SHAPE.fullmatch(text.strip())
    if found is None:
        raise ValueError("write a shape such as 8x3x32x32, examples first, or NAME=8x10 for a keyword argument")
    return found["name"], tuple(int(size) for size in found["sizes"].split("x"))


Shapes = Annotated[
    tuple[Annotated[str, AfterValidator(lambda text: parse_shape(text) and text.strip())], ...],
    BeforeValidator(split_list),
    Parameter(negative="", show_default=lambda shapes: list_text(shapes) or "none"),
]


class SymmetriesSpec(Options):
    """All that a run depends on."""

    model: str = "mlp"
    """Network: package.module:factory for your own, looked for in the current folder too; or mlp, convnet, resnet18."""
    input: Shapes = ()
    """Shape of a floating-point input, 8x3x32x32, examples first; several comma separated, keywords as NAME=8x10."""
    tokens: Shapes = ()
    """Shape of an integer input, 4x16, written likewise; positional ones come after those of --input."""
    vocab: Annotated[int, Field(ge=1)] | None = None
    """Number of different tokens: integer inputs are drawn from 0 to vocab - 1."""
    output: str | None = None
    """Part of the output to look at: a key, index or attribute such as logits, or a path a.b (default: all of it)."""
    rows: bool = False
    """Also find the tensors whose rows (filters, units) are scale-invariant one by one; takes longer."""
    unused: Literal["raise", "ignore"] = "raise"
    """What to do about trainable tensors that the output does not depend on in this call."""
    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None
    """Cast model and inputs to this first (default: as the factory makes it); the answer is computed in float64."""
    device: str | None = None
    """Device: cpu, cuda, cuda:1 (default: where the factory puts the model)."""
    widths: Widths = None
    """Hidden widths of the mlp, comma separated (default 64,64)."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Width of the convnet or resnet18: channels of the first layer (default 32)."""
    classes: Annotated[int, Field(ge=1)] = 10
    """Outputs of mlp, convnet, resnet18, and of a factory that asks for classes."""
    eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """eps of the norms, for networks that take it (mlp, convnet, resnet18: 1e-12)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights and of the inputs."""

    @model_validator(mode="after")
    def _consistent(self) -> SymmetriesSpec:
        if self.tokens and self.vocab is None:
            raise ValueError("--tokens needs --vocab, the number of different tokens")
        if self.vocab is not None and not self.tokens:
            raise ValueError("--vocab is not allowed without --tokens, the shape of the integer input")
        if not (self.input or self.tokens or self.model in NAMED):
            raise ValueError(
                f"--input: {self.model} needs the shape of a batch: --input 8x3x32x32, or --tokens 4x16 --vocab 50"
            )
        names = [name for name, _ in self.inputs() + self.token_inputs() if name]
        if len(set(names)) < len(names):
            raise ValueError(f"--input: {max(names, key=names.count)} is given twice; every keyword may be given once")
        return self

    def inputs(self) -> list[tuple[str | None, tuple[int, ...]]]:
        """Name (None: positional) and shape of every floating-point input."""
        return [parse_shape(text) for text in self.input or (() if self.tokens else (DEFAULT_INPUT,))]

    def token_inputs(self) -> list[tuple[str | None, tuple[int, ...]]]:
        """Name and shape of every integer input."""
        return [parse_shape(text) for text in self.tokens]
