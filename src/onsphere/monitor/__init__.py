"""Norms, ELR, effective gradients and angles while somebody trains; what they mean and what comes next."""

from onsphere.monitor.monitor import Monitor

__all__ = ["Monitor"]
