"""The pairs on a sphere: their loss at fixed effective learning rates against the closed form.

spec -> run -> result -> page
"""
