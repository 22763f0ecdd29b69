"""What was found, in sentences: whether splitting pays, by which metric, how sure that is, and what it cost."""

from __future__ import annotations

import math

from onsphere.lab.experiments.split.decide import Gain, Verdict
from onsphere.lab.experiments.split.result import BudgetAnswer, SplitResult, SplitRow
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number

__all__ = ["NAMES", "answer", "describe", "headline"]

NAMES = {"nll": "NLL", "cnll": "CNLL", "accuracy": "accuracy"}
PRIMARY = ("nll", "cnll")


def describe(result: SplitResult) -> str:
    """The result in one line."""
    return " ".join(headline(own, result.spec.metric) for own in result.budgets)


def answer(result: SplitResult) -> list[str]:
    """The finding and its explanation, a sentence or two an item."""
    metric = result.spec.metric
    if len(result.budgets) == 1:
        only = result.budgets[0]
        found = [headline(only, metric), *details(only, metric), recommendation(result)]
    else:
        found = [recommendation(result), *(headline(own, metric) for own in result.budgets)]
    if result.predicted:
        found.append(cost_sentence(result))
    if result.failed:
        found.append(failed_sentence(result))
    return found


def headline(answer: BudgetAnswer, metric: str) -> str:
    """Whether splitting one budget pays, with the numbers of the metric that says so."""
    budget = amount(answer)
    if not answer.has_single:
        own = answer.row(answer.best[metric])
        return (
            f"Whether splitting {budget} pays is unclear: there is no single network among the splits; of those there "
            f"are, {_networks(own)} are best by {NAMES[metric]} ({_value(own, metric)})."
        )
    if len(answer.splits) == 1:
        return f"Whether splitting {budget} pays is unclear: there is nothing but the single network."
    shown = _telling(answer, metric)
    verdict = answer.verdict(shown)
    if answer.advantage == "unclear":
        return f"Whether splitting {budget} pays is unclear: {_compared(answer, shown)}{_reason(answer, verdict)}."
    if answer.advantage:
        return f"There is a memory split advantage at {budget}: {_compared(answer, shown)}."
    return f"There is no advantage in splitting {budget}: {_compared(answer, shown)}."


def details(answer: BudgetAnswer, metric: str) -> list[str]:
    """What the other metrics say."""
    if len(answer.splits) == 1 or not answer.has_single:
        return []
    found = []
    shown = _telling(answer, metric)
    for other in (m for m in ("nll", "cnll", "accuracy") if m != shown):
        verdict = answer.verdict(other)
        word = {"advantage": "an advantage", "no advantage": "no advantage"}.get(verdict.word, "no clear difference")
        found.append(f"By {NAMES[other]} there is {word}: {_compared(answer, other)}.")
    return found


def recommendation(result: SplitResult) -> str:
    """What to do with the budget, or with each of several."""
    metric = result.spec.metric
    parts = []
    for own in result.budgets:
        row, verdict = own.row(own.best[metric]), own.verdict(metric)
        close = [n for n in verdict.close if n != row.members]
        alike = f" ({_list(close)} no worse beyond chance)" if close else ""
        where = f" for {amount(own)}" if len(result.budgets) > 1 else ""
        parts.append(f"{_networks(row)}{where}{alike}")
    verb = "The laws recommend" if result.predicted else "Recommended"
    return f"{verb}, by {NAMES[metric]}: {'; '.join(parts)}."


def cost_sentence(result: SplitResult) -> str:
    """What the prediction cost, and what it saved."""
    cost, seeds = result.cost, result.spec.seeds
    one = "" if seeds == 1 else f", {100 * cost.share_of_one_seed:.0f} % of training it with one seed"
    return (
        f"It took {result.networks} networks, {cost.member_steps:,} member-steps: {100 * cost.share:.0f} % of the "
        f"{cost.everything:,} that training every split with {counted(seeds, 'seed')} takes{one}; weighed with "
        f"the networks' parameters {100 * cost.parameter_share:.0f} %."
    )


