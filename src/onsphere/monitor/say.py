"""How a monitor complains: as a warning, and where warnings are errors in Python's log; it never raises."""

from __future__ import annotations

import logging
import warnings

__all__ = ["say"]

_log = logging.getLogger("onsphere.monitor")


def say(message: str) -> None:
    """Warn (RuntimeWarning). With ``-W error`` a warning would stop training: it is logged instead."""
    text = f"onsphere.Monitor: {message}"
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    except Exception:
        _log.warning("%s", text)
