"""The toy models as experiments: run a toy of :mod:`onsphere.dynamics.toys`, hold it against its law, write a page.

    regimes   loss at fixed effective learning rates against the closed form
    periods   gradient descent with weight decay: jumps and periods against their law
    thermo    training with isotropic noise against the thermodynamics of an ideal gas

Each is a folder: spec -> run -> result -> page. They take seconds on one core, so they know neither workers nor
devices, and an interrupted one starts again from its spec, to the same bits.
"""
