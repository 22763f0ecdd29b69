"""What was found, in sentences that say no more than the intervals allow."""

from __future__ import annotations

from statistics import median

from onsphere.lab.chart.theme import REGIME_NAMES
from onsphere.lab.experiments.stabilise.result import Remaining, StabiliseResult, Stay
from onsphere.lab.intervals import quantile
from onsphere.lab.report.words import format_number, format_range

SMALL = 0.1  # memory below which a stationary state counts as memoryless
OVERSHOOT = 0.2  # of the difference between two levels, from where it is worth a word
LIKE_WALK = 0.05  # cosine
SPREAD = 2.0  # standard errors at which a difference counts


def describe(result: StabiliseResult) -> str:
    """The result in one line."""
    left = result.memory["loss"]
    kinds = [stay.wandering for stay in result.chaotic]
    return (
        f"{_percent(left.mean)} of the difference in loss left after a change of ELR ({_interval(left)}); "
        f"wandering local at {kinds.count('local')} ELRs, global at {kinds.count('global')}"
    )


def answer(result: StabiliseResult) -> list[str]:
    """Sentences: memory, how fast it goes, wandering and what lies between, the random walk."""
    return [_memory(result), *_largest(result), *_speed(result), *_wandering(result), _ways(result), *_walk(result)]


def unexpected(result: StabiliseResult) -> list[str]:
    """Warnings about ELRs that are in another regime than was asked for."""
    found = []
    for stay in result.stays:
        wanted = "chaotic_equilibrium" if stay in result.chaotic else "divergence"
        inside, runs = stay.regimes.get(wanted, 0), sum(stay.regimes.values())
        if inside < runs:
            others = [f"{n} in {REGIME_NAMES[name]}" for name, n in stay.regimes.items() if n and name != wanted]
            found.append(
                f"At ELR {format_number(stay.elr)} only {inside} of {runs} runs are in the {REGIME_NAMES[wanted]} "
                f"({', '.join(others)}); onsphere regimes finds the boundaries."
            )
    return found


def _memory(result: StabiliseResult) -> str:
    loss, gradient = result.memory["loss"], result.memory["gradient_norm"]
    both = (
        f"{_percent(loss.mean)} of the difference in log loss is left ({_interval(loss)}), and "
        f"{_percent(gradient.mean)} of that in log effective gradient norm ({_interval(gradient)})"
    )
    if loss.low <= 0 <= loss.high and max(-loss.low, loss.high) < SMALL:
        return f"The chaotic equilibrium has no memory that is seen here: after a change of the ELR {both}."
    if loss.low <= 0 <= loss.high:
        return f"Whether the chaotic equilibrium remembers is not clear: after a change of the ELR {both}."
    if max(abs(loss.low), abs(loss.high)) < SMALL:
        return f"The chaotic equilibrium forgets nearly all: after a change of the ELR {both}."
    return f"The ELR of before the change is still seen at its end: {both}. More steps may be needed."


def _largest(result: StabiliseResult) -> list[str]:
    """The pair that is farthest from its level, if it is so beyond the chance of being the largest of all pairs."""
    rows = [row for row in result.levels if row.loss_gap_error > 0]
    if not rows:
        return []
    row = max(rows, key=lambda row: abs(row.loss_gap_in_errors))
    # what the largest of so many gaps passes by chance in 5 % of experiments
    gap = f"{100 * row.loss_gap:+.1f} % ({abs(row.loss_gap_in_errors):.1f} standard errors)"
    ends = f"{format_number(row.before)} to {format_number(row.after)}"
    if abs(row.loss_gap_in_errors) < quantile(result.spec.seeds, comparisons=len(rows)):
        return [f"None of the {len(rows)} gaps alone is beyond chance; the largest is {gap} from {ends}."]
    return [f"The largest gap is beyond chance: from ELR {ends} the loss ends {gap} off the level."]


