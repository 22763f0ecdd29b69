"""What onsphere knows about normalisation layers, and batch statistics that are fast and accurate.

A layer followed by a normalisation is scale-invariant because the normalisation divides its scale out:

    y = (x - mean(x)) / sqrt(var(x) + eps),        y(c x) = y(x)  for c > 0, as far as eps is negligible.

Four things are needed around that: recognising norm layers (:data:`NORM_LAYERS`, :func:`is_norm`,
:func:`norm_layers`); knowing which of them are frozen (:func:`frozen_norms`); batch normalisation without running
buffers for functional training steps (:class:`BatchStatistics`, :func:`without_running_statistics`); and fresh running
statistics before an evaluation (:func:`reestimate_batch_statistics`).
"""

from onsphere.normalisation.frozen import frozen_norms
from onsphere.normalisation.layers import NORM_LAYERS, is_norm, norm_layers
from onsphere.normalisation.reestimation import reestimate_batch_statistics
from onsphere.normalisation.statistics import BatchStatistics, without_running_statistics

__all__ = [
    "NORM_LAYERS",
    "BatchStatistics",
    "frozen_norms",
    "is_norm",
    "norm_layers",
    "reestimate_batch_statistics",
    "without_running_statistics",
]
