"""Make a network fully scale-invariant: every trainable weight ahead of a norm counts only by its direction.

A weight w feeding a normalisation that has no parameters of its own obeys ``f(c w) = f(w)`` for every c >
0. What stands in the way in an ordinary network is removed here, as Kodryan et al. ("Training
Scale-Invariant Neural Networks on the Sphere Can Happen in Three Regimes", 2022) do for their networks:

- norm layers lose their weight and bias, which are not scale-invariant themselves, and get a tiny eps: with
  eps = 1e-5 and weights on the unit sphere, doubling a weight moves the outputs by 1e-3. What normalises is told by
  what it computes (:mod:`onsphere.surgery.recognise`). Where nothing could make up for a gain (a query or key norm, a
  norm whose output is added to a residual stream) it stays, and the result says so;
- biases of layers that feed straight into a norm go: batch and instance norm cancel them anyway, and ahead of a
  layer, group or RMS norm a bias would be scale-invariant only together with its weight;
- the head, which no norm follows, is scaled to a given Frobenius norm and frozen.

Which layer feeds which norm is read off the graph of ``torch.fx.symbolic_trace`` where the model allows that, off one
forward pass where a batch is given, and guessed from the order of registration otherwise
(:mod:`onsphere.surgery.wiring`); the result says which.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from onsphere.functional.batches import call_arguments
from onsphere.functional.copying import duplicate
from onsphere.normalisation import BatchStatistics, is_norm
from onsphere.normalisation.frozen import frozen_norms
from onsphere.surgery.changes import Changes
from onsphere.surgery.recognise import NormForm, hidden_eps, norm_forms, set_eps
from onsphere.surgery.wiring import Wiring, linear_layers
from onsphere.symmetry import find_symmetries

__all__ = ["Changes", "make_scale_invariant"]

logger = logging.getLogger("onsphere")

# An eps that a layer casting to float32 shows by rounding alone stays below this.
_VISIBLE_EPS = 1e-10


# -- the head ----------------------------------------------------------------------------------------------


def _head_name(model: nn.Module, head: str | nn.Module | None, wiring: Wiring) -> str:
    modules = dict(model.named_modules())
    if isinstance(head, nn.Module):
        names = [name for name, module in modules.items() if module is head]
        if not names:
            raise ValueError(
                f"the head given, {type(head).__name__}, is not a module of this model; give one of "
                f"its modules or the name of one: {_choices(model)}"
            )
        return str(names[0])
    if head is not None:
        if head not in modules or head == "":
            raise ValueError(f"no module named {head!r} to be the head; linear layers are {_choices(model)}")
        # A shared module has one canonical name: its first.
        return str(next(name for name, module in model.named_modules() if module is modules[head]))
    if len(wiring.heads) == 1:
        return wiring.heads[0]
    if wiring.heads:
        raise ValueError(
            f"{len(wiring.heads)} layers make the output ({', '.join(sorted(wiring.heads))}): "
            "say which is the head with head=..., or give them one common last layer"
        )
    guessed = "" if wiring.traced else ", as far as the order of registration tells (a batch, check=, would show it)"
    raise ValueError(
        f"no head found: no linear or convolutional layer makes the output without a norm after it{guessed}. Add a "
        "last linear layer, name the layer to freeze with head=..., or leave the output as it is with head=False"
    )


def _choices(model: nn.Module) -> str:
    names = [name for name, _ in linear_layers(model) if name]
    return ", ".join(names[-8:]) + (" (the last 8)" if len(names) > 8 else "") if names else "none"


def _freeze_head(model: nn.Module, name: str, norm: float) -> float:
    """Scale the head's weight to ``norm``, freeze the head; returns its norm before."""
    head = model.get_submodule(name)
    if parametrize.is_parametrized(head):
        raise ValueError(
            f"head {name!r} has a parametrised weight, which cannot be set to a norm: remove the "
            "parametrisation first (torch.nn.utils.parametrize.remove_parametrizations)"
        )
    weight = getattr(head, "weight", None)
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"head {name!r} ({type(head).__name__}) has no weight parameter of its own to freeze")
    owners = [n for n, p in model.named_parameters(remove_duplicate=False) if p is weight]
    if len(owners) > 1:
        raise ValueError(
            f"the head's weight is shared by {' and '.join(owners)}, and frozen it would freeze them all: untie it "
            f"before (model.{name}.weight = torch.nn.Parameter(model.{name}.weight.detach().clone()), or "
            "tie_word_embeddings=False in a transformers configuration), or pass head=False: the head then trains "
            "on as the embedding, and its norm sets the size of the outputs"
        )
    before = float(torch.linalg.vector_norm(weight.detach().abs().double()))
    if not (math.isfinite(before) and before > 0):
        raise ValueError(f"the weight of head {name!r} has norm {before}: it cannot be scaled to norm {norm:g}")
    with torch.no_grad():
        weight.mul_(norm / before)
    for parameter in head.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return before


