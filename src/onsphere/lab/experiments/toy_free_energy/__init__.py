"""Energy, entropy and temperature of objects on a sphere: under- and over-parameterised training."""
