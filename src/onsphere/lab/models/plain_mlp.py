"""An ordinary multilayer perceptron without norms, the smallest network that can spend a memory budget.

    Flatten, [Linear, ReLU] for each width, Linear

It has no scale-invariant weights, and all of it is trained.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from onsphere.lab.models.blocks import ModelError, check_common, positive_integer


def plain_mlp(input_shape: Sequence[int], classes: int, *, widths: Sequence[int] = (64, 64)) -> nn.Sequential:
    """Build the perceptron, with PyTorch's default initialisation.

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
    if not widths:
        raise ModelError("widths must name at least one hidden layer, such as (64, 64), not ()")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    features = math.prod(input_shape)
    for i, width in enumerate(widths, 1):
        positive_integer("every entry of widths", width)
        layers[f"linear{i}"] = nn.Linear(features, width)
        layers[f"relu{i}"] = nn.ReLU()
        features = width
    layers["head"] = nn.Linear(features, classes)
    return nn.Sequential(layers)
