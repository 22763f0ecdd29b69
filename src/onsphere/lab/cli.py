"""The command line: parses, calls, prints. Exit status 0 done, 1 the run failed, 2 bad input, 130 interrupted."""

from __future__ import annotations

import json as json_format
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from onsphere import __version__
from onsphere.lab.config import with_config
from onsphere.lab.options import InputError, one_line
from onsphere.lab.periods.spec import PeriodsSpec
from onsphere.lab.regimes.spec import RegimesSpec
from onsphere.lab.symmetries.spec import SymmetriesSpec
from onsphere.lab.toy.periods.spec import ToyPeriodsSpec
from onsphere.lab.toy.regimes.spec import ToyRegimesSpec
from onsphere.lab.toy.thermo.spec import ToyThermoSpec

# Where each experiment's side of the terminal lives: run, resume, rewrite its report, show its result.
EXPERIMENTS = {
    "regimes": "onsphere.lab.regimes.terminal",
    "periods": "onsphere.lab.periods.terminal",
    "symmetries": "onsphere.lab.symmetries.terminal",
    "toy regimes": "onsphere.lab.toy.regimes.terminal",
    "toy periods": "onsphere.lab.toy.periods.terminal",
    "toy thermo": "onsphere.lab.toy.thermo.terminal",
}

app = App(
    name="onsphere",
    version=__version__,
    help="Train normalised networks on the sphere at fixed effective learning rates (ELR = lr / norm²).",
    help_format="plaintext",
)

toy = App(
    name="toy",
    help="Toy models in which each law of scale-invariant training can be seen exactly; seconds on one core.",
)
app.command(toy)

Out = Annotated[Path | None, Parameter(help="Folder of the run; new or empty (default: runs/COMMAND-DATE-TIME).")]
Json = Annotated[
    bool,
    Parameter(name="--json", negative="", help="Print the result as one JSON object, the last line of output."),
]
Config = Annotated[Path | None, Parameter(help="TOML file with the same fields; options given here win.")]
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
    _work("regimes", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


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
    _work("periods", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


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
    _work("symmetries", json, lambda room, progress, stop: room.start(fields, out, progress, stop))


@toy.command(name="regimes")
def toy_regimes(
    *,
    spec: Annotated[ToyRegimesSpec, Parameter(name="*")] = ToyRegimesSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """The loss at fixed effective learning rates against its closed form, without any data.

    Minimises the sum of alpha x²/(x² + y²) over pairs on one sphere. It converges
    below an ELR of 1/A, A the sum of the alphas; above it the loss is (A - 1/ELR)/2.
    """
    del config
    _work("toy regimes", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@toy.command(name="periods")
def toy_periods(
    *,
    spec: Annotated[ToyPeriodsSpec, Parameter(name="*")] = ToyPeriodsSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """The periods that weight decay causes, against their law √(2 ln(1/floor) / (lr weight-decay)).

    Minimises the same pairs in the whole space with weight decay: the ELR climbs
    past 1/A, the minimum destabilises, the norm jumps, and all begins again.
    """
    del config
    _work("toy periods", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@toy.command(name="thermo")
def toy_thermo(
    *,
    spec: Annotated[ToyThermoSpec, Parameter(name="*")] = ToyThermoSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Training with isotropic noise as an ideal gas: energy, radius, pressure, entropy against their closed forms.

    Runs three protocols (fixed ELR, fixed learning rate, fixed ELR and norm) over
    a few settings each and tests the Maxwell relations.
    """
    del config
    _work("toy thermo", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@app.command
def resume(run: RunFolder, *, json: Json = False) -> None:
    """Continue an interrupted run to the same bits; print the result of one that has ended."""
    from onsphere.lab.store import Run

    opened = Run.open(run)
    _work(opened.manifest["command"], json, lambda room, progress, stop: room.resume(opened, progress, stop))


@app.command
def report(run: RunFolder) -> None:
    """Write the page and the figures of an ended run again."""
    from onsphere.lab.store import Run

    opened = Run.open(run)
    print(_experiment(opened.manifest["command"]).rewrite_report(opened))


@app.command
def runs(folder: Annotated[Path, Parameter(help="Where to look.")] = Path("runs"), *, json: Json = False) -> None:
    """List the runs in a folder, newest first."""
    from onsphere.lab.store import list_runs

    rows = []
    for run in list_runs(folder):
        manifest = run.manifest
        summary = _experiment(manifest["command"]).one_line(run) if run.done else ""
        row = {"run": str(run.folder), "command": manifest["command"], "status": run.status}
        rows.append(row | {"created": manifest["created"], "summary": summary})
    if json:
        print(json_format.dumps({"command": "runs", "runs": rows}))
        return
    if not rows:
        print(f"no runs in {folder}")
    for row in rows:
        print(f"{row['run']}  {row['command']}  {row['status']}  {row['created']}  {row['summary']}".rstrip())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run_command(list(sys.argv[1:] if arguments is None else arguments)))


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        app(with_config(arguments, EXPERIMENTS), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        cause = error.__cause__ or error.__context__
        return _refuse(one_line(cause) if isinstance(cause, ValidationError) else str(error))
    except InputError as error:
        return _refuse(str(error))
    except _Interrupted as stopped:
        print(str(stopped), file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("ONSPHERE_DEBUG"):
            raise
        print(f"onsphere: failed: {type(error).__name__}: {error}", file=sys.stderr)
        print("(set ONSPHERE_DEBUG=1 to see where)", file=sys.stderr)
        return 1
    return 0


class _Interrupted(Exception):  # noqa: N818
    """Carries the sentence that says how to go on."""


def _refuse(message: str) -> int:
    print("onsphere: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _experiment(command: str) -> Any:
    if command not in EXPERIMENTS:
        raise InputError(f"this version of onsphere ({__version__}) does not know the experiment {command!r}")
    return import_module(EXPERIMENTS[command])


def _work(command: str, as_json: bool, call: Callable[[Any, Any, Callable[[], bool]], Any]) -> None:
    """Run an experiment with a live display and orderly Ctrl-C, then print its result."""
    from onsphere.lab.display import Display
    from onsphere.lab.execution import Interrupted, WorkerDied

    room = _experiment(command)
    stopping = threading.Event()
    with Display() as display:

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if stopping.is_set():
                display.console.show_cursor(True)
                os._exit(130)  # workers end with their parent
            stopping.set()
            display.note("stopping at a checkpoint; Ctrl-C again kills")

        before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            result = call(room, display, stopping.is_set)
        except Interrupted as stopped:
            raise _Interrupted(f"interrupted; continue with: onsphere resume {display.run}") from stopped
        except WorkerDied as error:
            raise WorkerDied(f"{error}; continue with: onsphere resume {display.run}") from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if as_json:
        from onsphere.lab.store.files import plain

        print(json_format.dumps(plain(result.to_dict())), flush=True)
    else:
        room.show(result)


if __name__ == "__main__":
    main()
