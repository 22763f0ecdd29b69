"""Spend a memory budget: train pools of every width, measure every split from their logits, decide, predict.

widths      one for every split of every budget; splits of different budgets with the same width share its pool
pools       seeds x members networks of a width (with ``predict``: four), trained as copies of the population engine
logits      kept on disk; everything after them is computed from there
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onsphere.lab.calling import takes
from onsphere.lab.ensemble_files import save_ensemble
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.split.answers import Pools, measured, predicted
from onsphere.lab.experiments.split.measure import METRICS
from onsphere.lab.experiments.split.page import printed, report
from onsphere.lab.experiments.split.pools import networks, trained_pools
from onsphere.lab.experiments.split.result import BudgetAnswer, Cost, SplitResult
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.experiments.split.study import Study, handed_down, prepare
from onsphere.lab.experiments.split.words import answer, describe
from onsphere.lab.training import Data, Model


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
    """Train the pools, answer for every budget, keep the best ensemble if a file is named for it."""
    spec, study, pools = session.spec, session.given, trained_pools(session)
    budgets, curves, laws = (predicted if spec.predict else measured)(session, pools)
    trained = {width: len(pool.logits) for width, pool in pools.items()}
    return {
        "predicted": spec.predict,
        "budgets": budgets,
        "curves": curves,
        "laws": laws,
        "failed": [failed for width in sorted(pools) for failed in pools[width].failed],
        "networks": sum(trained.values()),
        "cost": Cost.of(trained, study.everything, study.parameters, spec.seeds, spec.steps),
        "input_shape": study.narrowest.data.input_shape,
        "saved": None if spec.save is None else saved(session, pools, budgets[-1], Path(spec.save)),
    }


def saved(session: Session[SplitSpec, Study], pools: Pools, best: BudgetAnswer, path: Path) -> str:
    """Keep the best split's ensemble of the first seed that has usable networks as one file, and say where it is."""
    spec, study = session.spec, session.given
    row = best.row(best.best[spec.metric])
    groups = [range(seed * row.members, (seed + 1) * row.members) for seed in range(spec.seeds)]
    members = next(usable for group in groups if (usable := pools[row.width].usable(group)))
    seed = members[0] // row.members
    shape = list(study.narrowest.data.input_shape)
    metadata = {
        "model": spec.model,
        "options": {"input_shape": shape, "classes": study.family.classes} | study.family.options(row.width),
        "data": spec.data,
        "budget": row.budget,
        "width": row.width,
        "seeds": members,
        "scores": {m: row.values[m][seed] for m in METRICS},
        "failed": [str(failed) for failed in pools[row.width].failed if failed.member // row.members == seed],
    }
    if path.exists():  # it was not there at the start, and is not overwritten now
        session.progress.note(
            f"--save: {path} exists by now and is left as it is; see {session.run.folder / 'ensemble.safetensors'}"
        )
        path = session.run.folder / "ensemble.safetensors"
    save_ensemble(path, networks(session, row.width, members), metadata)
    return str(path)


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
)
resume_split = EXPERIMENT.resume
