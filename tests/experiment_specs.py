"""A tiny run of every experiment, and how tests of all of them hear, interrupt and compare it.

A tiny run has few steps, in float64, on a few digits, one copy after another in this process: it takes a second or two,
draws every chart that the page of its experiment can have, and finds the same to many digits on another machine.
"""

import html
import json
import re
import signal
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from onsphere.lab.display import Display
from onsphere.lab.registry import ENTRIES

#: Every experiment there is, by its command.
COMMANDS = tuple(entry.command for entry in ENTRIES)

ENGINE = "--workers 1 --mode loop --chunk 2 --compiled no --dtype float64"
DIGITS = "--train 40 --test 30"

#: Options of a tiny run by command.
OPTIONS = {
    "regimes": (
        f"--train 12 --test 30 --label-noise 0 --widths 16 --elr-min 3e-3 --elr-max 0.3 --elrs 3 --seeds 2 --steps 32 "
        f"--batch-size 6 --refine 1 --evaluations 2 {ENGINE}"
    ),
    "periods": (
        f"{DIGITS} --widths 4 --lr 2 --weight-decay 2e-2,5e-2 --seeds 2 --steps 96 --batch-size full --evaluations 2 "
        f"--burn-in 10 --compare-sphere --minima --sharpness {ENGINE}"
    ),
    "landscape spectrum": (
        f"{DIGITS} --widths 4 --elr 2e-3,8e-3,3e-2 --seeds 2 --steps 60 --batch-size 10 --evaluations 2 --window 4 "
        f"--gradients 2 --points 3 {ENGINE}"
    ),
    "landscape drop": (
        f"{DIGITS} --label-noise 0 --widths 4 --starts 1e-2,0.1 --ends 1e-3,1e-2 --seeds 2 --steps 16 --drop-steps 12 "
        f"--batch-size 10 --evaluations 2 --averaged 2 --points 3 --sharpness {ENGINE}"
    ),
    "landscape zones": (
        f"{DIGITS} --widths 4 --path-elrs 2e-3,8e-3 --elrs 2e-3,2e-2,0.2 --seeds 1 --checkpoints 3 --readings 5 "
        f"--steps 24 --continue-steps 12 --evaluations 2 {ENGINE}"
    ),
    "landscape stabilise": (
        f"{DIGITS} --widths 4 --elrs 0.02,0.06 --divergence-elrs 0.5 --seeds 2 --steps 64 --batch-size 10 --points 3 "
        f"--evaluations 2 {ENGINE}"
    ),
    "landscape conventional": (
        f"{DIGITS} --widths 4 --elr 1e-3,3e-2,1 --lr 0.03,3 --weight-decay 0.02 --seeds 2 --steps 32 --batch-size 10 "
        f"--evaluations 2 {ENGINE}"
    ),
    "landscape features": (
        f"--train 16 --test 40 --features 3 --noise 0.1,0.4 --widths 6 --starts 1e-2,0.05,0.3 --end 5e-3 --seeds 2 "
        f"--steps 32 --drop-steps 16 --batch-size 8 --evaluations 2 {ENGINE}"
    ),
    "schedule": (
        f"{DIGITS} --widths 4 --constant 0.5,1 --peaks 4 --lr 1 --weight-decay 1e-3 --seeds 2 --steps 16 "
        f"--batch-size 10 --evaluations 2 {ENGINE}"
    ),
    "split": (f"{DIGITS} --budget 1000,2000 --members 1,2,4 --seeds 2 --steps 24 --batch-size 10 --lr 0.03 {ENGINE}"),
    "thermo": (
        f"{DIGITS} --widths 4 --elrs 0.02,0.05 --lrs 0.2 --weight-decays 0.1,0.2 --seeds 2 --steps 48 "
        f"--batch-size 10 --samples 16 --gradients 3 --evaluations 1 {ENGINE}"
    ),
    "symmetries": "--model resnet18 --width 2 --input 8x1x8x8 --rows --eps 1e-2 --dtype float64",
    "toy regimes": "--elrs 0.1,0.2 --steps 200 --seeds 2 --backend numpy",
    "toy periods": "--weight-decay 0.1 --floor 1e-6 --steps 900 --backend numpy",
    "toy thermo": "--weight-decays 0.05,0.1 --elrs 0.1,0.2 --lrs 0.1,0.2 --radii 1,2 --copies 16 --points 64",
    "toy free-energy": "--elrs 0.2,0.3,1.5,4 --copies 16 --points 64",
}


#: Options that an experiment refuses for a reason of its own, and what the refusal names.
WRONG = {
    "regimes": ("--elr-min 1 --elr-max 0.1", "--elr-min"),
    "periods": ("--lr 10 --weight-decay 0.2", "--weight-decay"),
    "landscape spectrum": ("--window 800", "--window"),
    "landscape drop": ("--averaged 1", "--averaged"),
    "landscape zones": ("--elrs 0.02,0.02", "--elrs"),
    "landscape stabilise": ("--steps 96 --change 80", "--change"),
    "landscape conventional": ("--weight-decay 0.2", "--weight-decay"),
    "landscape features": ("--bands 0,2", "--bands"),
    "schedule": ("--end-factor 1", "--end-factor"),
    "split": ("--predict --save best.safetensors", "--save"),
    "thermo": ("--study free-energy --elrs 0.1,0.2", "--elrs"),
    "symmetries": ("--tokens 4x5", "--vocab"),
    "toy regimes": ("--elrs 0.1 --elr-min 1", "--elr-min"),
    "toy periods": ("--floor 1", "--floor"),
    "toy thermo": ("--dimension 1", "--dimension"),
    "toy free-energy": ("--elrs 1e-4,0.1,1", "--elrs"),
}

