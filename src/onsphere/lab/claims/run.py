"""Run the studies that claims need, resume what was stopped, and keep what was seen.

OUT/SCALE-SEEDS/STUDY-DATA[-PART]/   one run each, as any other: onsphere report, resume, runs know it
OUT/claims.json, OUT/claims.html     what was seen of every claim, rewritten after every study
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from onsphere.lab.claims.catalogue import chosen
from onsphere.lab.claims.record import HOME, Outcome, as_rows, counts, read_record, record_path, told, write_record
from onsphere.lab.claims.rules import NOT_RUN, Seen
from onsphere.lab.claims.study import SCALES, Claim, Evidence, Scale, Study, Values, Variant
from onsphere.lab.config import to_command
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Stop, never
from onsphere.lab.options import MOST_OF, EngineOptions, InputError
from onsphere.lab.progress import Progress
from onsphere.lab.registry import Entry, entry_of
from onsphere.lab.result import ExperimentResult, plain_of
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.store.place import check_name, held
from onsphere.lab.store.seal import plain
from onsphere.lab.threads import one_thread


@dataclass(frozen=True)
class Laboratory:
    """Where and how studies are run.

    Attributes:
        folder: The folder that holds everything.
        scale: The scale of the runs: ``small`` or ``paper``.
        seeds: Seeds of every study; a study that needs more takes what it needs.
        workers: Worker processes of each run.
        data_dir: Folder of the data sets' files, for those that need one.
        progress: Whoever is told what happens.
        stop: Asked often; True ends the call at the next checkpoint.
    """

    folder: Path
    scale: Scale = "small"
    seeds: int = 5
    workers: int = 1
    data_dir: str | None = None
    progress: Progress = field(default_factory=Progress)
    stop: Stop = never

    def seeds_of(self, study: Study) -> int:
        """The seeds of a study."""
        return max(self.seeds, study.least_seeds)

    def place(self, study: Study, variant: Variant, part: str = "") -> Path:
        """The folder of a run, or of a library study's values."""
        words = [study.name, variant.slug, *part.replace(",", "").split()]
        return self.folder / f"{self.scale}-{self.seeds_of(study)}" / "-".join(words)

    def fields(self, study: Study, variant: Variant) -> dict[str, dict[str, Any]]:
        """The fields of every run of an experiment, by part."""
        known = _entry(study).options.model_fields
        own: dict[str, Any] = {"workers": self.workers, "data_dir": self.data_dir}
        common = {name: value for name, value in own.items() if name in known and value is not None}
        return {part: {**fields, **common} for part, fields in study.runs(variant, self.seeds_of(study)).items()}

    def places(self, study: Study, variant: Variant) -> list[Path]:
        """The folders of all runs of a study on one data set."""
        if study.function:
            return [self.place(study, variant)]
        return [self.place(study, variant, part) for part in self.fields(study, variant)]

    def evidence(self, study: Study, variant: Variant) -> Evidence:
        """Run a study on one data set, go on with it, or read it where it has ended.

        Raises:
            InputError: Its data are not here, or its folder holds something else.
            Interrupted: ``stop`` returned True; the next call goes on.
        """
        if study.function:
            return Evidence({}, self._values(study, variant), variant.places)
        found: dict[str, Any] = {}
        for part, fields in self.fields(study, variant).items():
            if self.stop():
                raise Interrupted
            found[part] = self._result(_entry(study), fields, self.place(study, variant, part))
        return Evidence(found, {}, variant.places)

    def _result(self, entry: Entry, fields: Mapping[str, Any], place: Path) -> ExperimentResult:
        experiment = entry.experiment
        if not (place / "run.json").exists():
            started: ExperimentResult = experiment.start(**fields, out=place, progress=self.progress, stop=self.stop)
            return started
        run = Run.open(place)
        run.check_command(entry.command)
        asked = plain(entry.options(**fields).model_dump(mode="json"))
        other = [name for name, value in asked.items() if _counts(name) and run.manifest["spec"].get(name) != value]
        if other:
            raise InputError(
                f"{place} holds a run with another {other[0].replace('_', ' ')}, of another version of onsphere; "
                "give a new folder with --out, or remove that one"
            )
        resumed: ExperimentResult = experiment.resume(run, progress=self.progress, stop=self.stop)
        return resumed

    def _values(self, study: Study, variant: Variant) -> dict[str, list[float]]:
        """The values of a library study: a file for every seed, so that an interrupted one goes on."""
        module, name = study.function.split(":")
        function: Callable[..., Values] = getattr(import_module(f"onsphere.lab.claims.measures.{module}"), name)
        place = self.place(study, variant)
        place.mkdir(parents=True, exist_ok=True)
        rows: list[Mapping[str, float]] = []
        seeds = self.seeds_of(study)
        self.progress.begin(f"{study.name}, {variant.data}", seeds)
        fields = plain_of(dict(variant.fields))
        for seed in range(seeds):
            if self.stop():
                raise Interrupted
            path = place / f"seed-{seed}.json"
            if not path.exists():
                with one_thread():
                    found = function(seed, **variant.fields)
                write_json(path, {"fields": fields, "values": found})
            kept = read_json(path)
            if kept.get("fields") != json.loads(json.dumps(fields)):
                raise InputError(
                    f"{path} is of another version of onsphere; give a new folder with --out, or remove it"
                )
            rows.append({name: float("nan") if value is None else value for name, value in kept["values"].items()})
            self.progress.advance(1)
        return {name: [row[name] for row in rows] for name in rows[0]}

    def commands(self, study: Study, variant: Variant) -> list[str]:
        """The commands that repeat a study's runs by themselves; that of the first seed where it is repeated."""
        if study.function:
            return []
        entry = _entry(study)
        texts = []
        for fields in self.fields(study, variant).values():
            spec = entry.options(**fields)
            none = {"train": "all"} if "train" in fields else None
            texts.append(to_command(entry.command, entry.options, spec.model_dump(mode="json"), none=none))
        return texts[:1] if study.repeat else texts


