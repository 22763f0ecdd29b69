"""The isotropic-noise model: energy, radius, pressure and entropy against the laws of an ideal gas.

spec -> run -> result -> page
"""
