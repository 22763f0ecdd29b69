"""The experiments that there are: commands, functions and tests all follow from this list, which imports none of them.

An experiment is a package with a module ``spec`` that holds its :class:`~onsphere.lab.options.Options`, and a module
``run`` that holds ``EXPERIMENT``, an :class:`~onsphere.lab.experiment.Experiment`, and its functions for Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onsphere.lab.experiment import Experiment
    from onsphere.lab.options import Options

#: What ``--help`` says of the commands of two words.
GROUPS = {
    "landscape": "What training sees of the loss on the sphere: minima, paths between them, sharpness, changes of the "
    "ELR.",
    "toy": "Toy models in which each law of scale-invariant training can be seen exactly; seconds on one core.",
}


@dataclass(frozen=True)
class Entry:
    """An experiment by its names.

    Attributes:
        command: What is typed after ``onsphere``; two words for one of a group.
        home: Name of the experiment's package.
        spec: The name of its options in the module ``spec``.
        functions: Names in the module ``run`` that :mod:`onsphere.lab` exports: what starts it, what resumes it.
        positional: A field that may also be given as the command's first argument.
        says: The text of ``--help``: a line, then a paragraph.
        examples: What may be typed after ``onsphere``, as ``--help`` shows it.
        onward: What to do after a run, as its page says it: in a phrase, and as a command in which ``{run}`` stands for
            the run and ``{again}`` for the command that repeats it.
    """

    command: str
    home: str
    spec: str
    functions: tuple[str, ...]
    says: str
    examples: tuple[str, ...]
    positional: str = ""
    onward: tuple[str, str] | None = None

    @property
    def options(self) -> type[Options]:
        """Its options; this imports neither torch nor what draws."""
        found: type[Options] = getattr(import_module(f"{self.home}.spec"), self.spec)
        return found

    @property
    def experiment(self) -> Experiment[Any, Any, Any]:
        """The experiment itself."""
        found: Experiment[Any, Any, Any] = import_module(f"{self.home}.run").EXPERIMENT
        return found


_ROOMS = "onsphere.lab.experiments"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        "regimes",
        f"{_ROOMS}.regimes",
        "RegimesSpec",
        ("map_regimes", "resume_regimes"),
        """Map the three regimes: where convergence ends and where divergence begins, in effective learning rates.

        Trains a grid of effective learning rates times seeds on the sphere, labels every run, bisects both boundaries,
        and writes a page. The defaults take under a minute on two cores.
        """,
        (
            "regimes --data fashion-mnist --pool 2 --label-noise 0",
            "regimes --model my_nets:make_net --data cifar10 --steps 4000",
        ),
        onward=("a schedule from this map, against tuned rivals", "onsphere schedule --map {run}"),
    ),
    Entry(
        "periods",
        f"{_ROOMS}.periods",
        "PeriodsSpec",
        ("train_periods", "resume_periods"),
        """Train with weight decay in the whole space: jumps, periods, their law, the equilibrium.

        Weight decay shrinks the norm and raises the ELR until training jumps, and all begins again. Runs learning rates
        x weight decays x seeds, predicts each recovery, and writes a page; the defaults take half a minute.
        """,
        (
            "periods --lr 3e-2 --weight-decay 1e-2",
            "periods --setup all-parameters --data fashion-mnist --pool 2",
        ),
        onward=("the same networks on the sphere, where there are no periods", "{again} --compare-sphere"),
    ),
    Entry(
        "landscape spectrum",
        f"{_ROOMS}.spectrum",
        "SpectrumSpec",
        ("map_spectrum", "resume_spectrum"),
        """Compare the minima of different effective learning rates of regime 1: sharpness, test loss, barriers.

        Trains ELRs x seeds, meets each run again where its train loss first reached a common target, and measures
        gradient norm, sharpness, test loss and distances there and at the end.
        """,
        (
            "landscape spectrum --seeds 4",
            "landscape spectrum --data fashion-mnist --pool 2",
        ),
        onward=("what a run does at another rate in the middle of its fall", "onsphere landscape zones"),
    ),
    Entry(
        "landscape drop",
        f"{_ROOMS}.drop",
        "DropSpec",
        ("drop_elr", "resume_drop"),
        """Train at one effective learning rate, go on at a smaller one: from which starts do the best minima come?

        The whole matrix of starting and final ELRs beside training without a drop, weight averages, and the paths
        between them, which tell the subregimes 2A and 2B apart. The defaults take about a minute. With --training
        space the same of ordinary training at ordinary learning rates.
        """,
        ("landscape drop --seeds 3", "landscape drop --training space --data fashion-mnist --pool 2"),
        onward=("what the networks have learned from each start", "onsphere landscape features"),
    ),
    Entry(
        "landscape zones",
        f"{_ROOMS}.zones",
        "ZonesSpec",
        ("map_zones", "resume_zones"),
        """The zone of high sharpness that training passes, and what becomes of runs that enter it with other ELRs.

        Measures sharpness along paths of training against 2 / ELR, branches off at checkpoints with other ELRs, and
        maps which converge at once, which go up first, which do not come through.
        """,
        ("landscape zones --seeds 2", "landscape zones --path-elrs 2e-3,8e-3"),
        onward=("in what the minima of different rates differ", "onsphere landscape spectrum"),
    ),
    Entry(
        "landscape stabilise",
        f"{_ROOMS}.stabilise",
        "StabiliseSpec",
        ("stabilise", "resume_stabilise"),
        """The stationary state from inside: what a change of the ELR leaves, how far runs wander, the random walk.

        Changes every ELR of the chaotic equilibrium into every other and compares the level with that of runs which had
        the new ELR from the start; follows angles and barriers. The defaults take a minute.
        """,
        ("landscape stabilise --seeds 2", "landscape stabilise --data fashion-mnist --pool 2"),
        onward=("which start leads to the best minimum after a drop", "onsphere landscape drop"),
    ),
    Entry(
        "landscape conventional",
        f"{_ROOMS}.conventional",
        "ConventionalSpec",
        ("compare_conventional", "resume_conventional"),
        """Set ordinary training against the sphere: its effective learning rate, its regime, its loss.

        Trains one network on the sphere at fixed ELRs, in the whole space with weight decay, and as an ordinary network
        with every parameter trained; shows which regime an ordinary run is in.
        """,
        (
            "landscape conventional --seeds 2",
            "landscape conventional --data fashion-mnist --pool 2",
        ),
        onward=("the map of the sphere that these runs are compared with", "onsphere regimes"),
    ),
    Entry(
        "landscape features",
        f"{_ROOMS}.features",
        "FeaturesSpec",
        ("learn_features", "resume_features"),
        """Which features networks learn from different starting ELRs: how many redundant ones, which frequencies.

        Trains at a row of ELRs, goes on at a small one, and measures the accuracy with each of 16 redundant features
        alone; with --data digits, fashion-mnist or cifar10 by band of frequency. The defaults take a minute or two.
        """,
        ("landscape features --seeds 3", "landscape features --data fashion-mnist --train 1000"),
        onward=("which start leads to the best minimum", "onsphere landscape drop"),
    ),
    Entry(
        "schedule",
        f"{_ROOMS}.schedule",
        "ScheduleSpec",
        ("compare_schedules", "resume_schedules"),
        """Propose a schedule from a regime map and train it against tuned rivals at equal steps.

        Starts just above where convergence ends, ends inside it. Rivals: constant ELRs, cosines from several peaks, and
        lr with weight decay; means with intervals, and a page: onsphere schedule --map runs/my-map
        """,
        ("schedule --map runs/my-map", "schedule --convergence 8e-3 --seeds 5"),
        onward=("which start leads to the best minimum before the fall", "onsphere landscape drop"),
    ),
    Entry(
        "split",
        f"{_ROOMS}.split",
        "SplitSpec",
        ("split_budget", "resume_split"),
        """Spend a memory budget well: one wide network, or several thinner ones?

        Trains the splits of a budget of parameters, compares them by NLL, calibrated NLL and accuracy with intervals
        over seeds, fits the power laws of ensembles, and writes a page. With --predict, four networks at each width
        must do.
        """,
        (
            "split --budget 64k --data fashion-mnist --train 500",
            "split --predict --budget 64k,128k",
        ),
        onward=("the same split for other budgets, from small networks", "onsphere split --predict --budget 64k"),
    ),
    Entry(
        "thermo",
        f"{_ROOMS}.thermo",
        "ThermoSpec",
        ("measure_thermo", "resume_thermo"),
        """A network in its stationary state as an ideal gas: temperature, pressure, entropy, free energies.

        --study gas trains at a fixed ELR, a fixed lr and on a fixed sphere and sets norm, pressure and entropy beside
        the laws; --study free-energy follows energy and entropy over the ELR, for a small network and a wide one.
        """,
        ("thermo --study gas", "thermo --study free-energy --seeds 3"),
        onward=("the same where everything can be computed", "onsphere toy thermo"),
    ),
    Entry(
        "symmetries",
        f"{_ROOMS}.symmetries",
        "SymmetriesSpec",
        (),
        """Find every rescaling of a network's weights that leaves its output unchanged.

        Says which tensors are scale-invariant, alone or together, which make up for one another, which do nothing, and
        writes a page: onsphere symmetries my_package.nets:make_net --input 8x3x32x32
        """,
        ("symmetries convnet --input 8x3x32x32", "symmetries my_nets:make_net --input 8x3x32x32 --rows"),
        positional="model",
    ),
    Entry(
        "toy regimes",
        f"{_ROOMS}.toy_regimes",
        "ToyRegimesSpec",
        ("toy_regimes",),
        """The loss at fixed effective learning rates against its closed form, without any data.

        Minimises the sum of alpha x²/(x² + y²) over pairs on one sphere. It converges below an ELR of 1/A, A the sum of
        the alphas; above it the loss is (A - 1/ELR)/2.
        """,
        ("toy regimes", "toy regimes --config toys.toml"),
        onward=("the same three regimes in a network", "onsphere regimes"),
    ),
    Entry(
        "toy periods",
        f"{_ROOMS}.toy_periods",
        "ToyPeriodsSpec",
        ("toy_periods",),
        """The periods that weight decay causes, against their law √(2 ln(1/floor) / (lr weight-decay)).

        Minimises the same pairs in the whole space with weight decay: the ELR climbs past 1/A, the minimum
        destabilises, the norm jumps, and all begins again.
        """,
        ("toy periods --lr 1e-2", "toy periods --seed 1 --json"),
        onward=("the same periods in a network", "onsphere periods"),
    ),
    Entry(
        "toy thermo",
        f"{_ROOMS}.toy_thermo",
        "ToyThermoSpec",
        ("toy_thermo",),
        """Training with isotropic noise as an ideal gas: energy, radius, pressure, entropy against their closed forms.

        Runs three protocols (fixed ELR, fixed learning rate, fixed ELR and norm) over a few settings each and tests the
        Maxwell relations.
        """,
        ("toy thermo", "toy thermo --seed 1 --json"),
        onward=("the same in a network", "onsphere thermo"),
    ),
    Entry(
        "toy free-energy",
        f"{_ROOMS}.toy_free_energy",
        "ToyFreeEnergySpec",
        ("toy_free_energy",),
        """Energy, entropy and temperature of training on a sphere: with noise at the minimum, and without.

        Three objects in three dimensions leave noise at the minimum, and the temperature grows with the ELR; with two
        it vanishes, and training converges up to an ELR of 1.
        """,
        ("toy free-energy", "toy free-energy --models over --elrs 0.5,0.9,1.1"),
        onward=("the same in networks", "onsphere thermo --study free-energy"),
    ),
)


def entry_of(command: str) -> Entry | None:
    """The entry of a command, if there is one."""
    return next((entry for entry in ENTRIES if entry.command == command), None)
