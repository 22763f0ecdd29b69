"""The drop: train at one (effective) learning rate, go on at a smaller one, and see which start gives good minima.

spec -> run (starts, continuations, averages, paths) -> analyse -> result -> page
"""
