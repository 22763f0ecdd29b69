"""The regime map: which effective learning rates converge, level off, or diverge.

spec -> run (grid, label, bisect) -> result -> page
"""
