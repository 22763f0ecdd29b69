"""The charts of the periods: courses and loops of runs, settings beside one another, what training once more showed."""
