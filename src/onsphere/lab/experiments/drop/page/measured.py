"""What is measured in a drop, and how it was trained: sentences that depend on the geometry."""

from __future__ import annotations

from onsphere.lab.experiments.drop.analyse import CONNECTED_ERROR
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.report.words import format_number

NO_ANGLES = (
    "No trained tensor of this network is scale-invariant, so that it has no sphere: angles, effective gradient norms "
    "and sharpness on the sphere are left out."
)
_DIFFERENCE = (
    "of two starts seed by seed, with its 95 % interval by Student's t over seeds; clear if zero is outside. It is "
    "not widened for having looked at many starts: the gain “by others” is free of that"
)
_CONVERGENCE = (
    "training error below 1 % in the last quarter before the drop, or mean loss of that quarter below 0.93 of the "
    "quarter before; it ends between the largest start up to which most seeds converge and the next one"
)

_ORDINARY = [
    (
        "divergence",
        "mean angular update above 1.2 rad in the last quarter, of SGD without momentum on scale-invariant weights; "
        "otherwise a training error there above 0.9 of that of guessing, at a rate above one that learns: runs that "
        "guess below all those are slow and count as converging",
    ),
    ("optimiser", "begins anew at the drop, without momentum or moments, in the control without a drop as well"),
]
_MATCHED = (
    "mean over 16 minibatches at fixed weights, with the batch statistics of each; every continuation is trained "
    "once more to where its running loss over 20 steps comes near, and the step closest to the loss is taken"
)
_AVERAGE = {
    True: "of the directions of the last snapshots before the drop, put back onto the sphere",
    False: "plain mean of all weights of the last snapshots before the drop, batch statistics re-estimated",
}
_PATH = {
    True: "a great circle",
    False: "a straight line (chord) of all weights, batch statistics re-estimated at every point",
}


def training_words(spec: DropSpec) -> str:
    """How ordinary training goes, in a line."""
    momentum = f" with momentum {spec.momentum_used:g}" if spec.momentum_used else ""
    augmented = ", augmented" if spec.augment else ""
    return f"ordinary training by {spec.optimizer}{momentum}, weight decay {spec.decay_used:g}{augmented}"


def rule(result: DropResult) -> str:
    """What the classes of starts follow from."""
    sphere = result.spec.training == "sphere"
    return (
        f"1: most seeds converge before the drop. 3: most seeds diverge before it. Between: 2A if in most seeds all "
        f"{'' if sphere else 'straight '}paths between the continuations at the smallest and largest final "
        f"{result.spec.rate} and the average of the snapshots are connected, 2B if not. A path is connected if its "
        f"error barrier on the training images is at most {100 * CONNECTED_ERROR:g} % or, if that is more, two "
        "standard errors √(p(1 − p)/N) of the mean error p of its ends. The rule is ours; the classes are those of "
        "Sadrtdinov, Kodryan et al. (NeurIPS 2024)."
    )


def missed(result: DropResult) -> str:
    """How many continuations are not at matched train loss, and why."""
    wanted = sum(row.finite for row in result.continuations)
    loss = f"a train loss of {format_number(result.spec.matched_loss)}"
    left = wanted - len(result.at_loss)
    if not left:
        return f"All {wanted} continuations came within 10 % of {loss}."
    return (
        f"{left} of {wanted} continuations are left out: at no step looked at was their loss within 10 % of {loss}; "
        "they lie below it from the drop on, stay above it, or pass it between two steps."
    )


def measurements(result: DropResult) -> list[tuple[str, str]]:
    """Every quantity of the page and what it is."""
    sphere = result.spec.training == "sphere"
    return [
        ("test error, losses", "all images at the last step, batch statistics re-estimated over all training images"),
        ("± and bars", "one standard error over seeds; the test images are the same for every seed"),
        ("difference", _DIFFERENCE),
        ("by others", "each seed's start is the one with the lowest mean test error of the other seeds"),
        ("convergence", _CONVERGENCE),
        *([] if sphere else _ORDINARY),
        *(_on_the_weights(result) if result.angled else [("angle", NO_ANGLES)]),
        *([] if result.spec.matched_loss is None else [("matched train loss", _MATCHED)]),
        ("average", _AVERAGE[sphere]),
        ("barrier", f"largest excess of training error or loss over the line between the ends of {_PATH[sphere]}"),
    ]


def _on_the_weights(result: DropResult) -> list[tuple[str, str]]:
    """What is measured over the scale-invariant weights."""
    norm = "mean of norm · ‖gradient‖ of the minibatches over the last quarter of the steps after the drop"
    eigenvalue = "of the training-mode Hessian on the unit sphere at the last step, by Lanczos to 1 %"
    angle = "between the weights at the drop and at the end"
    over = (
        ""
        if result.invariant is None
        else (
            f"; over the scale-invariant weights, {len(result.invariant)} tensors taken together, the others left out"
        )
    )
    named = (("gradient norm", norm), ("top eigenvalue", eigenvalue), ("angle", angle))
    return [(name, said + over) for name, said in named]
