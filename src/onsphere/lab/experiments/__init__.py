"""The experiments, a room each; ``onsphere.lab.registry`` lists them."""
