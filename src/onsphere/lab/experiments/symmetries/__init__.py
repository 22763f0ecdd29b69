"""Every scaling symmetry of a model as a command and a page: which weights are scale-invariant, alone or together."""