def _speed(result: StabiliseResult) -> list[str]:
    parts = []
    for word, rises in (("raised", True), ("lowered", False)):
        rows = [row for row in result.levels if (row.after > row.before) == rises]
        known = [row.steps_to_level for row in rows if row.steps_to_level is not None]
        never = len(rows) - len(known)
        if known:
            few = f"{min(known):.0f} to {max(known):.0f}" if max(known) > min(known) else f"{known[0]:.0f}"
            missing = f", {never} of {len(rows)} pairs do not get there in the run" if never else ""
            parts.append(f"after {few} steps where the ELR was {word}{missing}")
        elif rows:
            parts.append(f"in no run where it was {word}")
    if not parts:
        return []
    lowest = min((row.memory for row in result.memory_course if row.direction == "up"), default=0.0)
    over = ""
    if lowest < -OVERSHOOT:
        over = f" Where it was raised the loss first overshoots, by up to {-100 * lowest:.0f} % of the difference."
    return [f"The loss is back among the fluctuations of the new level {' and '.join(parts)}.{over}"]


def _wandering(result: StabiliseResult) -> list[str]:
    steps = max(row.lag for row in result.distances)
    found = []
    for kind, verb in (("local", "stay around"), ("global", "lose")):
        rows = [stay for stay in result.chaotic if stay.wandering == kind]
        if not rows:
            continue
        angles = format_range([stay.angle for stay in rows])
        walk = median([stay.walk_steps_to_forget or steps for stay in rows])
        text = f"At ELR {_elrs(rows)} runs {verb} the direction they had"
        if kind == "local":
            text += f": {steps} steps later it is {angles} rad away (orthogonal: 1.57)"
        else:
            forgotten = format_range([stay.steps_to_forget or 0.0 for stay in rows])
            text += f": its cosine is 1/e after {forgotten} steps, and the angle {angles} rad after {steps}"
        found.append(f"{text}; a random walk with the same steps has a cosine of 1/e after {format_number(walk, 2)}.")
    return found


def _ways(result: StabiliseResult) -> str:
    valley = [stay for stay in result.chaotic if stay.middle + SPREAD * stay.middle_error < 0]
    ridge = [stay for stay in result.chaotic if stay.middle - SPREAD * stay.middle_error > 0]
    unclear = [stay for stay in result.chaotic if stay not in (*valley, *ridge)]
    parts = []
    if valley:
        parts.append(f"lower than at both ends at ELR {_elrs(valley)}, so that no barrier lies between")
    if ridge:
        parts.append(f"higher at ELR {_elrs(ridge)}, where the runs have left the region they were in")
    if unclear:
        parts.append(f"neither within its error at ELR {_elrs(unclear)}")
    return (
        "In the middle of the great circle from the start of the stationary phase to its end the training loss is "
        f"{'; '.join(parts)}."
    )


def _walk(result: StabiliseResult) -> list[str]:
    alike = [stay for stay in result.diverged if abs(stay.walk_excess) < LIKE_WALK]
    other = [stay for stay in result.diverged if stay not in alike]
    least, most = (f(stay.walk_excess for stay in result.chaotic) for f in (min, max))
    found = []
    if alike:
        found.append(
            f"In the divergence at ELR {_elrs(alike)} the cosine to the start is nearly that "
            f"of a random walk: the mean difference over time is {_excess(alike)}, in the chaotic equilibrium "
            f"{least:+.2f} to {most:+.2f}."
        )
    if other:
        found.append(
            f"At ELR {_elrs(other)}, meant as divergence, the cosine to the start is not that "
            f"of a random walk: the mean difference over time is {_excess(other)}."
        )
    return found


def _elrs(rows: list[Stay]) -> str:
    return format_range(stay.elr for stay in rows)


def _excess(rows: list[Stay]) -> str:
    return ", ".join(f"{stay.walk_excess:+.3f} ± {stay.walk_excess_error:.3f}" for stay in rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(left: Remaining) -> str:
    low, high = (f"{100 * end:.1f}".replace("-0.0", "0.0") for end in (left.low, left.high))
    return f"95 % interval {low} to {high} %"
