"""Multilayer perceptrons: a scale-invariant one, the quickest network that shows the three regimes, and a plain one.

    mlp             Flatten, [Linear without bias, BatchNorm1d without affine, ReLU] for each width, frozen head without
                    bias
    layer-norm-mlp  the same with LayerNorm without affine: no example's output depends on the others
    plain-mlp       Flatten, [Linear, ReLU] for each width, Linear

All weights of the first two but the head's are scale-invariant: ``f(c w) = f(w)`` for every c > 0. The last has no
scale-invariant weights, and all of it is trained: the smallest network that can spend a memory budget.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from onsphere.lab.models.blocks import ModelError, check_common, frozen, positive_integer


def mlp(
    input_shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (64, 64),
    head_norm: float = 10.0,
    eps: float = 1e-12,
) -> nn.Sequential:
    """Build the scale-invariant perceptron, with PyTorch's default initialisation.

    Args:
        input_shape: shape of one example; it is flattened.
        classes: number of outputs, one for each class.
        widths: units of each hidden layer, at least one layer.
        head_norm: Frobenius norm of the frozen last layer.
        eps: eps of the batch norms.

    Returns:
        A model [N, *input_shape] -> [N, classes] with layers ``linear1``, ``bn1``, ``relu1``, ... and ``head``.

    Raises:
        ModelError: for arguments that are not positive, or no widths.
    """
    check_common(input_shape, classes, head_norm, eps)
    layers, features = _hidden(input_shape, widths, lambda width: nn.BatchNorm1d(width, eps=eps, affine=False))
    layers["head"] = frozen(nn.Linear(features, classes, bias=False), head_norm)
    return nn.Sequential(layers)


class OppositeLogits(nn.Module):
    """One output z [N, 1] as the logits -z/2 and z/2: their cross-entropy is the logistic loss log(1 + exp(∓z))."""

    def forward(self, z: Tensor) -> Tensor:
        """The logits of two classes: [N, 2]."""
        return torch.cat([-z / 2, z / 2], -1)


def layer_norm_mlp(
    input_shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (32,),
    head_norm: float = 10.0,
    eps: float = 1e-12,
) -> nn.Sequential:
    """Build the scale-invariant perceptron with layer norms, with PyTorch's default initialisation.

    Two classes have one output z, which :class:`OppositeLogits` turns into logits; more have an output each. On inputs
    of 32 numbers it is the network 32-32-1 of the synthetic example of Sadrtdinov, Kodryan et al., NeurIPS 2024.

    Args:
        input_shape: shape of one example; it is flattened.
        classes: how many outputs the head has, one for each class.
        widths: units of each hidden layer, at least one layer.
        head_norm: Frobenius norm of the frozen last layer.
        eps: eps of the layer norms.

    Returns:
        A model [N, *input_shape] -> [N, classes] with layers ``linear1``, ``norm1``, ``relu1``, ..., ``head``, and
        ``logits`` for two classes.

    Raises:
        ModelError: for arguments that are not positive, or no widths.
    """
    check_common(input_shape, classes, head_norm, eps)
    layers, features = _hidden(
        input_shape, widths, lambda width: nn.LayerNorm(width, eps=eps, elementwise_affine=False)
    )
    layers["head"] = frozen(nn.Linear(features, 1 if classes == 2 else classes, bias=False), head_norm)
    if classes == 2:
        layers["logits"] = OppositeLogits()
    return nn.Sequential(layers)


def plain_mlp(input_shape: Sequence[int], classes: int, *, widths: Sequence[int] = (64, 64)) -> nn.Sequential:
    """Build the ordinary perceptron, with PyTorch's default initialisation.

    Args:
        input_shape: shape of one example; it is flattened.
        classes: number of outputs, one for each class.
        widths: units of each hidden layer, at least one layer.

    Returns:
        A model [N, *input_shape] -> [N, classes] with layers ``linear1``, ``relu1``, ... and ``head``.

    Raises:
        ModelError: for arguments that are not positive, or no widths.
    """
    check_common(input_shape, classes)
    layers, features = _hidden(input_shape, widths, None)
    layers["head"] = nn.Linear(features, classes)
    return nn.Sequential(layers)


def _hidden(
    input_shape: Sequence[int], widths: Sequence[int], norm: Callable[[int], nn.Module] | None
) -> tuple[OrderedDict[str, nn.Module], int]:
    """All layers but the head, and how many features they give; with norms in place of biases where there are any."""
    if not widths:
        raise ModelError("widths must name at least one hidden layer, such as (64, 64), not ()")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    features = math.prod(input_shape)
    for i, width in enumerate(widths, 1):
        positive_integer("every entry of widths", width)
        layers[f"linear{i}"] = nn.Linear(features, width, bias=norm is None)
        if norm is not None:
            made = norm(width)
            layers[f"{'bn' if isinstance(made, nn.BatchNorm1d) else 'norm'}{i}"] = made
        layers[f"relu{i}"] = nn.ReLU()
        features = width
    return layers, features
