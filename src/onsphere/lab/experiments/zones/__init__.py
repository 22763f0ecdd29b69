"""The zone of high sharpness that training has to pass: sharpness along paths, and what other ELRs do from there.

``spec`` says what is asked, ``run`` trains, ``measure`` finds sharpness, ``analyse`` judges continuations, ``result``
holds what was found, ``page`` writes the page, ``terminal`` is the command line's side.
"""
