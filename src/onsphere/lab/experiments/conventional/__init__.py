"""``onsphere landscape conventional``: what the sphere says about an ordinary run."""
