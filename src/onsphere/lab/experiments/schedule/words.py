"""What a comparison of schedules found, in sentences."""

from __future__ import annotations

from onsphere.lab.experiments.schedule.result import Method, ScheduleResult, Verdict
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number

_BASES = {
    "labels": "No run of the map interpolates, so the threshold follows from the labels of its runs.",
    "divergence": "The map does not resolve the threshold; a tenth of where divergence begins stands for it.",
}


def describe(result: ScheduleResult) -> str:
    """The result in one line."""
    start, end = format_number(result.proposal.start_elr), format_number(result.proposal.end_elr)
    word = "better" if result.verdict.better else "not worse" if result.verdict.not_worse else "worse"
    return f"ELR {start} to {end}: {word} than the best of the others"


def answer(result: ScheduleResult) -> list[str]:
    """The verdict first, then what was proposed, how the rivals were tuned, and what the intervals say."""
    verdict, proposal = result.verdict, result.proposal
    tuned = {method.family: method for method in result.tuned}
    rival = tuned[verdict.family]
    own, other = (method.over_seeds("test_error") for method in (tuned["proposed"], rival))
    times = proposal.start_elr / proposal.threshold
    found = [
        f"The proposed schedule has {100 * own.mean:.2f} % test error, the best of the others "
        f"({rival.name}, {numbers(rival)}) {100 * other.mean:.2f} %: {_judgement(verdict)}.",
        f"It holds ELR {format_number(proposal.start_elr)}, {format_number(times)} times the threshold at which "
        f"convergence ends, for {100 * proposal.hold:g} % of the steps, and falls to "
        f"{format_number(proposal.end_elr)}.",
    ]
    rivals = counted(len(result.methods) - 1, "setting")
    if result.tuned_on == "validation":
        found.append(f"The others are the best of {rivals} on validation images, by family.")
    else:
        found.append(
            f"The others are the best of {rivals} on the test set itself, by family, which favours them: there are no "
            "images left for validation."
        )
    if proposal.limited:
        found.append("The start was lowered to half of where divergence begins.")
    if proposal.basis in _BASES:
        found.append(_BASES[proposal.basis])
    return found


def numbers(method: Method) -> str:
    """A method's numbers: ``ELR 2e-3``, ``peak 0.064``, ``lr 1, wd 3e-4``."""
    rate = format_number(method.lr)
    if method.family == "proposed":
        return f"ELR {rate} to {format_number(method.end_lr)}"
    if method.family == "constant":
        return f"ELR {rate}"
    if method.family == "cosine":
        return f"peak ELR {rate}"
    return f"lr {rate}, wd {format_number(method.weight_decay)}"


def _judgement(verdict: Verdict) -> str:
    gap, error = 100 * verdict.difference, 100 * verdict.standard_error
    words = f"paired difference {gap:+.2f} ± {error:.2f} points (mean ± standard error; 95 % interval "
    words += f"{100 * verdict.low:+.2f} to {100 * verdict.high:+.2f})"
    if verdict.better:
        return f"it is better, {words}"
    if verdict.not_worse:
        return f"it is not worse by more than one standard error, {words}"
    if verdict.low > 0:
        return f"it is worse, {words}"
    return f"it is worse by more than one standard error, though the interval holds zero, {words}"
