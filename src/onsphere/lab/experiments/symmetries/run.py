"""From a spec to the symmetries of its model: the search is one call, which a resumed run makes again.

A :class:`onsphere.SymmetryError` says that this model cannot be answered about with this batch, so it counts as bad
input: the folder that was made for it is taken back and the command ends with status 2.
"""

from __future__ import annotations

import time
from typing import Any

import onsphere
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Experiment, Refused, Session
from onsphere.lab.experiments.symmetries.page import printed, report
from onsphere.lab.experiments.symmetries.prepare import Question, question
from onsphere.lab.experiments.symmetries.result import SymmetriesResult
from onsphere.lab.experiments.symmetries.spec import SymmetriesSpec
from onsphere.lab.experiments.symmetries.words import answer, describe
from onsphere.lab.options import InputError
from onsphere.lab.result import elapsed

_LARGE = 3_000_000  # trainable numbers from which a search takes long enough to say that it has begun


def measure(session: Session[SymmetriesSpec, Question]) -> dict[str, Any]:
    """Find the symmetries; asked to stop, it does so before the search or after it.

    Raises:
        Refused: The model's symmetries cannot be found with this batch.
        Interrupted: The run was asked to stop.
    """
    spec, asked = session.spec, session.given
    trained = [p.numel() for p in asked.model.parameters() if p.requires_grad]
    if sum(trained) > _LARGE:
        told = f"{spec.model}: {sum(trained):,} numbers in {len(trained)} tensors, a backward pass each"
        session.progress.note(told)
    if session.stop():
        raise Interrupted
    began = time.monotonic()
    try:
        found = onsphere.find_symmetries(
            asked.model, *asked.inputs, output=asked.output, rows=spec.rows, unused=spec.unused, **asked.kwargs
        )
    except onsphere.SymmetryError as error:
        wrong_output = isinstance(error.__cause__, InputError)  # speaks for itself
        raise Refused(str(error.__cause__) if wrong_output else f"{spec.model}: {error}") from error
    seconds = elapsed(began)
    if session.stop():
        raise Interrupted
    return found.to_dict() | {"seconds": seconds}


EXPERIMENT = Experiment(
    spec=SymmetriesSpec,
    result=SymmetriesResult,
    prepare=lambda spec, model, data, progress: question(spec),
    measure=measure,
    report=report,
    answer=lambda result: answer(result.found),
    describe=lambda result: describe(result.found),
    runs=lambda result: 0,
    printed=printed,
)
