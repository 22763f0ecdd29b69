"""The chaotic equilibrium and divergence from inside: levels after a change of ELR, wandering, the random walk."""
