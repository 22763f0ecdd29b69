"""Which parameters may be rescaled without changing the function (model, batch -> symmetries, groups)."""

from onsphere.symmetry.find import INVARIANT_BELOW, find_symmetries
from onsphere.symmetry.mapping import regroup
from onsphere.symmetry.noether import noether_residual
from onsphere.symmetry.probe import SymmetryError
from onsphere.symmetry.result import Symmetries
from onsphere.symmetry.sphere_groups import scale_deviations, sphere_groups

__all__ = [
    "INVARIANT_BELOW",
    "Symmetries",
    "SymmetryError",
    "find_symmetries",
    "noether_residual",
    "regroup",
    "scale_deviations",
    "sphere_groups",
]
