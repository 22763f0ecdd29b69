"""Spend a memory budget: train pools of every width, measure every split from their logits, decide, predict.

widths      one for every split of every budget; splits of different budgets with the same width share its pool
pools       seeds x members networks of a width (with ``predict``: four), trained as copies of the population engine
logits      kept on disk; everything after them is computed from there
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onsphere.ensembles import Split
from onsphere.lab.calling import takes
from onsphere.lab.ensemble_files import save_ensemble
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.split.page import printed, report
from onsphere.lab.experiments.split.pools import decide
from onsphere.lab.experiments.split.pools.laws import LAWFUL, fit, laws_in_budget, laws_in_size
from onsphere.lab.experiments.split.pools.measure import (
    Pool,
    at_temperatures,
    curve,
    mean,
    mean_temperature,
    networks,
    of_split,
    point,
    spread,
    trained_pools,
)
from onsphere.lab.experiments.split.pools.points import AtTemperatures, Law, Point
from onsphere.lab.experiments.split.pools.study import Study, copies_of, handed_down, prepare
from onsphere.lab.experiments.split.result import METRICS, MORE, BudgetAnswer, Cost, SplitResult, SplitRow
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.experiments.split.words import answer, describe, headline
from onsphere.lab.population import Stage
from onsphere.lab.training import Data, Model

Pools = Mapping[int, Pool]
#: One answer a budget, ensembles of every size measured at every width, the power laws fitted to them.
Found = tuple[list[BudgetAnswer], list[Point], list[Law]]


@takes(SplitSpec)
def split_budget(model: Model = "mlp", data: Data = "digits", **given: Any) -> SplitResult:
    """Find out whether one wide network or several thinner ones make the most of a budget, and how many.

    Args:
        model: The family of networks: a name, ``package.module:factory``, or a callable that takes ``width`` (or
            ``widths``) and returns a new module.
        data: The data, as :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>` takes them.
        **given: The fields of :class:`~onsphere.lab.experiments.split.spec.SplitSpec`, where ``budget`` and ``members``
            may be single numbers, and ``out``, ``progress`` and ``stop``.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_split` continues the run.
        RuntimeError: Every network of a budget failed to train; or with ``predict`` so many of one width that it has
            no law.

    Source: Chirkova, Lobacheva and Vetrov 2020 (memory splits); Lobacheva, Chirkova, Kodryan and Vetrov 2020 (laws).

    Example:
        >>> from onsphere.lab import split_budget
        >>> split_budget("plain-mlp", "fashion-mnist", pool=7, train=500, budget="16k")  # doctest: +SKIP
    """
    return EXPERIMENT.start(model, data, **given)


def measure(session: Session[SplitSpec, Study]) -> dict[str, Any]:
    """Train or find the pools, and answer for every budget."""
    spec, study, pools = session.spec, session.given, trained_pools(session)
    budgets, curves, laws = (predicted if spec.predict else measured)(session, pools)
    parameters = {split.width: split.parameters for own in study.splits.values() for split in own}
    wider = [] if spec.predict or not spec.curves else [*laws_in_size(curves, parameters), *laws_in_budget(budgets)]
    trained = {width: len(pool.logits) for width, pool in pools.items()}
    return {
        "predicted": spec.predict,
        "budgets": budgets,
        "curves": curves,
        "laws": laws,
        "failed": [failed for width in sorted(pools) for failed in pools[width].failed],
        "networks": sum(trained.values()),
        "cost": _cost(spec, study, trained),
        "input_shape": study.data.input_shape,
        "saved": None if spec.save is None else saved(session, pools, budgets[-1], Path(spec.save)),
        "wider_laws": wider,
        "fixed_temperatures": [] if spec.predict or not spec.curves else fixed_temperatures(session, pools),
    }


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
        rows = [_row(s, p.mean, p.standard_error, values[s], "trained") for s, p in zip(own, own_points, strict=True)]
        found = decide.verdicts({m: {s.members: values[s][m] for s in own} for m in METRICS})
        answers.append(BudgetAnswer(budget, rows, {v.metric: v.best for v in found}, decide.advantage(found), found))
        session.progress.finding(headline(answers[-1], spec.metric))
    for split in largest(study) if spec.curves else ():
        for smaller in curve(pools[split.width], split, spec.seeds, labels, session.stop):
            curves.setdefault((split.width, smaller.size), smaller)
    ordered = [curves[key] for key in sorted(curves) if curves[key].groups]
    laws = []
    for width in sorted(pools):
        along = [p for p in ordered if p.width == width]
        if len(along) > 2:
            laws += [fit(width, metric, along) for metric in LAWFUL]
    return answers, ordered, laws


def largest(study: Study) -> list[Split]:
    """The split of every width that has the most members, by width."""
    found: dict[int, Split] = {}
    for split in (split for own in study.splits.values() for split in own):
        if split.width not in found or split.members > found[split.width].members:
            found[split.width] = split
    return [found[width] for width in sorted(found)]


def fixed_temperatures(session: Session[SplitSpec, Study], pools: Pools) -> list[AtTemperatures]:
    """NLL at fixed temperatures, at every width.

    Raises:
        Interrupted: The run was asked to stop.
    """
    spec, study = session.spec, session.given
    return [
        one
        for split in largest(study)
        for one in at_temperatures(pools[split.width], split, spec.seeds, study.labels, session.stop)
    ]


def predicted(session: Session[SplitSpec, Study], pools: Pools) -> Found:
    """Every split, by the laws through the ensembles of four networks a width.

    Raises:
        Interrupted: The run was asked to stop.
        RuntimeError: So many networks of a width failed to train that it has no law.
    """
    spec, subsets = session.spec, decide.measured_subsets(pools, session.given.labels, session.stop)
    answers: list[BudgetAnswer] = []
    laws: dict[tuple[int, str], Law] = {}
    for budget, own in session.given.splits.items():
        by_metric = {m: decide.predict(m, own, subsets, spec.seed) for m in METRICS}
        rows = []
        for split in own:
            expected = {m: p.estimates[split.members] for m, p in by_metric.items()}
            scores, errors = ({m: getattr(e, n) for m, e in expected.items()} for n in ("value", "standard_error"))
            rows.append(_row(split, scores, errors, {}, expected["nll"].basis))
        found = tuple(decide.predicted_verdict(m, p.best, p.chances) for m, p in by_metric.items())
        answers.append(BudgetAnswer(budget, rows, {v.metric: v.best for v in found}, decide.advantage(found), found))
        session.progress.finding(headline(answers[-1], spec.metric))
        laws |= {(law.width, law.metric): law for p in by_metric.values() for law in p.laws}
    curves = [one for width in sorted(subsets) for one in decide.points(width, subsets[width])]
    return answers, curves, [laws[key] for key in sorted(laws) if key[1] != "accuracy"]


def _row(split: Split, scores: Any, errors: Mapping[str, float | None], values: Any, basis: str) -> SplitRow:
    own: dict[str, Any] = {n: getattr(split, n) for n in ("budget", "members", "width", "parameters", "rounding_error")}
    known = {m: None if e is None or not math.isfinite(e) else e for m, e in errors.items()}
    more: dict[str, Any] = {name: mean(values[name]) for name in MORE[1:] if name in values}
    if values:
        more |= {
            "temperature": mean_temperature(values["temperature"]),
            "spread": {n: spread(values[n]) for n in MORE[1:]},
        }
    decisive = {name: values[name] for name in METRICS if name in values}
    return SplitRow(**own, **scores, standard_error=known, values=decisive, basis=basis, **more)


def _cost(spec: SplitSpec, study: Study, trained: Mapping[int, int]) -> Cost:
    networks, most = sum(trained.values()), sum(study.everything.values())
    parameters = {split.width: split.parameters for own in study.splits.values() for split in own}
    part, whole = (sum(n * parameters[w] for w, n in some.items()) for some in (trained, study.everything))
    share, of_one = networks / most, networks * spec.seeds / most
    return Cost(networks * spec.steps, most * spec.steps, share, of_one, part / whole)


def saved(session: Session[SplitSpec, Study], pools: Pools, best: BudgetAnswer, path: Path) -> str:
    """Keep the best split's ensemble of the first seed that has usable networks as one file, and say where it is."""
    spec, study = session.spec, session.given
    row, shape = best.row(best.best[spec.metric]), list(study.data.input_shape)
    pool = pools[row.width]
    seed, members = next((s, found) for s in range(spec.seeds) if (found := pool.group(s, row.members)))
    metadata = {
        "model": spec.model,
        "options": {"input_shape": shape, "classes": study.family.classes} | study.family.options(row.width),
        "data": spec.data,
        "budget": row.budget,
        "width": row.width,
        "seeds": members,
        "scores": {m: row.values[m][seed] for m in METRICS},
        "failed": [str(failed) for failed in pool.failed if pool.dropped or failed.member // row.members == seed],
    }
    if path.exists():  # it was not there at the start, and is not overwritten now
        session.progress.note(
            f"--save: {path} exists by now and is left as it is; see {session.run.folder / 'ensemble.safetensors'}"
        )
        path = session.run.folder / "ensemble.safetensors"
    save_ensemble(path, networks(session, row.width, members), metadata)
    return str(path)


def stages(spec: SplitSpec, study: Study) -> list[Stage]:
    """The pool of every width."""
    most = max(study.sizes.values())
    return [
        Stage(f"width {width}", problem, copies_of(spec, study.sizes[width], width), most=most)
        for width, problem in study.problems.items()
    ]


EXPERIMENT = Experiment(
    spec=SplitSpec,
    result=SplitResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: result.networks,
    printed=printed,
    fields=handed_down,
    stages=stages,
    beside="the ensembles of every split",
)
resume_split = EXPERIMENT.resume
