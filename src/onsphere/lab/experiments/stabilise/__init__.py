"""The chaotic equilibrium and divergence from inside: levels after a change of ELR, wandering, the random walk.

``spec`` says what is asked, ``run`` trains, ``analyse`` and ``wander`` measure, ``result`` holds what was found,
``page`` writes the page, ``terminal`` is the command line's side.
"""
