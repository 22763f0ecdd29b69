"""A memory budget spent well: one wide network, or an ensemble of several thinner ones.

spec -> study (splits, widths) -> pools (trained, logits on disk) -> answers (measure, decide, predict) -> page
"""
