"""``onsphere landscape spectrum``: what the minima of different effective learning rates are like."""
