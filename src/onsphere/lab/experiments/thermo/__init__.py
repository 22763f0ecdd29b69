"""Training of networks as thermodynamics: the ideal gas under three protocols, and the free energy over the ELR."""
