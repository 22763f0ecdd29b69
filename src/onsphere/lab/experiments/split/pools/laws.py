"""Power laws through what was measured: in the number of networks, in their size, and in the budget.

    in n        ensembles of 1, 2, 4, ... networks of one width
    in s        ensembles of one size over the parameters of a network, of all widths
    in B        the best split of every budget, over the budget

The exponent of a law in n is fixed at -1 where the points do not determine one, which the NLL has at a fixed
temperature. Size and budget have no such exponent, so that a law in them is refused where it is not determined, and
where larger is worse (overfitting, the zone of double descent).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from onsphere.ensembles import PowerLaw, PowerLawError, fit_power_law
from onsphere.lab.experiments.split.pools.points import Fit, Law, Point
from onsphere.lab.experiments.split.result import BudgetAnswer
from onsphere.lab.result import plain_of, typed

#: The metrics that laws are fitted to on the page.
LAWFUL = ("nll", "cnll")


def fit(width: int, metric: str, points: Sequence[Point]) -> Law:
    """The law through the points of one width: free exponent where they determine one, else -1, else none."""
    sizes = [p.size for p in points]
    values = [p.mean[metric] for p in points]
    errors = [p.standard_error[metric] for p in points]
    given = [e for e in errors if e] if all(errors) else None
    reason = ""
    for exponent in (-1.0,) if given is None and len(sizes) <= 3 else (None, -1.0):
        try:
            law = fit_power_law(sizes, values, errors=given, exponent=exponent, rising=metric == "accuracy")
        except PowerLawError as error:
            reason = str(error)
            continue
        return law_of(width, metric, law)
    return Law(width, metric, None, reason)


def law_of(width: int, metric: str, law: PowerLaw | None) -> Law:
    """A fitted law as the result keeps it."""
    if law is None:
        return Law(width, metric, None, "no law fits")
    return Law(width, metric, _kept(law), "exponent fixed at -1" if law.fixed_exponent else "")


def _kept(law: PowerLaw) -> Fit:
    return typed(Fit, plain_of(law.to_dict()))


def laws_in_size(points: Sequence[Point], parameters: Mapping[int, int]) -> list[Law]:
    """For every ensemble size that two widths have at the least, the laws over the parameters of a network."""
    found = []
    for size in sorted({p.size for p in points}):
        own = sorted((p for p in points if p.size == size), key=lambda p: parameters[p.width])
        if len(own) > 1:
            at = [parameters[p.width] for p in own]
            for metric in LAWFUL:
                errors = [p.standard_error[metric] for p in own]
                law, note = _determined("widths", at, [p.mean[metric] for p in own], errors)
                found.append(Law(0, metric, law, note, along="size", members=size))
    return found


def laws_in_budget(answers: Sequence[BudgetAnswer]) -> list[Law]:
    """The laws through the best split of every budget; of one budget none is spoken of."""
    found = []
    for metric in LAWFUL if len(answers) > 1 else ():
        rows = [answer.row(answer.best[metric]) for answer in answers]
        errors = [row.standard_error[metric] for row in rows]
        law, note = _determined("budgets", [r.budget for r in rows], [r.score(metric) for r in rows], errors)
        found.append(Law(0, metric, law, note, along="budget"))
    return found


def _determined(
    what: str, at: Sequence[int], values: Sequence[float], errors: Sequence[float | None]
) -> tuple[Fit | None, str]:
    """The law with a free exponent, or why there is none."""
    given = [e for e in errors if e] if all(errors) else None
    needed = 3 if given is not None else 4  # three parameters; and without errors something that tells the noise
    if len(set(at)) < needed or not all(map(math.isfinite, values)):
        return None, f"{len(set(at))} {what}; a law of three parameters takes at least {needed}"
    if given is not None and (rise := _rise(at, values, given)):
        return None, rise
    try:
        return _kept(fit_power_law(at, values, errors=given)), ""
    except PowerLawError as error:
        return None, str(error).split(";")[0]  # what is advised then is for laws in the number of networks


def _rise(at: Sequence[int], values: Sequence[float], errors: Sequence[float]) -> str:
    """That larger is worse somewhere by more than three standard errors, which no falling law can be; else nothing."""
    for i, j in combinations(range(len(at)), 2):
        if values[j] - values[i] > 3 * math.hypot(errors[i], errors[j]):
            return f"it is worse at {at[j]:,} than at {at[i]:,} by more than three standard errors, which no law is"
    return ""