GOLDEN = Path(__file__).parent / "lab" / "golden"
# The golden rows were made on another processor. Float64 and few steps keep what differs in the last bit from growing
# beyond 1e-6 (measured with every vector instruction switched off), even past the jumps that the experiments look for;
# whatever is computed otherwise differs by far more than the tolerance.
RELATIVE, ABSOLUTE = 1e-4, 1e-7
#: Quotients of something by rounding errors; that they are large is all they say.
LARGE = {"symmetries": {"gap": 1e9}}
#: What a run takes and where it lies: no part of what it found.
PASSING = ("run", "report", "seconds", "cpu_seconds")
#: Files that a run keeps for itself, to be resumed; every other one is the user's.
KEPT = (".lock", "shards", "starts.safetensors", "map.json", "measurements.json", "measured", "sharpness", "barriers")


def words(command):
    """The words that start the tiny run of an experiment."""
    return [*command.split(), *OPTIONS[command].split()]


def slug(command):
    """An experiment's name as a file's name."""
    return command.replace(" ", "-")


def found(result):
    """What a result says, without what is another in every run."""
    return {name: value for name, value in result.items() if name not in PASSING}


def result_in(folder):
    """What ``result.json`` of a run says, without what is another in every run."""
    return found(json.loads((folder / "result.json").read_text(encoding="utf-8")))


def golden_of(command):
    """What an earlier version found in the tiny run: ``result``, ``files`` and the number of ``charts``."""
    return json.loads((GOLDEN / f"{slug(command)}.json").read_text(encoding="utf-8"))


def differences(expected, today):
    """What is not as it was in a result: other keys or another order of them, words, integers, numbers."""
    return list(_differences(expected, today, LARGE.get(expected["command"], {}), "result"))


def _differences(expected, today, large, where):
    if type(expected) is not type(today):
        yield f"{where}: {today!r}, not {expected!r}"
    elif isinstance(expected, dict):
        if list(expected) != list(today):
            yield f"{where} has {list(today)}, not {list(expected)}"
        for name in expected.keys() & today.keys():
            if name in large:
                if not min(expected[name], today[name]) > large[name]:
                    yield f"{where}.{name}: {today[name]!r} is not above {large[name]:g}"
            else:
                yield from _differences(expected[name], today[name], large, f"{where}.{name}")
    elif isinstance(expected, list):
        if len(expected) != len(today):
            yield f"{where} has {len(today)} rows, not {len(expected)}"
        for i, (one, other) in enumerate(zip(expected, today, strict=False)):
            yield from _differences(one, other, large, f"{where}[{i}]")
    elif isinstance(expected, float):
        if today != pytest.approx(expected, rel=RELATIVE, abs=ABSOLUTE):
            yield f"{where}: {today!r}, not {expected!r}"
    elif expected != today:
        yield f"{where}: {today!r}, not {expected!r}"


def files_in(folder):
    """The files of an ended run that a user reads, in order."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.parts[0] not in KEPT)


def charts_on(page):
    """How many charts a page names."""
    return page.read_text(encoding="utf-8").count('<figure class="chart"')


def code_on(page):
    """The blocks of code on a page."""
    return [html.unescape(text) for text in re.findall(r"<code>(.*?)</code>", page.read_text(encoding="utf-8"), re.S)]


@contextmanager
def hearing(listener):
    """Within it, ``listener`` hears what experiments tell the display: ``folder``, ``begin``, ``advance``."""
    with ExitStack() as stack:
        for name in ("folder", "begin", "advance"):
            stack.enter_context(patch.object(Display, name, _overheard(name, getattr(Display, name), listener)))
        yield


def _overheard(name, method, listener):
    def told(self, *arguments):
        method(self, *arguments)
        listener(name, *arguments)

    return told


class Interrupter:
    """Presses Ctrl-C once a sitting, wherever no earlier sitting was stopped.

    A sitting is stopped when the run has its folder, at the beginning of every round of training or measuring, and in
    the middle of each.

    Attributes:
        stopped: Where: the title of the round, and whether it was in the middle.
    """

    def __init__(self):
        self.stopped = set()
        self.sit_down()

    def sit_down(self):
        """A new sitting begins."""
        self.pressed, self.title, self.announced, self.done = False, "", 0, 0

    def __call__(self, name, *arguments):
        if name == "begin":
            self.title, self.announced = arguments
            self.done = 0
        elif name == "advance":
            self.done += arguments[0]
        place = (self.title, 0 < self.announced <= 2 * self.done)
        if not self.pressed and place not in self.stopped:
            self.pressed = True
            self.stopped.add(place)
            signal.raise_signal(signal.SIGINT)
