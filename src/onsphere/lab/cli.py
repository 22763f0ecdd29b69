"""The command line: parses, calls, prints. Exit status 0 done, 1 the run failed, 2 bad input, 130 interrupted."""

from __future__ import annotations

import inspect
import json as json_format
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from onsphere.lab.command import (
    Config,
    Json,
    Out,
    Plan,
    Stopped,
    displayed,
    go_on,
    listed,
    rewrite,
    runs_page,
    show_plan,
    work,
)
from onsphere.lab.config import with_config
from onsphere.lab.console import visible
from onsphere.lab.options import InputError, Options, one_line
from onsphere.lab.registry import ENTRIES, GROUPS, Entry


def version() -> str:
    """What --version says."""
    from onsphere.lab.doctor import version

    return version()


app = App(
    name="onsphere",
    version=version,
    help="Train normalised networks on the sphere at fixed effective learning rates (ELR = lr / norm²).",
    help_format="plaintext",
)

FIRST_STEPS = """\
onsphere: effective learning rates, training on the sphere, the three regimes of normalised networks

Try first:
  onsphere demo                                       three regimes of a small network, in under a minute
  onsphere symmetries convnet --input 8x3x32x32       which weights are scale-invariant
  onsphere toy regimes                                the same regimes where they can be computed exactly, in seconds
  onsphere doctor                                     whether everything is here

In your own training loop, any optimiser:
  monitor = onsphere.Monitor(optimizer, onsphere.sphere_groups(model, batch))
  print(monitor.report())

All commands: onsphere --help; of one: onsphere regimes --help"""


class Unfit(Exception):  # noqa: N818
    """Something is missing; the message says what."""


# Failures whose message is a whole sentence (by name: torch is not imported here).
_TOLD = ("DiskFull", "PageFailed", "Unfit")
_LONGEST = 1000  # letters of a refusal; a hostile file may hold any number of them


def examples(*commands: str) -> str:
    """What --help ends with."""
    return "\n".join(["Examples:", *(f"  onsphere {command}" for command in commands)])


RunFolder = Annotated[Path, Parameter(help="The run's folder.")]


def _first_two(group: str) -> list[str]:
    return [entry.examples[0] for entry in ENTRIES if entry.command.startswith(f"{group} ")][:2]


groups = {name: App(name=name, help=says, help_epilogue=examples(*_first_two(name))) for name, says in GROUPS.items()}
for group in groups.values():
    app.command(group)


def command_of(entry: Entry) -> Callable[..., None]:
    """The command of an experiment: its fields as options, and those that every command has."""
    options = entry.options

    def command(
        *given: str | None,
        spec: Options = options(),  # noqa: B008 (frozen)
        out: Path | None = None,
        json: bool = False,
        plan: bool = False,
        config: Path | None = None,
    ) -> None:
        del config  # read before parsing, see with_config
        fields = spec.model_dump(exclude_unset=True)
        if given and given[0] is not None:
            fields[entry.positional] = given[0]
        if plan:
            show_plan(entry.experiment.plan(**fields), json)
            return
        fields["out"] = out
        work(entry.experiment, json, lambda own, progress, stop: own.start(**fields, progress=progress, stop=stop))

    kind = inspect.Parameter.KEYWORD_ONLY
    annotations: dict[str, tuple[Any, Any]] = {
        "spec": (options(), Annotated[options, Parameter(name="*")]),
        "out": (None, Out),
        "json": (False, Json),
        "plan": (False, Plan),
        "config": (None, Config),
    }
    parameters = [inspect.Parameter(n, kind, default=d, annotation=a) for n, (d, a) in annotations.items()]
    if entry.positional:
        name = entry.positional
        told = Annotated[str | None, Parameter(help=f"The network; the same as --{name}, which it overrides.")]
        parameters.insert(0, inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY, default=None, annotation=told))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = "\n\n".join(" ".join(part.split()) for part in entry.says.split("\n\n"))
    return command


for entry in ENTRIES:
    *first, last = entry.command.split()
    (groups[first[0]] if first else app).command(command_of(entry), name=last, help_epilogue=examples(*entry.examples))


@app.command(help_epilogue=examples("demo", "demo --out runs/first-map"))
def demo(*, out: Out = None, json: Json = False) -> None:
    """Map the three regimes of a small network on scikit-learn's digits: 80 runs, a page, under a minute.

    The same as onsphere regimes without any option.
    """
    entry = next(entry for entry in ENTRIES if entry.command == "regimes")
    work(entry.experiment, json, lambda own, progress, stop: own.start(out=out, progress=progress, stop=stop))


@app.command(help_epilogue=examples("doctor", "doctor --json"))
def doctor(*, json: Json = False) -> None:
    """Look whether everything is here that training, pages and data sets need, and say what to do about the rest.

    Exit status 1 if something is missing without which nothing works.
    """
    from onsphere.lab.doctor import checks

    found = []
    for check in checks():
        found.append(check)
        if not json:
            print(visible(f"{check.state:<8} {check.name:<14} {check.found}"), flush=True)
            if check.advice:
                print(visible(f"{'':<24}{check.advice}"))
    missing = [check.name for check in found if check.state == "missing"]
    if json:
        print(json_format.dumps({"command": "doctor", "checks": [check.to_dict() for check in found]}))
    elif not missing:
        print("Everything that is needed is here.")
    if missing:
        raise Unfit(f"the installation lacks {', '.join(missing)}")


@app.command(help_epilogue=examples("resume runs/my-map", "resume runs/my-map --trust --json"))
def resume(
    run: RunFolder,
    *,
    trust: Annotated[
        bool, Parameter(negative="", help="Import the code that the run names, although you did not start it here.")
    ] = False,
    json: Json = False,
) -> None:
    """Continue an interrupted run to the same bits; print the result of one that has ended.

    A run that names a model of somebody's own imports that code. Without --trust only
    a run that you started in this folder does so.
    """
    from onsphere.lab.store import Run

    go_on(Run.open(run, trust=trust), json)


