"""The science of a memory split: what is trained, what its ensembles are worth, what follows.

study (families, splits, problems) -> measure (networks, logits, values) -> points, laws -> decide (verdicts,
predictions)
"""
