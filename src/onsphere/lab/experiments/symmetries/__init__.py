"""Every scaling symmetry of a model as a command and a page: which weights are scale-invariant, alone or together.

spec -> model and batch -> :func:`onsphere.find_symmetries` -> result -> page, terminal
"""
