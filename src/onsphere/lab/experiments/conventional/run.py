"""Train the same network in three set-ups and set the ordinary runs against the sphere.

round "sphere"     scale-invariant weights on the sphere at fixed ELRs x seeds
round "invariant"  the same network in the whole space: learning rates x seeds, with weight decay
round "all"        an ordinary network: every parameter trained, affine norms and head, momentum, schedule
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.conventional.analyse import space_runs, sphere_runs
from onsphere.lab.experiments.conventional.page import printed, report
from onsphere.lab.experiments.conventional.result import ConventionalResult, ConventionalRun, distance
from onsphere.lab.experiments.conventional.spec import ORDINARY_EPS, SETUPS, ConventionalSpec, Setup
from onsphere.lab.experiments.conventional.sphere_map import SphereMap
from onsphere.lab.experiments.conventional.words import answer, describe
from onsphere.lab.experiments.periods.setups import Ready, ready
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.population import Copy
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, problem_of

TITLES = {"sphere": "sphere", "invariant": "whole space", "all": "ordinary network"}


@takes(ConventionalSpec)
def compare_conventional(model: Model = "mlp", data: Data = "digits", **given: Any) -> ConventionalResult:
    """Set ordinary training against the sphere: its effective learning rate, its regime, its loss.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network of one's own is taken as it is in the set-up "all" and made scale-invariant in the
            others; reference networks get affine norms and a trained head in "all".
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        **given: The fields of :class:`~onsphere.lab.experiments.conventional.spec.ConventionalSpec`, and ``out``,
            ``progress`` and ``stop`` of :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>`.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_conventional` continues the run.

    Source: Kodryan et al., NeurIPS 2022, section 6 (conventional training).
    """
    return EXPERIMENT.start(model, data, **given)


def prepare(spec: ConventionalSpec, model: Model, data: Data, progress: Progress) -> dict[Setup, Ready]:
    """The problem of each set-up that was asked for."""
    problem, found = problem_of(spec, model, data, augment=spec.augment), dict[Setup, Ready]()
    if {"sphere", "invariant"} & set(spec.setups):
        sphere = ready(problem, "scale-invariant", progress)
        whole = replace(sphere, problem=replace(sphere.problem, geometry="space", radius=None))
        found |= {"sphere": sphere, "invariant": whole}
    if "all" in spec.setups:
        options = problem.model_options | {"eps": ORDINARY_EPS}
        ordinary = replace(problem, geometry="space", radius=None, schedule=spec.schedule, model_options=options)
        found["all"] = ready(ordinary, "all-parameters", progress)
    return found


def measure(session: Session[ConventionalSpec, Mapping[Setup, Ready]]) -> dict[str, Any]:
    """Train every set-up and label its runs, those in the whole space by the map of the sphere."""
    spec, runs = session.spec, list[ConventionalRun]()
    sphere: SphereMap | None = None
    for setup in spec.setups:
        given = session.given[setup]
        shards = session.train(given.problem, setup, copies_of(spec, setup), TITLES[setup])
        if setup == "sphere":
            runs += sphere_runs([cell for shard in shards for cell in read_cells(shard, 0)])
            sphere = SphereMap.of(runs)
        else:
            for shard in shards:
                runs += space_runs(given.problem, shard, setup, given.invariant, sphere)
        session.progress.finding(describe(runs))
    runs.sort(key=lambda run: (SETUPS.index(run.setup), run.lr, run.seed))
    return {
        "distances": [distance(s, [run for run in runs if run.setup == s]) for s in spec.setups if s != "sphere"],
        "runs": runs,
        "engine": {"invariant": {name: one.invariant for name, one in session.given.items()}},
    }


def copies_of(spec: ConventionalSpec, setup: Setup) -> list[Copy]:
    """The runs of a set-up."""
    decay = 0.0 if setup == "sphere" else spec.weight_decay
    momentum = spec.momentum if setup == "all" else 0.0
    return [Copy(seed, lr, decay, momentum) for lr in spec.rates(setup) for seed in range(spec.seeds)]


EXPERIMENT = Experiment(
    spec=ConventionalSpec,
    result=ConventionalResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=lambda result: describe(result.runs),
    runs=lambda result: len(result.runs),
    printed=printed,
)
resume_conventional = EXPERIMENT.resume
