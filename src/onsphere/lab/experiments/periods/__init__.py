"""The periodic behaviour of normalised networks under weight decay: jumps, periods, their law, the equilibrium.

spec -> run -> readings -> analyse -> result -> page
"""