@app.command(help_epilogue=examples("report runs/my-map", "report results/map"))
def report(run: RunFolder) -> None:
    """Write the page and the figures of an ended run again."""
    from onsphere.lab.store import Run

    print(visible(rewrite(Run.open(run))))


@app.command(help_epilogue=examples("runs --page", "runs results --json"))
def runs(
    folder: Annotated[Path, Parameter(help="Where to look.")] = Path("runs"),
    *,
    page: Annotated[
        bool, Parameter(negative="", help="Also write index.html there: all runs, sortable, with pictures and links.")
    ] = False,
    json: Json = False,
) -> None:
    """List the runs in a folder, newest first."""
    from onsphere.lab.store import list_runs

    rows = [listed(run) for run in list_runs(folder)]
    written = runs_page(folder, rows) if page else None
    if json:
        print(json_format.dumps({"command": "runs", "runs": rows, "page": written and str(written)}))
        return
    if written is not None:
        print(visible(f"page: {written}"))
        return
    if not rows:
        print(visible(f"no runs in {folder}"))
    for row in rows:
        words = (row[name] for name in ("run", "command", "status", "created", "summary"))
        print(" ".join(visible("  ".join(word for word in words if word)).split("\n")))


ClaimsFolder = Annotated[Path, Parameter(name="--out", help="Folder of the claims' runs, page and JSON.")]

claims = App(
    name="claims",
    help="The claims of the papers, one by one: which hold here, and by which numbers.",
    help_epilogue=examples("claims", "claims --markdown --out runs/claims"),
)
app.command(claims)


@claims.default
def list_claims(
    *,
    out: ClaimsFolder = Path("runs/claims"),
    markdown: Annotated[bool, Parameter(negative="", help="Print what was seen as a page in Markdown.")] = False,
    json: Json = False,
) -> None:
    """List the claims with their sources, and what was seen last of each: verdict, number with its interval, scale."""
    from onsphere.lab.claims import CLAIMS, read_record
    from onsphere.lab.claims.document import markdown as document
    from onsphere.lab.claims.words import listing, rows

    seen = read_record(out)
    if json:
        print(json_format.dumps({"command": "claims", "out": str(out), "claims": rows(CLAIMS, seen)}))
    elif markdown:
        print(document(seen), end="")
    else:
        for line in listing(CLAIMS, seen):
            print(visible(line))


@claims.command(name="run", help_epilogue=examples("claims run regimes --seeds 3", "claims run --workers 2"))
def run_of_claims(
    *ids: Annotated[str, Parameter(help="Claims by identifier, or whole topics (default: all).")],
    scale: Annotated[
        Literal["small", "paper"],
        Parameter(help="small: digits and Fashion-MNIST, minutes; paper: the published networks and data, days."),
    ] = "small",
    seeds: Annotated[int, Parameter(help="Seeds of every study; an interval needs two.")] = 5,
    workers: Annotated[int, Parameter(help="Worker processes, one thread each.")] = 2,
    out: ClaimsFolder = Path("runs/claims"),
    data_dir: Annotated[str | None, Parameter(help="Folder that holds the files of the data sets.")] = None,
    json: Json = False,
) -> None:
    """Run what decides claims, go on with what was stopped, and write claims.html and claims.json.

    Only the studies that the claims need are run, and none that has ended. Every study
    is a run of its own in the folder.
    """
    from onsphere.lab.claims.run import claims_json, run_claims
    from onsphere.lab.claims.words import conclusion

    again = ["onsphere", "claims", "run", *ids, "--scale", scale, "--seeds", str(seeds), "--workers", str(workers)]
    again += ["--out", str(out), *(["--data-dir", data_dir] if data_dir else [])]
    found = displayed(
        lambda display, stop: run_claims(
            ids, scale=scale, seeds=seeds, workers=workers, out=out, data_dir=data_dir, progress=display, stop=stop
        ),
        lambda _: f"; continue with: {shlex.join(again)}",
    )
    if json:
        print(json_format.dumps(claims_json(found, out)))
        return
    for line in conclusion(found):
        print(visible(line))
    print(visible(f"page: {out / 'claims.html'}"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave)  # until an experiment has begun, which stops in its own way
    sys.exit(run_command(list(sys.argv[1:] if arguments is None else arguments)))


def _leave(signum: int, frame: FrameType | None) -> None:
    """Nothing has been started yet that could be continued: no exception out of a half-imported library."""
    os.write(2, b"onsphere: interrupted\n")
    os._exit(130)


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit status; without one say what to try first."""
    if not arguments:
        print(FIRST_STEPS)
        return 0
    try:
        whole = with_config(arguments, [entry.command for entry in ENTRIES])
        app(whole, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        cause = error.__cause__ or error.__context__
        return _refuse(one_line(cause) if isinstance(cause, ValidationError) else str(error))
    except InputError as error:
        return _refuse(str(error))
    except Stopped as stopped:
        print(visible(stopped), file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("onsphere: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("ONSPHERE_DEBUG"):
            raise
        if type(error).__name__ in _TOLD:
            print(visible(f"onsphere: {error}"), file=sys.stderr)
            return 1
        print(visible(f"onsphere: failed: {type(error).__name__}: {error}"), file=sys.stderr)
        print("(set ONSPHERE_DEBUG=1 to see where)", file=sys.stderr)
        return 1
    return 0


def _refuse(message: str) -> int:
    line = visible("onsphere: " + " ".join(message.split()))
    print(line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
