"""Spend a memory budget: train pools of every width, measure every split from their logits, decide, predict.

widths      one for every split of every budget; splits of different budgets with the same width share its pool
pools       seeds x members networks of a width (with ``predict``: four), trained as copies of the population engine
logits      kept on disk; everything after them is computed from there
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from onsphere.ensembles import Split
from onsphere.lab.engine_file import engine_summary, read_engine
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.split.answer import headline
from onsphere.lab.experiments.split.decide import advantage, predicted_verdict, verdicts
from onsphere.lab.experiments.split.family import Family, pooling_factor, splits_of
from onsphere.lab.experiments.split.measure import (
    METRICS,
    Labels,
    Law,
    Point,
    curve,
    error_of_known,
    fit,
    mean,
    of_split,
)
from onsphere.lab.experiments.split.pools import Pool, Trainer
from onsphere.lab.experiments.split.predict import Estimate, measured_subsets, points, predict
from onsphere.lab.experiments.split.result import BudgetAnswer, Cost, SplitResult, SplitRow
from onsphere.lab.experiments.split.spec import PREDICTION_POOL, SplitSpec
from onsphere.lab.old_result import conclude, elapsed
from onsphere.lab.options import InputError
from onsphere.lab.population import Problem
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.store.place import check_destination
from onsphere.lab.threads import one_thread
from onsphere.lab.training import (
    Data,
    Model,
    check_batch_size,
    check_device,
    check_sendable,
    cpu_seconds,
    fields_of_call,
    load_data,
    spec_of_run,
    validated,
)


def split_budget(
    model: Model = "mlp",
    data: Data = "digits",
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> SplitResult:
    """Find out whether one wide network or several thinner ones make the most of a budget, and how many.

    Args:
        model: ``mlp``, ``plain-mlp``, ``convnet``, ``resnet18``, ``vgg16``, ``wrn28``, ``package.module:factory``, or a
            callable that takes ``width`` (or ``widths``) and returns a new module.
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        out: Folder of the run; must be new or empty. Default: ``runs/split-DATE-TIME``.
        progress: Told what happens.
        stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
        **fields: Any field of :class:`~onsphere.lab.experiments.split.spec.SplitSpec`;
            ``budget`` and ``members`` may be single
            numbers.

    Returns:
        The result; everything is also on disk.

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
    fields = {n: [v] if n in ("budget", "members") and isinstance(v, int) else v for n, v in fields.items()}
    spec = validated(SplitSpec, fields_of_call(model, data, fields))
    if spec.save is not None:
        check_destination(Path(spec.save), "--save")
    work = _Work(spec, model, data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), "split", work.spec.model_dump(mode="json"))
    return work.do(run)


