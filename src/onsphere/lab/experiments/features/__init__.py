"""Which features networks learn from different starts: how many of redundant ones, which bands of frequency.

spec -> run (starts, one small ELR after them, accuracies by feature or band) -> analyse -> result -> page
"""
