"""A network changed so that its weights are scale-invariant: norms recognised, what feeds what seen, gains taken off.

:func:`make_scale_invariant` does it to a copy of the model and says in :class:`Changes` what was done.
"""

from onsphere.surgery.changes import Changes
from onsphere.surgery.make import make_scale_invariant

__all__ = ["Changes", "make_scale_invariant"]