def run_claims(
    ids: Sequence[str] = (),
    *,
    scale: Scale = "small",
    seeds: int = 5,
    workers: int = 2,
    out: str | Path = HOME,
    data_dir: str | None = None,
    progress: Progress | None = None,
    stop: Stop = never,
) -> list[Outcome]:
    """Run what decides claims, and write ``claims.json`` and ``claims.html``.

    Args:
        ids: Identifiers of claims, or topics; all claims without one.
        scale: ``small`` (digits and Fashion-MNIST, minutes) or ``paper`` (the published networks and data, days).
        seeds: Seeds of every study.
        workers: How many worker processes share a run.
        out: The folder; it may hold earlier claims, which are kept, and their runs, which are gone on with.
        data_dir: Folder of the data sets' files.
        progress: Whoever is told what happens.
        stop: Asked often; when it returns True the call stops at a checkpoint and :class:`Interrupted` is raised.

    Returns:
        What was seen of the claims that were asked for, in the order of the registry. A claim whose data are not here
        is ``not run``, with the reason.

    Raises:
        InputError: There is no such claim or scale, or the folder holds something else; nothing was run.
        Interrupted: ``stop`` returned True; the same call goes on.
    """
    from onsphere.lab.claims.page import write_claims_page

    claims = chosen(ids)
    if scale not in SCALES:
        raise InputError(f"--scale: {scale!r} is not allowed: must be one of {', '.join(SCALES)}")
    for name, value in (("seeds", seeds), ("workers", workers)):
        if not 1 <= value <= MOST_OF[name]:
            raise InputError(f"--{name}: {value} is not allowed: must be between 1 and {MOST_OF[name]:,}")
    folder = Path(out)
    check_name(folder, "--out")
    read_record(folder)  # whether it is damaged, before anything is run
    laboratory = Laboratory(folder, scale, seeds, workers, data_dir, progress or Progress(), stop)
    asked = {study.name: study for study in (claim.study for claim in claims if claim.variants(scale))}
    if not asked:
        raise InputError(f"--scale: {scale} is not allowed: {', '.join(ids)} can be asked at the other scale alone")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {folder} cannot be written: {error.strerror}") from error
    new: list[Outcome] = []
    with held(folder):
        for study in asked.values():
            own = [claim for claim in claims if claim.study is study]
            for variant in study.variants(scale):
                if any(variant in claim.variants(scale) for claim in own):
                    new += _seen(laboratory, study, variant, own)
                    write_claims_page(folder, write_record(folder, new))
    order = [claim.id for claim in claims]
    return sorted(new, key=lambda one: order.index(one.id))


def claims_json(outcomes: Sequence[Outcome], folder: Path) -> dict[str, Any]:
    """What ``onsphere claims run --json`` prints."""
    return {
        "command": "claims run",
        "out": str(folder),
        "report": str(folder / "claims.html"),
        "record": str(record_path(folder)),
        "counts": dict(counts(outcomes)),
        "outcomes": as_rows(outcomes),
    }


def _seen(laboratory: Laboratory, study: Study, variant: Variant, claims: Sequence[Claim]) -> list[Outcome]:
    """What a study shows of claims on one data set."""
    asked = [claim for claim in claims if variant in claim.variants(laboratory.scale)]
    laboratory.progress.note(f"{study.name}, {variant.data}: {', '.join(claim.id for claim in asked)}")
    evidence, reason = None, ""
    try:
        evidence = laboratory.evidence(study, variant)
    except InputError as error:
        reason = str(error)
        laboratory.progress.note(f"not run: {reason}")
    runs = [place.relative_to(laboratory.folder).as_posix() for place in laboratory.places(study, variant)]
    commands = laboratory.commands(study, variant)
    found = []
    for claim in asked:
        seen = _NOTHING if evidence is None else claim.rule.decide(claim.measure(evidence))
        found.append(
            Outcome(
                id=claim.id,
                says=claim.says,
                source=claim.source,
                data=variant.data,
                scale=laboratory.scale,
                seeds=laboratory.seeds_of(study),
                verdict=seen.verdict,
                number=claim.number,
                numbers=seen.numbers,
                middle=seen.middle,
                low=seen.low,
                high=seen.high,
                of=claim.rule.of,
                rule=str(claim.rule),
                origin=claim.rule.origin,
                recorded=claim.recorded.get(variant.data) if laboratory.scale == "small" else None,
                note=claim.note,
                study=study.name,
                runs=tuple(runs),
                commands=tuple(commands),
                reason=reason,
            )
        )
    laboratory.progress.finding(told(found))
    return found


_NAN = float("nan")
_NOTHING = Seen((), _NAN, _NAN, _NAN, NOT_RUN)
_ENGINE = frozenset(EngineOptions.model_fields) | {"data_dir"}


def _counts(name: str) -> bool:
    """Whether a field belongs to what is asked, and not to where and how it is executed."""
    return name not in _ENGINE


def _entry(study: Study) -> Entry:
    entry = entry_of(study.command)
    if entry is None:
        raise LookupError(f"the study {study.name} names the experiment {study.command!r}, which there is not")
    return entry
