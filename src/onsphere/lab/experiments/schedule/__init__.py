"""The schedule that a regime map proposes, trained against tuned rivals at equal steps.

``spec`` says what is asked for, ``run`` trains, ``result`` holds means, intervals and the verdict, ``page`` draws them.
"""
