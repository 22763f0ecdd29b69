"""Optimisers that hold scale-invariant weights on spheres, where the learning rate is the effective one.

:class:`SphereSGD` steps and projects; :func:`keep_on_sphere` does it to any torch optimiser and :func:`release` undoes
that; :func:`sphere_sgd`, :func:`sgd` and :func:`adam` are the updates as pure functions. :class:`RegimeSchedule` is a
learning-rate schedule from a regime map, :func:`propose_elrs` the rule behind it.
"""

from onsphere.optim.decay import correct_decay
from onsphere.optim.keep import keep_on_sphere, release
from onsphere.optim.optimizer import SphereSGD
from onsphere.optim.policies import Brake, Floor
from onsphere.optim.proposal import ProposedElrs, propose_elrs
from onsphere.optim.schedule import RegimeSchedule
from onsphere.optim.updates import adam, sgd, sphere_sgd

__all__ = [
    "Brake",
    "Floor",
    "ProposedElrs",
    "RegimeSchedule",
    "SphereSGD",
    "adam",
    "correct_decay",
    "keep_on_sphere",
    "propose_elrs",
    "release",
    "sgd",
    "sphere_sgd",
]