def resume_split(
    run: Run,
    *,
    model: Model | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> SplitResult:
    """Continue an interrupted study to the same bits, or return the result of one that has ended.

    Args:
        run: Its folder.
        model: The callable, if the run was started with one.
        data: The data, if the run was started with own arrays.
        progress: Told what happens.
        stop: As in :func:`split_budget`.

    Raises:
        InputError: The spec is damaged, the data or model cannot be found again, or the data have changed.
    """
    if run.done:
        return SplitResult.load(run)
    spec = spec_of_run(SplitSpec, run, model, data, "resume_split")
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(self, spec: SplitSpec, model: Model, data: Data, progress: Progress, stop: Callable[[], bool]) -> None:
        spec = _with_elr(spec)
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        factor = pooling_factor(data, spec.pool) if isinstance(data, str) else spec.pool
        dataset = load_data(spec.model_copy(update={"pool": factor}), spec.seed, data)
        check_batch_size(spec.batch_size, dataset)
        check_device(spec.device)
        check_sendable(model, spec.workers)
        self.family = Family.of(model, spec, dataset)
        self.splits = splits_of(spec, self.family)
        self.parameters = {s.width: s.parameters for own in self.splits.values() for s in own}
        self.everything = {
            w: spec.seeds * max(s.members for own in self.splits.values() for s in own if s.width == w)
            for w in self.parameters
        }
        sizes = dict.fromkeys(self.everything, PREDICTION_POOL) if spec.predict else self.everything
        sphere = spec.geometry == "sphere"
        base = Problem(
            data=dataset,
            model=model,
            geometry=spec.geometry,
            radius=1.0 if sphere else None,
            steps=spec.steps,
            batch_size=spec.batch_size,
            evaluations=1,
            seed=spec.seed,
            dtype=getattr(torch, spec.dtype),
            device=spec.device,
            schedule="constant" if sphere else spec.schedule,
            optimizer="sgd" if sphere else spec.optimizer,
        )
        lr = spec.elr if sphere and spec.elr is not None else spec.lr_used
        self.trainer = Trainer(spec, self.family, base, sizes, lr, progress, stop)
        self.labels: Labels = dataset.y_test.cpu().numpy()
        self.input_shape = dataset.input_shape

    def do(self, run: Run) -> SplitResult:
        self.progress.folder(run.folder)
        with run.lock(), one_thread():
            pools = self.trainer.train(run)
            answers, curves, laws = self._predict(pools) if self.spec.predict else self._measure(pools)
            return self._conclude(run, pools, answers, curves, laws)

    def _measure(self, pools: dict[int, Pool]) -> tuple[list[BudgetAnswer], list[Point], list[Law]]:
        spec, answers = self.spec, []
        curves: dict[tuple[int, int], Point] = {}
        for budget, own in self.splits.items():
            values = {s: of_split(pools[s.width], s, spec.seeds, self.labels, self.stop) for s in own}
            if all(v is None for scores in values.values() for v in scores["nll"]):
                failed = "; ".join(str(f) for s in own[:3] for f in pools[s.width].failed[:1])
                raise RuntimeError(f"every network of budget {budget:,} failed to train ({failed}, ...)")
            rows = [_row(split, values[split]) for split in own]
            found = verdicts({m: {s.members: values[s][m] for s in own} for m in METRICS})
            best = {v.metric: v.best for v in found}
            answers.append(BudgetAnswer(budget, rows, best, advantage(found), found))
            for row in rows:
                seeds = sum(v is not None for v in row.values["nll"])
                means = {m: getattr(row, m) for m in METRICS}
                curves[row.width, row.members] = Point(row.width, row.members, seeds, means, row.standard_error)
            self.progress.finding(headline(answers[-1], spec.metric))
        for own in self.splits.values() if spec.curves else ():
            for split in own:
                known = {n for w, n in curves if w == split.width}
                if max(known) == split.members:
                    for point in curve(pools[split.width], split, spec.seeds, self.labels, self.stop):
                        curves.setdefault((split.width, point.size), point)
        ordered = [curves[key] for key in sorted(curves) if curves[key].groups]
        laws = []
        for width in sorted(pools):
            own_points = [p for p in ordered if p.width == width]
            if len(own_points) > 2:
                laws += [fit(width, metric, own_points) for metric in ("nll", "cnll")]
        return answers, ordered, laws

    def _predict(self, pools: dict[int, Pool]) -> tuple[list[BudgetAnswer], list[Point], list[Law]]:
        measured = measured_subsets(pools, self.labels, self.stop)
        answers = []
        laws: dict[tuple[int, str], Law] = {}
        for budget, own in self.splits.items():
            by_metric = {m: predict(m, own, measured, self.spec.seed) for m in METRICS}
            rows = [
                _predicted_row(split, {m: p.estimates[split.members] for m, p in by_metric.items()}) for split in own
            ]
            found = tuple(predicted_verdict(m, p.best, p.chances) for m, p in by_metric.items())
            best = {m: p.best for m, p in by_metric.items()}
            answers.append(BudgetAnswer(budget, rows, best, advantage(found), found))
            laws |= {(law.width, law.metric): law for p in by_metric.values() for law in p.laws}
            self.progress.finding(headline(answers[-1], self.spec.metric))
        curves = [point for width in sorted(measured) for point in points(width, measured[width])]
        return answers, curves, [laws[key] for key in sorted(laws) if key[1] != "accuracy"]

    def _conclude(
        self, run: Run, pools: dict[int, Pool], answers: list[BudgetAnswer], curves: list[Point], laws: list[Law]
    ) -> SplitResult:
        from onsphere.lab.experiments.split.page import write_page

        spec, trained = self.spec, {w: len(pool.logits) for w, pool in pools.items()}
        saved = None if spec.save is None else self._save(run, pools, answers[-1])
        result = SplitResult(
            run=run.folder,
            report=run.folder / "report.html",
            budgets=answers,
            curves=curves,
            laws=laws,
            failed=[f for w in sorted(pools) for f in pools[w].failed],
            networks=sum(trained.values()),
            cost=Cost.of(trained, self.everything, self.parameters, spec.seeds, spec.steps),
            predicted=spec.predict,
            input_shape=self.input_shape,
            saved=saved,
            spec=spec.model_dump(mode="json"),
            engine=engine_summary(read_engine(run)),
            seconds=elapsed(self.started),
            cpu_seconds=cpu_seconds(run),
        )
        return conclude(run, result, write_page)

    def _save(self, run: Run, pools: dict[int, Pool], answer: BudgetAnswer) -> str:
        """The best split's ensemble of the first seed that has usable networks, as one file."""
        from onsphere.lab.ensemble_files import save_ensemble

        row = answer.row(answer.best[self.spec.metric])
        groups = [range(seed * row.members, (seed + 1) * row.members) for seed in range(self.spec.seeds)]
        members = next(usable for group in groups if (usable := pools[row.width].usable(group)))
        options = self.family.options(row.width)
        metadata = {
            "model": self.spec.model,
            "options": {"input_shape": list(self.input_shape), "classes": self.family.classes} | options,
            "data": self.spec.data,
            "budget": row.budget,
            "width": row.width,
            "seeds": members,
            "scores": {m: row.values[m][members[0] // row.members] for m in METRICS},
            "failed": [str(f) for f in pools[row.width].failed if f.member // row.members == members[0] // row.members],
        }
        path = Path(str(self.spec.save))
        if path.exists():  # it was not there at the start, and is not overwritten now
            path = run.folder / "ensemble.safetensors"
            self.progress.note(f"--save: {self.spec.save} exists by now and is left as it is; see {path}")
        save_ensemble(path, self.trainer.networks(run, row.width, members), metadata)
        return str(path)


def _row(split: Split, values: dict[str, list[float | None]]) -> SplitRow:
    errors = {m: error_of_known(values[m]) for m in METRICS}
    return SplitRow.of(split, {m: mean(values[m]) for m in METRICS}, errors, values)


def _predicted_row(split: Split, estimates: dict[str, Estimate]) -> SplitRow:
    scores = {m: e.value for m, e in estimates.items()}
    errors: dict[str, float | None] = {m: e.standard_error for m, e in estimates.items()}
    return SplitRow.of(split, scores, errors, basis=estimates["nll"].basis)


def _with_elr(spec: SplitSpec) -> SplitSpec:
    """The spec with the ELR that its map hands down, so that the run no longer needs the map."""
    if spec.map is None:
        return spec
    from onsphere.optim import propose_elrs

    source = Run.open(Path(spec.map))
    if source.manifest["command"] != "regimes":
        raise InputError(
            f"--map: {spec.map} is a run of onsphere {source.manifest['command']}; give one of onsphere regimes"
        )
    try:
        low = propose_elrs(source.result()).bracket[0]
    except ValueError as error:
        raise InputError(f"--map: {spec.map}: {error}") from None
    return spec.model_copy(update={"map": None, "elr": low})


__all__ = ["Interrupted", "resume_split", "split_budget"]
