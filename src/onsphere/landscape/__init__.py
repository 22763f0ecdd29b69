"""The loss landscape on the sphere: angles, paths, barriers, slices, averages, similarity, alignment, image bands."""

from onsphere.landscape.alignment import Alignment, align
from onsphere.landscape.averages import SphereAverage, average
from onsphere.landscape.bands import fourier_bands
from onsphere.landscape.barriers import Barrier, barrier
from onsphere.landscape.curves import Curve, train_curve
from onsphere.landscape.directions import angle, chord, geodesic
from onsphere.landscape.permutations import Axis, permutation_groups, permute
from onsphere.landscape.similarity import cka, disagreement, symmetric_kl
from onsphere.landscape.slices import Slice, slice_along, slice_through

__all__ = [
    "Alignment",
    "Axis",
    "Barrier",
    "Curve",
    "Slice",
    "SphereAverage",
    "align",
    "angle",
    "average",
    "barrier",
    "chord",
    "cka",
    "disagreement",
    "fourier_bands",
    "geodesic",
    "permutation_groups",
    "permute",
    "slice_along",
    "slice_through",
    "symmetric_kl",
    "train_curve",
]
