"""The pairs with weight decay: jumps, periods and their law.

spec -> run -> result -> page
"""
