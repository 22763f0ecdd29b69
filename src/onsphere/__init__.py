"""Effective learning rates, training on the sphere and the three regimes of normalised networks, for PyTorch.

In a network with normalisation layers most weights are scale-invariant: only their direction matters, and the
effective learning rate (ELR = lr / norm²) decides what training does. The names below are loaded when first used, so
that importing the package costs nothing; they need torch and numpy alone. ``onsphere.lab`` holds whole experiments
and is installed as ``onsphere[lab]``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onsphere import curvature as curvature
    from onsphere import dynamics as dynamics
    from onsphere import ensembles as ensembles
    from onsphere import landscape as landscape
    from onsphere.monitor import Monitor as Monitor
    from onsphere.optim import SphereSGD as SphereSGD
    from onsphere.optim import correct_decay as correct_decay
    from onsphere.optim import keep_on_sphere as keep_on_sphere
    from onsphere.optim import release as release
    from onsphere.roles import norm_groups as norm_groups
    from onsphere.roles import param_groups as param_groups
    from onsphere.spheres import Sphere as Sphere
    from onsphere.surgery import decouple as decouple
    from onsphere.surgery import fuse as fuse
    from onsphere.surgery import make_scale_invariant as make_scale_invariant
    from onsphere.symmetry import Symmetries as Symmetries
    from onsphere.symmetry import SymmetryError as SymmetryError
    from onsphere.symmetry import find_symmetries as find_symmetries
    from onsphere.symmetry import noether_residual as noether_residual
    from onsphere.symmetry import regroup as regroup
    from onsphere.symmetry import sphere_groups as sphere_groups

__version__ = "0.2.0"

_HOME = {
    "Monitor": "onsphere.monitor",
    "Sphere": "onsphere.spheres",
    "SphereSGD": "onsphere.optim",
    "Symmetries": "onsphere.symmetry",
    "SymmetryError": "onsphere.symmetry",
    "correct_decay": "onsphere.optim",
    "decouple": "onsphere.surgery",
    "find_symmetries": "onsphere.symmetry",
    "fuse": "onsphere.surgery",
    "noether_residual": "onsphere.symmetry",
    "keep_on_sphere": "onsphere.optim",
    "make_scale_invariant": "onsphere.surgery",
    "norm_groups": "onsphere.roles",
    "param_groups": "onsphere.roles",
    "regroup": "onsphere.symmetry",
    "release": "onsphere.optim",
    "sphere_groups": "onsphere.symmetry",
}

_MODULES = (
    *("curvature", "dynamics", "ensembles", "lab", "landscape"),
    *("monitor", "optim", "roles", "spheres", "symmetry"),
)

__all__ = [
    "Monitor",
    "Sphere",
    "SphereSGD",
    "Symmetries",
    "SymmetryError",
    "__version__",
    "correct_decay",
    "decouple",
    "find_symmetries",
    "fuse",
    "keep_on_sphere",
    "make_scale_invariant",
    "noether_residual",
    "norm_groups",
    "param_groups",
    "regroup",
    "release",
    "sphere_groups",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"onsphere.{name}")
    raise AttributeError(f"module 'onsphere' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
