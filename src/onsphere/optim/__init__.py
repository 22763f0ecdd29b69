"""Optimisers that hold scale-invariant weights on spheres, where the learning rate is the effective one.

:class:`SphereSGD` steps and projects; :func:`keep_on_sphere` does it to any torch optimiser and :func:`release` undoes
that; :func:`sphere_sgd` and :func:`sgd` are the updates as pure functions.
"""

from onsphere.optim._functional import sgd, sphere_sgd
from onsphere.optim._sphere_sgd import SphereSGD
from onsphere.optim.keep import keep_on_sphere, release

__all__ = ["SphereSGD", "keep_on_sphere", "release", "sgd", "sphere_sgd"]
