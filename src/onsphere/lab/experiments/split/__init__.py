"""A memory budget spent well: one wide network, or an ensemble of several thinner ones.

spec -> study (splits, widths) -> pools (networks, logits) -> answers (measure, decide, predict) -> result -> page
"""