# -- the function ------------------------------------------------------------------------------------------


def make_scale_invariant(
    model: nn.Module,
    head: str | nn.Module | Literal[False] | None = None,
    head_norm: float = 10.0,
    eps: float = 1e-12,
    *,
    check: Any = None,
) -> nn.Module:
    """A copy of ``model`` in which the weights ahead of norms are scale-invariant and the head is frozen.

    Norm layers lose weight and bias and get ``eps``; biases of linear and convolutional layers that feed
    straight into a norm (through nothing but reshapes, dropout and pooling) are removed; the head is scaled
    to ``head_norm`` and frozen with its bias. Layer, RMS and other norms keep their gain where it is known that
    something other than a linear layer reads them (attention products, a residual stream); batch, group and instance
    norms lose it everywhere, as published. The function computed changes where norms had learned weights
    and biases: do this before training. Parameters nothing normalises (embeddings, positional tables,
    biases added to a residual stream) stay as they are; :func:`onsphere.sphere_groups` tells them apart.

    Args:
        model: any module with at least one layer that normalises, by whatever name. It is not changed.
        head: the layer whose scale no norm removes: its name, the module itself, None for the one linear
            or convolutional layer that makes the output, or False to leave that as it is (a head tied to an embedding).
        head_norm: Frobenius norm of the head's weight. It sets the temperature of the logits; 10 is the
            papers'.
        eps: eps of every norm. 1e-12 works in float32; torch's batch norm refuses 0.
        check: a batch (a tensor, a tuple of the model's positional arguments or a dictionary of its keyword arguments).
            A model without a graph (every Hugging Face one) then shows in one forward pass what feeds what. The result
            is searched for its symmetries, and what is trainable but not on the joint sphere is named in
            ``scale_invariance.not_invariant``.

    Returns:
        The changed copy. Its attribute ``scale_invariance`` is a :class:`Changes`; the same text is logged to
        ``logging.getLogger("onsphere")`` at level INFO.

    Raises:
        ValueError: no norm layer; no head, several candidates, an unknown name, a head that a norm follows,
            that is a norm, is parametrised, shares its weight or has norm zero; ``head_norm`` or ``eps``
            not positive and finite; lazy parameters; a forward pass that fails on the batch.
        SymmetryError: with ``check``, if the symmetries cannot be found.

    Example:
        >>> model = onsphere.make_scale_invariant(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2)))
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['0.weight']
    """
    if not (math.isfinite(head_norm) and head_norm > 0):
        raise ValueError(f"head_norm must be positive and finite, not {head_norm}; the papers use 10")
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps must be positive and finite, not {eps}: torch refuses 0, 1e-12 is as good")
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise ValueError("the model has lazy parameters without a shape: run one forward pass first")
    frozen = tuple(frozen_norms(model))
    norms = {name: form for name, form in norm_forms(model).items() if name not in frozen}
    if not norms and frozen:
        raise ValueError(
            f"the norms of {type(model).__name__} are frozen (in evaluation mode while the rest trains) and so only "
            "scale and shift: put them into training mode"
        )
    if not norms:
        raise ValueError(
            f"{type(model).__name__} has no norm layer (no part of it computes what one does), so none of its weights "
            "is scale-invariant: put a batch, layer, group, instance or RMS norm after each layer"
        )

    wiring = Wiring(model, norms) if check is None else Wiring(model, norms, *call_arguments(check))
    head_name = None if head is False else _head_name(model, head, wiring)
    if head_name is not None and head_name in norms:
        raise ValueError(f"head {head_name!r} is a norm layer; give the linear layer that makes the output")
    if head_name in wiring.before_norm:
        raise ValueError(
            f"head {head_name!r} is followed by a norm, which removes the scale a head sets; give the "
            f"layer that makes the output, one of {_choices(model)}"
        )

    result = duplicate(model)
    head_norm_before = None if head_name is None else _freeze_head(result, head_name, head_norm)
    affine, kept, left = [], [], {}
    for name, form in norms.items():
        norm = result.get_submodule(name)
        set_eps(norm, form, eps)
        remaining = 0.0 if is_norm(norm) else hidden_eps(norm, form)
        if remaining > 10 * eps and remaining > _VISIBLE_EPS:
            left[name] = remaining
        if form.gain is None and form.bias is None:
            continue
        if _keeps_gain(norm, wiring.readers.get(name)):
            kept.append(name)
        else:
            _strip_norm(norm, form)
            affine.append(name)
    for module in result.modules():
        # Their fused inference kernels read the norms' weights without asking whether there are any.
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False
    of_norms = {f"{name}.{form.bias}" for name, form in norms.items() if form.bias is not None}
    biases = []
    for name, layer in linear_layers(result):
        if name in wiring.before_norm and layer.bias is not None and not parametrize.is_parametrized(layer, "bias"):
            layer.register_parameter("bias", None)
            biases.append(f"{name}.bias")
    changes = Changes(
        norms=tuple(norms),
        affine=tuple(affine),
        biases=tuple(biases),
        kept_biases=tuple(
            n
            for n, p in result.named_parameters()
            if p.requires_grad and n.rpartition(".")[2].endswith("bias") and n not in of_norms
        ),
        head=head_name,
        head_norm=None if head_name is None else float(head_norm),
        head_norm_before=head_norm_before,
        eps=float(eps),
        traced=wiring.traced,
        not_invariant=None if check is None else _not_invariant(result, check),
        kept_gains=tuple(kept),
        hidden_eps=left,
        frozen=frozen,
    )
    result.scale_invariance = changes  # type: ignore[assignment]
    logger.info("%s", changes)
    return result


