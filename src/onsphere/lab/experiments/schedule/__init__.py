"""The schedule that a regime map proposes, trained against tuned rivals at equal steps.

``spec`` says what is asked for, ``maps`` finds the boundaries, ``methods`` lists the rivals, ``run`` trains, ``result``
holds means, intervals and the verdict, ``courses`` reads the training back for ``charts``, ``page`` puts it together.
"""
