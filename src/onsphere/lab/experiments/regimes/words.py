"""What a map of the regimes says in words: the answer, the boundaries in a line, how each quantity is measured.

The sentences are derived from the boundaries alone: an unresolved boundary is called that, with its reason.
"""

from __future__ import annotations

from onsphere.lab.experiments.regimes.classify import NAMES, VERBS, Boundary, BoundaryName, Cell, find_boundaries
from onsphere.lab.experiments.regimes.result import RegimesResult, regions
from onsphere.lab.report.words import format_interval

_RESOLVED = (
    "A bracket a – b says: in every seed the boundary lies between the ELRs a and b. It is resolved when "
    "runs on both sides of it were seen and their labels can be trusted; otherwise the report says what is "
    "missing."
)
_BY_STEP = "; batch statistics of each minibatch (train mode)"
_BY_DATA = "; batch statistics re-estimated over the training data beforehand"

UNITS = "Losses are means over examples with the natural logarithm; angles are in radians."
MEASURED = (
    (
        "training loss",
        "mean of the minibatch losses around a step; in the table, over the last quarter of training" + _BY_STEP,
    ),
    (
        "loss at initialisation",
        "training loss before the first step, over all training examples: the level of a random guess; batch "
        "statistics of all training examples together",
    ),
    (
        "gradient norm",
        "mean norm of the effective gradient, ρ‖∇‖ over the scale-invariant weights (the gradient at norm 1)"
        + _BY_STEP,
    ),
    (
        "angular update",
        "mean angle of a step, arctan(ELR · effective gradient norm), over the last quarter, in radians" + _BY_STEP,
    ),
    ("trend", "mean loss of the last quarter divided by that of the quarter before; below 1 it still falls" + _BY_STEP),
    (
        "training error",
        "percent wrong over all training examples, mean of the evaluations in the last quarter" + _BY_DATA,
    ),
    (
        "test error",
        "percent of wrong predictions over the whole test set at the end (in curves: at each evaluation)" + _BY_DATA,
    ),
)


def answer(result: RegimesResult) -> list[str]:
    """What was found, in two sentences or so, and what "resolved" means."""
    convergence, divergence = result.boundaries["convergence"], result.boundaries["divergence"]
    if not (convergence.resolved and divergence.resolved):
        return [" ".join(_alone(name, result.boundaries[name]) for name in NAMES), _RESOLVED]
    ends = f"Training converges up to an ELR of {_bracket(convergence)} and diverges from {_bracket(divergence)}"
    middle = any(region.regime == "chaotic_equilibrium" for region in regions(result.cells, result.boundaries))
    between = (
        "; in between it settles in a chaotic equilibrium."
        if middle
        else ", with no ELR in between that is chaotic in every seed."
    )
    return [ends + between, _RESOLVED]


def describe(result: RegimesResult) -> str:
    """Both boundaries in one line, for the list of runs."""
    return describe_boundaries(result.cells)


def describe_boundaries(cells: list[Cell]) -> str:
    """The boundaries so far in one line."""
    parts = []
    for name, b in find_boundaries(cells).items():
        low, high = ("?" if end is None else f"{end:.2g}" for end in (b.low, b.high))
        parts.append(f"{VERBS[name]}: {f'{low} to {high}' if b.low or b.high else 'not seen yet'}")
    return "; ".join(parts)


def unresolved(result: RegimesResult) -> list[str]:
    """A sentence for each boundary that is not resolved, with its reason."""
    names = {"convergence": "The end of convergence", "divergence": "The onset of divergence"}
    return [
        f"{names[name]} is not resolved: {boundary.reason}"
        for name, boundary in result.boundaries.items()
        if not boundary.resolved
    ]


def _alone(name: BoundaryName, boundary: Boundary) -> str:
    """What is known of a boundary beside one that is not resolved, or not itself."""
    if boundary.resolved:
        verb = "converges up to" if name == "convergence" else "diverges from"
        return f"Training {verb} an ELR of {_bracket(boundary)}."
    missing = [boundary.low, boundary.high].count(None)
    known = "" if missing == 2 else f" ({'somewhere' if missing else 'perhaps'} {_bracket(boundary)})"
    return f"Where {VERBS[name]} is not resolved{known}."


def _bracket(boundary: Boundary) -> str:
    return format_interval(boundary.low, boundary.high)
