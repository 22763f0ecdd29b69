"""The role of every trainable tensor, by how one forward pass uses it; names are a check alone.

    embedding       looked up by an index, or added or joined to the input as a table of positions or tokens
    hidden matrix   multiplied as a matrix (or a stack of them, one of which is picked: experts), others after it
    head            multiplied as a matrix, the model's output after it (an embedding that is tied to it is both)
    router          multiplied as a matrix, the largest of its products chosen (experts of a mixture)
    filter bank     convolved with
    gain            multiplied number by number, also by a norm
    bias            added

What is used in two ways that do not go together, or in none of these, is *unclear*: no guess is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from onsphere.results import frame
from onsphere.roles.uses import Use, uses_of

__all__ = ["Role", "RoleName", "Roles", "find_roles"]

RoleName = Literal[
    "embedding",
    "embedding and head",
    "hidden matrix",
    "head",
    "router",
    "filter bank",
    "gain",
    "bias",
    "unused",
    "unclear",
]

#: What last parts of names say to a reader; the role that they lead one to expect.
_NAMES: tuple[tuple[str, tuple[RoleName, ...]], ...] = (
    (r"(^|[._])bias$|[._]b$", ("bias",)),
    (r"(^|[._])(lm_head|classifier|head|logits?)\.weight$", ("head", "embedding and head")),
    (r"(embed\w*|wte|wpe|tok_emb|pos_emb|embeddings?)(\.weight)?$", ("embedding", "embedding and head")),
    (r"(^|[._])router\.weight$", ("router",)),
    (r"(^|[._])(ln|norm|layernorm|rmsnorm|\w*_norm|\w*layernorm|ln_\w+|norm\d+)\.weight$", ("gain",)),
)


@dataclass(frozen=True)
class Role:
    """What one tensor is for and how it is seen.

    Attributes:
        name: Name of the parameter in the model.
        shape: Its size in each dimension.
        role: What it is for.
        uses: How the forward pass uses it.
        remark: A sentence where its name leads one to expect another role, or where the role is unclear; else "".
    """

    name: str
    shape: tuple[int, ...]
    role: RoleName
    uses: tuple[Use, ...]
    remark: str = ""


@dataclass(frozen=True, repr=False)
class Roles:
    """The roles of all trainable tensors of a model, in registration order.

    Attributes:
        rows: One row for every trainable tensor.
    """

    rows: tuple[Role, ...]

    def __getitem__(self, name: str) -> RoleName:
        """The role of a tensor by its name (KeyError for another one)."""
        return {row.name: row.role for row in self.rows}[name]

    def of(self, *roles: RoleName) -> list[str]:
        """Names of the tensors with one of these roles."""
        return [row.name for row in self.rows if row.role in roles]

    def to_dict(self) -> dict[str, Any]:
        """The rows as plain values."""
        return asdict(self)

    def to_frame(self) -> Any:
        """One row a tensor, as a pandas data frame (ImportError without pandas)."""
        return frame([asdict(row) for row in self.rows])

    def __repr__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [f"Roles of {len(self.rows)} tensors"]
        lines += [f"  {row.name:<{width}}  {'x'.join(map(str, row.shape)):<12}  {row.role}" for row in self.rows]
        return "\n".join([*lines, *(f"  {row.remark}" for row in self.rows if row.remark)])


def find_roles(model: nn.Module, *inputs: Any, output: Callable[[Any], Any] | None = None, **kwargs: Any) -> Roles:
    """What every trainable tensor of a model is for, seen in one forward pass.

    Args:
        model: Any module; a copy of it runs once, in evaluation mode.
        *inputs: Positional arguments of one call; a batch of two examples is enough.
        output: Picks what counts as the model's output, which decides what the head is; by default every tensor in it.
        **kwargs: Keyword arguments of the same call.

    Returns:
        The roles; printing them shows a table. Names that lead one to expect another role are remarked upon and change
        nothing.

    Raises:
        ValueError: The forward pass fails, or the model has no trainable parameter.

    Source: the roles of practice (Muon, Hyperball, maximal update parametrisation); that they are seen in the forward
        pass and not read from names is ours.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
        >>> find_roles(model, torch.randn(3, 4)).of("head", "gain")
        ['1.weight', '3.weight']
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("the model has no trainable parameter: every requires_grad is False")
    uses = uses_of(model, inputs, kwargs, output)
    return Roles(tuple(_row(name, tuple(p.shape), uses[name], uses) for name, p in parameters.items()))


def _row(name: str, shape: tuple[int, ...], uses: frozenset[Use], every: Mapping[str, frozenset[Use]]) -> Role:
    role = _role(uses)
    remark = ""
    if role == "unclear":
        remark = f"{name} is used in ways that do not go together ({', '.join(sorted(uses))}), so its role is unclear"
    else:
        expected = next((roles for pattern, roles in _NAMES if re.search(pattern, name)), None)
        if expected is not None and role not in expected and role != "unused":
            remark = f"{name} is a {role} by its use, though its name says {expected[0]}"
    return Role(name, shape, role, tuple(sorted(uses)), remark)


def _role(uses: frozenset[Use]) -> RoleName:
    ends, kinds = uses & {"output", "choice"}, uses - {"output", "choice", "offset"}
    if not kinds:
        return "unused"
    if kinds <= {"lookup", "matrix"} and "lookup" in kinds:
        if "matrix" not in kinds:
            return "embedding"
        return "embedding and head" if "output" in ends else "unclear"
    if "pick" in kinds:  # one of a stack of matrices, by an index: an expert's
        kinds = kinds - {"pick"} or frozenset({"token"})
    single: dict[frozenset[str], RoleName] = {
        frozenset({"matrix"}): "hidden matrix",
        frozenset({"filter"}): "filter bank",
        frozenset({"gain"}): "gain",
        frozenset({"bias"}): "bias",
        frozenset({"token"}): "embedding",
    }
    role = single.get(frozenset(kinds), "unclear")
    if role in ("hidden matrix", "filter bank"):
        return "head" if "output" in ends else "router" if "choice" in ends else role
    return role
