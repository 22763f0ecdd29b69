"""What a map of the regimes says in words: the answer, the boundaries in a line, how each quantity is measured.

The sentences are derived from the boundaries alone: an unresolved boundary is called that, with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from onsphere.lab.experiments.regimes.classify import (
    NAMES,
    VERBS,
    Boundary,
    BoundaryName,
    Cell,
    find_boundaries,
    unsettled,
)
from onsphere.lab.experiments.regimes.result import RegimesResult, regions
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.report.words import format_interval, format_number, format_range

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

_ELR = {
    "joint": "lr / norm², the norm that of all scale-invariant weights together, which is kept at every step",
    "groups": "lr / norm² of every scale-invariant group by itself: each keeps its own norm and has this ELR",
    "rows": (
        "lr / the sum of the norms² of all filters, which share one norm and keep it: every filter's own ELR is this "
        "times their number"
    ),
}
_LABELS = {
    "other": "--label-noise of the training labels are another class, drawn uniformly among the others",
    "any": (
        "--label-noise of the training labels are drawn anew, uniformly among all classes, so that some of them stay "
        "right and count as right"
    ),
}
_ANGLE = (
    "angular update",
    "mean angle between the weights on spheres, all together, before and after a step, over the last quarter, radians",
)


def measured(spec: RegimesSpec) -> list[tuple[str, str]]:
    """How each quantity is measured, and what the effective learning rate is."""
    plain = spec.spheres == "joint" and spec.head == "frozen" and spec.momentum == 0
    known = [("ELR", _ELR[spec.spheres])] if plain else [("ELR", _ELR[spec.spheres]), *_besides(spec)]
    if spec.label_noise:
        known.append(("right and wrong labels", _LABELS[spec.label_noise_kind] + "; each by the labels trained on"))
    return known + [_ANGLE if name == "angular update" and not plain else (name, how) for name, how in MEASURED]


def _besides(spec: RegimesSpec) -> list[tuple[str, str]]:
    found = []
    if spec.momentum:
        found.append(
            (
                "momentum",
                f"{format_number(spec.momentum)}, as in torch's SGD; its buffer is not projected. In the long run "
                f"steps are {format_number(1 / (1 - spec.momentum))} times as long, which the ELR does not count. A "
                "run is divergent when its training error is above 0.9 of that of guessing, since its steps stay "
                "near one another",
            )
        )
    if spec.head == "trained":
        found.append(
            (
                "trained head",
                f"the head, and what else is trained and no weight on a sphere, by SGD at the ordinary lr "
                f"{format_number(spec.head_lr_used)}; norms, gradients and angles are those of the weights on spheres",
            )
        )
    return found


def setting(spec: RegimesSpec) -> str:
    """What is not as in the default set-up, in words for a subtitle; empty where all is."""
    said = {"joint": "", "groups": "a sphere for every group", "rows": "a sphere for every filter"}[spec.spheres]
    head = f"trained head (lr {format_number(spec.head_lr_used)})" if spec.head == "trained" else ""
    momentum = f"momentum {format_number(spec.momentum)}" if spec.momentum else ""
    return ", ".join(part for part in (said, head, momentum) if part)


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


def describe_boundaries(cells: Sequence[Cell]) -> str:
    """The boundaries so far in one line."""
    parts = []
    for name, b in find_boundaries(cells).items():
        low, high = ("?" if end is None else f"{end:.2g}" for end in (b.low, b.high))
        parts.append(f"{VERBS[name]}: {f'{low} to {high}' if b.low or b.high else 'not seen yet'}")
    return "; ".join(parts)


def unresolved(result: RegimesResult) -> list[str]:
    """A sentence for each boundary that is not resolved, with its reason, and one for runs that are not settled."""
    names = {"convergence": "The end of convergence", "divergence": "The onset of divergence"}
    said = [
        f"{names[name]} is not resolved: {boundary.reason}"
        for name, boundary in result.boundaries.items()
        if not boundary.resolved
    ]
    still = unsettled(result.cells)
    if still and result.boundaries["convergence"].resolved:
        said.append(
            f"Still falling at the end: {len(still)} of {len(result.cells)} runs, at ELRs of "
            f"{format_range(cell.elr for cell in still)}, above every ELR at which a run of their seed fits its "
            "training data. Whether they would converge is not resolved"
        )
    return said


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
