"""A memory budget spent well: one wide network, or an ensemble of several thinner ones.

spec -> run (trains pools of every width) -> logits on disk -> measure -> decide, predict -> result -> page, terminal
"""
