"""What each tensor of a model is for, seen in one forward pass, and what follows for training: spheres, optimisers."""

from onsphere.roles.norm_groups import NormGroups, NormRow, norm_groups
from onsphere.roles.param_groups import ParamGroups, param_groups
from onsphere.roles.roles import Role, Roles, find_roles

__all__ = ["NormGroups", "NormRow", "ParamGroups", "Role", "Roles", "find_roles", "norm_groups", "param_groups"]
