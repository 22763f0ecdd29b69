"""A network changed: its weights made scale-invariant, or its matrices a direction times gains.

:func:`make_scale_invariant` recognises norms, sees what feeds what, takes gains off in a copy of the model, and says in
:class:`Changes` what was done. :func:`decouple` gives matrices on spheres gains, and :func:`fuse` multiplies these in.
"""

from onsphere.surgery.changes import Changes
from onsphere.surgery.gains import Gains, decouple, fuse
from onsphere.surgery.make import make_scale_invariant

__all__ = ["Changes", "Gains", "decouple", "fuse", "make_scale_invariant"]
