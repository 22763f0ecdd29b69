"""Experiments on the loss landscape of scale-invariant networks."""
