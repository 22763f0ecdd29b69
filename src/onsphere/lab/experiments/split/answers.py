"""From pools to answers: every split measured by its own networks, or predicted from four networks a width."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onsphere.ensembles import Split
from onsphere.lab.experiment import Session
from onsphere.lab.experiments.split.decide import advantage, predicted_verdict, verdicts
from onsphere.lab.experiments.split.measure import METRICS, Law, Point, curve, fit, of_split, point
from onsphere.lab.experiments.split.pools import Pool
from onsphere.lab.experiments.split.predict import measured_subsets, points, predict
from onsphere.lab.experiments.split.result import BudgetAnswer, SplitRow
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.experiments.split.study import Study
from onsphere.lab.experiments.split.words import headline

Pools = Mapping[int, Pool]
#: One answer a budget, ensembles of every size measured at every width, the power laws fitted to them.
Found = tuple[list[BudgetAnswer], list[Point], list[Law]]


def measured(session: Session[SplitSpec, Study], pools: Pools) -> Found:
    """Every split, by ensembles of its own networks.

    Raises:
        Interrupted: The run was asked to stop.
        RuntimeError: Every network of a budget failed to train.
    """
    spec, study, labels = session.spec, session.given, session.given.labels
    answers: list[BudgetAnswer] = []
    curves: dict[tuple[int, int], Point] = {}
    for budget, own in study.splits.items():
        values = {s: of_split(pools[s.width], s, spec.seeds, labels, session.stop) for s in own}
        if all(v is None for scores in values.values() for v in scores["nll"]):
            failed = "; ".join(str(f) for s in own[:3] for f in pools[s.width].failed[:1])
            raise RuntimeError(f"every network of budget {budget:,} failed to train ({failed}, ...)")
        own_points = [point(s.width, s.members, values[s]) for s in own]
        curves |= {(p.width, p.size): p for p in own_points}
        rows = [_row(s, p.mean, p.standard_error, values[s]) for s, p in zip(own, own_points, strict=True)]
        found = verdicts({m: {s.members: values[s][m] for s in own} for m in METRICS})
        answers.append(BudgetAnswer(budget, rows, {v.metric: v.best for v in found}, advantage(found), found))
        session.progress.finding(headline(answers[-1], spec.metric))
    for split in (split for own in study.splits.values() for split in own) if spec.curves else ():
        if max(n for w, n in curves if w == split.width) == split.members:
            for smaller in curve(pools[split.width], split, spec.seeds, labels, session.stop):
                curves.setdefault((split.width, smaller.size), smaller)
    ordered = [curves[key] for key in sorted(curves) if curves[key].groups]
    laws = []
    for width in sorted(pools):
        along = [p for p in ordered if p.width == width]
        if len(along) > 2:
            laws += [fit(width, metric, along) for metric in ("nll", "cnll")]
    return answers, ordered, laws


def predicted(session: Session[SplitSpec, Study], pools: Pools) -> Found:
    """Every split, by the laws through the ensembles of four networks a width.

    Raises:
        Interrupted: The run was asked to stop.
        RuntimeError: So many networks of a width failed to train that it has no law.
    """
    spec, subsets = session.spec, measured_subsets(pools, session.given.labels, session.stop)
    answers: list[BudgetAnswer] = []
    laws: dict[tuple[int, str], Law] = {}
    for budget, own in session.given.splits.items():
        by_metric = {m: predict(m, own, subsets, spec.seed) for m in METRICS}
        rows = []
        for split in own:
            expected = {m: p.estimates[split.members] for m, p in by_metric.items()}
            scores, errors = (
                {m: getattr(e, name) for m, e in expected.items()} for name in ("value", "standard_error")
            )
            rows.append(_row(split, scores, errors, basis=expected["nll"].basis))
        found = tuple(predicted_verdict(m, p.best, p.chances) for m, p in by_metric.items())
        answers.append(BudgetAnswer(budget, rows, {m: p.best for m, p in by_metric.items()}, advantage(found), found))
        laws |= {(law.width, law.metric): law for p in by_metric.values() for law in p.laws}
        session.progress.finding(headline(answers[-1], spec.metric))
    curves = [one for width in sorted(subsets) for one in points(width, subsets[width])]
    return answers, curves, [laws[key] for key in sorted(laws) if key[1] != "accuracy"]


def _row(
    split: Split,
    scores: Mapping[str, float],
    errors: Mapping[str, float | None],
    values: Mapping[str, list[float | None]] | None = None,
    basis: str = "trained",
) -> SplitRow:
    return SplitRow(
        budget=split.budget,
        members=split.members,
        width=split.width,
        parameters=split.parameters,
        rounding_error=split.rounding_error,
        **scores,
        standard_error={m: None if e is None or not math.isfinite(e) else e for m, e in errors.items()},
        values=dict(values or {}),
        basis=basis,
    )
