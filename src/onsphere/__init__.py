"""Effective learning rates, training on the sphere and the three regimes of normalised networks."""
