"""Data sets in memory: named ones from local files or checksummed downloads, or the user's own arrays.

    data = onsphere.lab.data.load("fashion-mnist", train=5000, pool=2, label_noise=0.1)
    data.x_train, data.y_train         # float32 [5000, 1, 14, 14], int64 [5000]
    batch_indices(5000, 128, seed=0, start=0, stop=10)      # which examples the first ten steps see

A named set asked for with the same arguments is the same to the bit on every machine. Nothing here reads or
writes global random state.
"""

from onsphere.lab.data.arrays import from_arrays
from onsphere.lab.data.batches import batch_indices, drawn_indices
from onsphere.lab.data.checks import DataError
from onsphere.lab.data.dataset import Dataset
from onsphere.lab.data.named import NAMES, load
from onsphere.lab.data.redundant import redundant_features

__all__ = [
    "NAMES",
    "DataError",
    "Dataset",
    "batch_indices",
    "drawn_indices",
    "from_arrays",
    "load",
    "redundant_features",
]
