"""The commands ``onsphere toy ...``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from onsphere.lab.command import Config, Json, Out, work
from onsphere.lab.experiments.toy_periods.spec import ToyPeriodsSpec
from onsphere.lab.experiments.toy_regimes.spec import ToyRegimesSpec
from onsphere.lab.experiments.toy_thermo.spec import ToyThermoSpec

toy = App(
    name="toy",
    help="Toy models in which each law of scale-invariant training can be seen exactly; seconds on one core.",
)


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
    work("toy regimes", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


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
    work("toy periods", json, lambda room, progress, stop: room.start(spec, out, progress, stop))


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
    work("toy thermo", json, lambda room, progress, stop: room.start(spec, out, progress, stop))
