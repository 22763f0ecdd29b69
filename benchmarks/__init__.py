"""Measured ratios, each side by side in one run. Nothing here is asserted by a test: ``make bench`` prints."""