def _not_invariant(model: nn.Module, batch: Any) -> tuple[str, ...]:
    args, kwargs = call_arguments(batch)
    found = find_symmetries(model, *args, unused="ignore", **kwargs)
    return tuple(name for name in found.names if name not in set(found.invariant))


def _keeps_gain(norm: nn.Module, readers: frozenset[str] | None) -> bool:
    """Whether a norm's weight and bias stay: nothing that reads its output could make up for them, or nobody knows."""
    if isinstance(norm, _NormBase | nn.GroupNorm | BatchStatistics):
        return False
    if readers is None:
        return not is_norm(norm)
    return bool(readers - {"linear"})


def _strip_norm(norm: nn.Module, form: NormForm) -> None:
    """Take weight and bias off; a layer that is not one of torch's gets frozen ones that do nothing."""
    for name, value in ((form.gain, form.neutral), (form.bias, 0.0)):
        if name is None:
            continue
        if parametrize.is_parametrized(norm, name):
            raise ValueError(f"a {type(norm).__name__} has a parametrised {name}: remove the parametrisation first")
        if is_norm(norm):
            norm.register_parameter(name, None)
        else:
            parameter = getattr(norm, name)
            with torch.no_grad():
                parameter.fill_(value)
            parameter.requires_grad_(False)
            parameter.grad = None
    for flag in ("affine", "elementwise_affine"):
        if hasattr(norm, flag):
            setattr(norm, flag, False)
