"""A scale-invariant multilayer perceptron, the quickest network that shows the three regimes.

    Flatten, [Linear without bias, BatchNorm1d without affine, ReLU] for each width, frozen head without bias

All weights but the head's are scale-invariant: ``f(c w) = f(w)`` for every c > 0.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from onsphere.lab.models.blocks import ModelError, check_common, frozen, positive_integer


def mlp(
    input_shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (64, 64),
    head_norm: float = 10.0,
    eps: float = 1e-12,
) -> nn.Sequential:
    """Build the perceptron, with PyTorch's default initialisation.

    Args:
        input_shape: shape of one example; it is flattened.
        classes: number of outputs, one for each class.
        widths: units of each hidden layer, at least one layer.
        head_norm: Frobenius norm of the frozen last layer.
        eps: eps of the batch norms.

    Returns:
        A model [N, *input_shape] -> [N, classes] with layers ``linear1``, ``bn1``, ``relu1``, ... and
        ``head``.

    Raises:
        ModelError: for arguments that are not positive, or no widths.
    """
    check_common(input_shape, classes, head_norm, eps)
    if not widths:
        raise ModelError("widths must name at least one hidden layer, such as (64, 64), not ()")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    features = math.prod(input_shape)
    for i, width in enumerate(widths, 1):
        positive_integer("every entry of widths", width)
        layers[f"linear{i}"] = nn.Linear(features, width, bias=False)
        layers[f"bn{i}"] = nn.BatchNorm1d(width, eps=eps, affine=False)
        layers[f"relu{i}"] = nn.ReLU()
        features = width
    layers["head"] = frozen(nn.Linear(features, classes, bias=False), head_norm)
    return nn.Sequential(layers)
