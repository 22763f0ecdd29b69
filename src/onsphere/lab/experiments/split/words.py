"""What was found, in sentences: whether splitting pays, by which metric, how sure that is, and what it cost."""

from __future__ import annotations

import math

from onsphere.lab.experiments.split.result import SCALE, SIGN, BudgetAnswer, SplitResult, SplitRow, Verdict
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
    metric, found = result.spec.metric, [_recommendation(result)]
    if len(result.budgets) == 1:
        only = result.budgets[0]
        found = [headline(only, metric), *_by_others(only, metric), *found]
    else:
        found += [headline(own, metric) for own in result.budgets]
    return found + ([_cost(result)] if result.predicted else []) + ([_failed(result)] if result.failed else [])


def headline(answer: BudgetAnswer, metric: str) -> str:
    """Whether splitting one budget pays, with the numbers of the metric that says so."""
    budget = _amount(answer)
    if not answer.has_single:
        own = answer.row(answer.best[metric])
        return (
            f"Whether splitting {budget} pays is unclear: there is no single network among the splits; of those there "
            f"are, {_networks(own)} are best by {NAMES[metric]} ({_value(own, metric)})."
        )
    if len(answer.splits) == 1:
        return f"Whether splitting {budget} pays is unclear: there is nothing but the single network."
    shown = _telling(answer, metric)
    found: dict[bool | str, str] = {
        True: f"There is a memory split advantage at {budget}",
        False: f"There is no advantage in splitting {budget}",
        "unclear": f"Whether splitting {budget} pays is unclear",
    }
    reason = _reason(answer, answer.verdict(shown)) if answer.advantage == "unclear" else ""
    return f"{found[answer.advantage]}: {_compared(answer, shown)}{reason}."


def _by_others(answer: BudgetAnswer, metric: str) -> list[str]:
    """What the other metrics say."""
    if len(answer.splits) == 1 or not answer.has_single:
        return []
    found = []
    for other in (m for m in NAMES if m != _telling(answer, metric)):
        word = answer.verdict(other).word
        what = {"advantage": "an advantage", "unclear": "no clear difference"}.get(word, word)
        found.append(f"By {NAMES[other]} there is {what}: {_compared(answer, other)}.")
    return found


def _recommendation(result: SplitResult) -> str:
    """What to do with the budget, or with each of several."""
    metric, parts = result.spec.metric, []
    for own in result.budgets:
        row = own.row(own.best[metric])
        close = [n for n in own.verdict(metric).close if n != row.members]
        alike = f" ({_list(close)} no worse beyond chance)" if close else ""
        where = f" for {_amount(own)}" if len(result.budgets) > 1 else ""
        parts.append(f"{_networks(row)}{where}{alike}")
    verb = "The laws recommend" if result.predicted else "Recommended"
    return f"{verb}, by {NAMES[metric]}: {'; '.join(parts)}."


def _cost(result: SplitResult) -> str:
    cost, seeds = result.cost, result.spec.seeds
    one = "" if seeds == 1 else f", {100 * cost.share_of_one_seed:.0f} % of training it with one seed"
    return (
        f"It took {result.networks} networks, {cost.member_steps:,} member-steps: {100 * cost.share:.0f} % of the "
        f"{cost.everything:,} that training every split with {counted(seeds, 'seed')} takes{one}; weighed with "
        f"the networks' parameters {100 * cost.parameter_share:.0f} %."
    )


def _failed(result: SplitResult) -> str:
    shown = "; ".join(map(str, result.failed[:6])) + ("; ..." if len(result.failed) > 6 else "")
    what = "left out of their ensembles, which have fewer members for it"
    if result.spec.failed_accuracy is not None:
        what = "dropped before ensembles are cut from the others"
    return f"{len(result.failed)} of {result.networks} networks failed to train and are {what}: {shown}."


def _amount(answer: BudgetAnswer) -> str:
    """A budget with its unit, which is that in which its splits are off by what they say."""
    row = answer.splits[0]
    counts = math.isclose(row.members * row.parameters / row.budget - 1, row.rounding_error, abs_tol=1e-9)
    return f"{answer.budget:,} {'parameters' if counts else 'bytes'}"


def _telling(answer: BudgetAnswer, metric: str) -> str:
    """The metric whose numbers stand behind the advantage: the asked one if it agrees."""
    wanted = {True: "advantage", False: "no advantage", "unclear": "unclear"}[answer.advantage]
    return next((m for m in (metric, *PRIMARY) if m in PRIMARY and answer.verdict(m).word == wanted), metric)


def _compared(answer: BudgetAnswer, metric: str) -> str:
    """The single network beside the best split with more members, with their difference."""
    single, verdict = answer.row(1), answer.verdict(metric)
    several = [row for row in answer.splits if row.members > 1 and math.isfinite(row.score(metric))]
    if not several:
        return "every ensemble failed to train"
    other = max(several, key=lambda row: SIGN[metric] * row.score(metric))
    return (
        f"{NAMES[metric]} is {_value(other, metric)} with {_networks(other)} and {_value(single, metric)} with one of "
        f"width {single.width}{_difference(verdict, other.members)}{_chance(verdict)}"
    )


def _difference(verdict: Verdict, members: int) -> str:
    gain = next((g for g in verdict.gains if g.members == members), None)
    if gain is None or not math.isfinite(gain.mean):
        return ""
    scale = SCALE[verdict.metric]
    size = f"{format_number(scale * abs(gain.mean))}{' points' if verdict.metric == 'accuracy' else ''}"
    found = f", {size} {'better' if gain.mean > 0 else 'worse'}"
    if not math.isfinite(gain.low):
        return found
    low, high = (gain.low, gain.high) if gain.mean > 0 else (-gain.high, -gain.low)
    return f"{found} (95 % interval {format_number(scale * low)} to {format_number(scale * high)})"


def _chance(verdict: Verdict) -> str:
    if verdict.probability is None:
        return ""
    percent = 100 * verdict.probability
    text = "below 0.1" if percent < 0.1 else "above 99.9" if percent > 99.9 else f"{percent:.1f}"
    return f"; probability that several are better than one, by the laws: {text} %"


def _reason(answer: BudgetAnswer, verdict: Verdict) -> str:
    if verdict.probability is None and all(not math.isfinite(g.low) for g in verdict.gains):
        return "; one seed has no error: give at least two --seeds"
    nll, cnll = (answer.verdict(m).word for m in PRIMARY)
    if {nll, cnll} == {"advantage", "no advantage"}:
        return "; NLL and CNLL contradict one another"
    return "" if nll == cnll else f"; by NLL {nll}, by CNLL {cnll}"


def _value(row: SplitRow, metric: str) -> str:
    scale, error = SCALE[metric], row.standard_error[metric]
    digits, error_digits, unit = (1, 1, " %") if metric == "accuracy" else (3, 4, "")
    spread = "" if error is None else f" ± {scale * error:.{error_digits}f}"
    return f"{scale * row.score(metric):.{digits}f}{spread}{unit}"


def _networks(row: SplitRow) -> str:
    return f"one network of width {row.width}" if row.members == 1 else f"{row.members} networks of width {row.width}"


def _list(values: list[int]) -> str:
    *texts, last = map(str, values)
    return f"{', '.join(texts)} and {last} are" if texts else f"{last} is"