def failed_sentence(result: SplitResult) -> str:
    """Which networks failed."""
    shown = "; ".join(str(f) for f in result.failed[:6]) + ("; ..." if len(result.failed) > 6 else "")
    return (
        f"{len(result.failed)} of {result.networks} networks failed to train and are left out of their ensembles, "
        f"which have fewer members for it: {shown}."
    )


def amount(answer: BudgetAnswer) -> str:
    """A budget with its unit as far as it is known."""
    return f"{answer.budget:,} parameters" if _counts_parameters(answer) else f"{answer.budget:,} bytes"


def _counts_parameters(answer: BudgetAnswer) -> bool:
    row = answer.splits[0]
    return math.isclose(row.members * row.parameters / row.budget - 1, row.rounding_error, abs_tol=1e-9)


def _telling(answer: BudgetAnswer, metric: str) -> str:
    """The metric whose numbers stand behind the advantage: the asked one if it agrees."""
    wanted = "unclear" if answer.advantage == "unclear" else "advantage" if answer.advantage else "no advantage"
    order = [metric, *(m for m in PRIMARY if m != metric)]
    return next((m for m in order if m in PRIMARY and answer.verdict(m).word == wanted), metric)


def _compared(answer: BudgetAnswer, metric: str) -> str:
    """The single network beside the best split with more members, with their difference."""
    single, verdict = answer.row(1), answer.verdict(metric)
    sign = 1.0 if metric == "accuracy" else -1.0
    several = [row for row in answer.splits if row.members > 1 and math.isfinite(row.score(metric))]
    if not several:
        return "every ensemble failed to train"
    other = max(several, key=lambda row: sign * row.score(metric))
    gain = next((g for g in verdict.gains if g.members == other.members), None)
    return (
        f"{NAMES[metric]} is {_value(other, metric)} with {_networks(other)} and {_value(single, metric)} with one of "
        f"width {single.width}{_difference(gain, metric)}{_chance(verdict)}"
    )


def _difference(gain: Gain | None, metric: str) -> str:
    if gain is None or not math.isfinite(gain.mean):
        return ""
    scale, unit = (100, " points") if metric == "accuracy" else (1, "")
    better = "better" if gain.mean > 0 else "worse"
    if not math.isfinite(gain.low):
        return f", {format_number(scale * abs(gain.mean))}{unit} {better}"
    low, high = sorted((gain.low, gain.high) if gain.mean > 0 else (-gain.low, -gain.high))
    return (
        f", {format_number(scale * abs(gain.mean))}{unit} {better} (95 % interval {format_number(scale * low)} to "
        f"{format_number(scale * high)})"
    )


def _chance(verdict: Verdict) -> str:
    if verdict.probability is None:
        return ""
    percent = 100 * verdict.probability
    text = "below 0.1" if percent < 0.1 else "above 99.9" if percent > 99.9 else f"{percent:.1f}"
    return f"; probability that several are better than one, by the laws: {text} %"


def _reason(answer: BudgetAnswer, verdict: Verdict) -> str:
    words = {m: answer.verdict(m).word for m in PRIMARY}
    if answer.verdict("nll").probability is None and all(not math.isfinite(g.low) for g in verdict.gains):
        return "; one seed has no error: give at least two --seeds"
    if set(words.values()) == {"advantage", "no advantage"}:
        return "; NLL and CNLL contradict one another"
    return (
        ""
        if words["nll"] == words["cnll"]
        else f"; by {NAMES['nll']} {words['nll']}, by {NAMES['cnll']} {words['cnll']}"
    )


def _value(row: SplitRow, metric: str) -> str:
    value, error = row.score(metric), row.standard_error[metric]
    scale, unit = (100, " %") if metric == "accuracy" else (1, "")
    spread = "" if error is None else f" ± {scale * error:.{1 if scale == 100 else 4}f}"
    return f"{scale * value:.{1 if scale == 100 else 3}f}{spread}{unit}"


def _networks(row: SplitRow) -> str:
    return f"one network of width {row.width}" if row.members == 1 else f"{row.members} networks of width {row.width}"


def _list(values: list[int]) -> str:
    texts = [str(v) for v in values]
    verb = "is" if len(texts) == 1 else "are"
    return f"{texts[0] if len(texts) == 1 else ', '.join(texts[:-1]) + ' and ' + texts[-1]} {verb}"
