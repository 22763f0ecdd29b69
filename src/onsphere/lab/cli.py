"""The command line: parses, calls, prints. Exit status 0 done, 1 the run failed, 2 bad input, 130 interrupted."""

from __future__ import annotations

import json as json_format
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from onsphere import __version__
from onsphere.lab.command import EXPERIMENTS, Config, Json, Out, Stopped, go_on, listed, rewrite, work
from onsphere.lab.config import with_config
from onsphere.lab.console import visible
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.experiments.schedule.spec import ScheduleSpec
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.experiments.symmetries.spec import SymmetriesSpec
from onsphere.lab.landscape.commands import landscape
from onsphere.lab.options import InputError, one_line
from onsphere.lab.toy.commands import toy

app = App(
    name="onsphere",
    version=__version__,
    help="Train normalised networks on the sphere at fixed effective learning rates (ELR = lr / norm²).",
    help_format="plaintext",
)

app.command(toy)
app.command(landscape)

_TOLD = ("DiskFull", "PageFailed")  # failures whose message is a whole sentence (by name: torch is not imported here)
_LONGEST = 1000  # letters of a refusal; a hostile file may hold any number of them

RunFolder = Annotated[Path, Parameter(help="The run's folder.")]


@app.command
def regimes(
    *,
    spec: Annotated[RegimesSpec, Parameter(name="*")] = RegimesSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Map the three regimes: where convergence ends and where divergence begins, in effective learning rates.

    Trains a grid of effective learning rates times seeds on the sphere, labels every run, bisects both boundaries,
    and writes a page. The defaults take under a minute on two cores.
    """
    del config  # read before parsing, see with_config
    work("regimes", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@app.command
def periods(
    *,
    spec: Annotated[PeriodsSpec, Parameter(name="*")] = PeriodsSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Train with weight decay in the whole space: jumps, periods, their law, the equilibrium.

    Weight decay shrinks the norm and raises the ELR until training jumps, and all begins again. Runs learning
    rates x weight decays x seeds, predicts each recovery, and writes a page; the defaults take half a minute.
    """
    del config
    work("periods", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@app.command
def schedule(
    *,
    spec: Annotated[ScheduleSpec, Parameter(name="*")] = ScheduleSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Propose a schedule from a regime map and train it against tuned rivals at equal steps.

    Starts just above where convergence ends, ends inside it. Rivals: constant ELRs, cosines from several peaks, and
    lr with weight decay; means with intervals, and a page: onsphere schedule --map runs/my-map
    """
    del config
    fields = spec.model_dump(exclude_unset=True)
    work("schedule", json, lambda room, progress, stop: room.start(fields, out, progress, stop))


@app.command
def split(
    *,
    spec: Annotated[SplitSpec, Parameter(name="*")] = SplitSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Spend a memory budget well: one wide network, or several thinner ones?

    Trains the splits of a budget of parameters, compares them by NLL, calibrated
    NLL and accuracy with intervals over seeds, fits the power laws of ensembles,
    and writes a page. With --predict, four networks at each width must do.
    """
    del config
    work("split", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@app.command
def symmetries(
    model: Annotated[str | None, Parameter(help="The network; the same as --model, which it overrides.")] = None,
    /,
    *,
    spec: Annotated[SymmetriesSpec, Parameter(name="*")] = SymmetriesSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Find every rescaling of a network's weights that leaves its output unchanged.

    Says which tensors are scale-invariant, alone or together, which make up for one
    another, which do nothing, and writes a page: onsphere symmetries my_package.nets:make_net --input 8x3x32x32
    """
    del config
    fields = spec.model_dump(exclude_unset=True) | ({} if model is None else {"model": model})
    work("symmetries", json, lambda room, progress, stop: room.start(fields, out, progress, stop))


@app.command
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


@app.command
def report(run: RunFolder) -> None:
    """Write the page and the figures of an ended run again."""
    from onsphere.lab.store import Run

    print(visible(rewrite(Run.open(run))))


@app.command
def runs(folder: Annotated[Path, Parameter(help="Where to look.")] = Path("runs"), *, json: Json = False) -> None:
    """List the runs in a folder, newest first."""
    from onsphere.lab.store import list_runs

    rows = [listed(run) for run in list_runs(folder)]
    if json:
        print(json_format.dumps({"command": "runs", "runs": rows}))
        return
    if not rows:
        print(visible(f"no runs in {folder}"))
    for row in rows:
        words = (row[name] for name in ("run", "command", "status", "created", "summary"))
        print(" ".join(visible("  ".join(word for word in words if word)).split("\n")))


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
    """Run one command and return its exit status."""
    try:
        app(with_config(arguments, EXPERIMENTS), exit_on_error=False, print_error=False, result_action="return_value")
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
