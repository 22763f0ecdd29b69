"""The commands ``onsphere landscape ...``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from onsphere.lab.command import Config, Json, Out, work
from onsphere.lab.experiments.conventional.spec import ConventionalSpec
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.experiments.spectrum.spec import SpectrumSpec
from onsphere.lab.experiments.stabilise.spec import StabiliseSpec
from onsphere.lab.experiments.zones.spec import ZonesSpec

landscape = App(
    name="landscape",
    help="What training sees of the loss on the sphere: minima, paths between them, sharpness, changes of the ELR.",
)


@landscape.command(name="spectrum")
def landscape_spectrum(
    *,
    spec: Annotated[SpectrumSpec, Parameter(name="*")] = SpectrumSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Compare the minima of different effective learning rates of regime 1: sharpness, test loss, barriers.

    Trains ELRs x seeds, meets each run again where its train loss first
    reached a common target, and measures gradient norm, sharpness, test loss
    and distances there and at the end.
    """
    del config
    work("landscape spectrum", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@landscape.command(name="stabilise")
def landscape_stabilise(
    *,
    spec: Annotated[StabiliseSpec, Parameter(name="*")] = StabiliseSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """The stationary state from inside: what a change of the ELR leaves, how far runs wander, the random walk.

    Changes every ELR of the chaotic equilibrium into every other and compares the level with that of
    runs which had the new ELR from the start; follows angles and barriers. The defaults take a minute.
    """
    del config
    work("landscape stabilise", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@landscape.command(name="drop")
def landscape_drop(
    *,
    spec: Annotated[DropSpec, Parameter(name="*")] = DropSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Train at one effective learning rate, go on at a smaller one: from which starts do the best minima come?

    The whole matrix of starting and final ELRs beside training without a drop, weight averages, and the
    paths between them, which tell the subregimes 2A and 2B apart. The defaults take about a minute.
    """
    del config
    work("landscape drop", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@landscape.command(name="conventional")
def landscape_conventional(
    *,
    spec: Annotated[ConventionalSpec, Parameter(name="*")] = ConventionalSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Set ordinary training against the sphere: its effective learning rate, its regime, its loss.

    Trains one network on the sphere at fixed ELRs, in the whole space with
    weight decay, and as an ordinary network with every parameter trained;
    shows which regime an ordinary run is in.
    """
    del config
    work("landscape conventional", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


@landscape.command(name="zones")
def landscape_zones(
    *,
    spec: Annotated[ZonesSpec, Parameter(name="*")] = ZonesSpec(),  # noqa: B008 (frozen)
    out: Out = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """The zone of high sharpness that training passes, and what becomes of runs that enter it with other ELRs.

    Measures sharpness along paths of training against 2 / ELR, branches off at checkpoints with
    other ELRs, and maps which converge at once, which go up first, which do not come through.
    """
    del config
    work("landscape zones", json, lambda room, progress, stop: room.start(spec, out, progress, stop))
