"""What a population trains: one problem, and copies of its network that differ in seed and hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onsphere import make_scale_invariant
from onsphere.lab import models
from onsphere.lab.data import Dataset, batch_indices, drawn_indices
from onsphere.lab.population.phases import Phase, check_phases, phase_lrs
from onsphere.lab.population.spheres import Spheres

# What a seed is used for. Each purpose has its own stream, so adding one changes no other.
INITIAL_WEIGHTS, BATCH_ORDER, FORWARD_NOISE, AUGMENTATION = 1, 2, 3, 4

Schedule = Literal["constant", "cosine"]
Optimizer = Literal["sgd", "adam", "adamw"]


@dataclass(frozen=True)
class Copy:
    """One copy of the network.

    On the sphere ``lr`` is the effective learning rate; in the whole space it is the ordinary one.

    Attributes:
        seed: Index of the seed: initial weights, frozen head and batch order follow from it and the problem's seed.
        lr: Learning rate (effective learning rate on the sphere), positive.
        weight_decay: Coupled weight decay, whole space only.
        momentum: Heavy-ball momentum in [0, 1).
        phases: How the learning rate goes along the run, instead of ``lr`` (then only a label) and of the problem's
            schedule.
        start: Row of the problem's ``starts`` at which the copy begins.

    Raises:
        ValueError: The phases are out of order, or a learning rate is not allowed.
    """

    seed: int
    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    phases: tuple[Phase, ...] = ()
    start: int = 0

    def __post_init__(self) -> None:
        restored = tuple(phase if isinstance(phase, Phase) else Phase(**phase) for phase in self.phases)
        check_phases(restored)
        object.__setattr__(self, "phases", restored)


@dataclass(frozen=True)
class Problem:
    """Everything that the copies of a population share.

    Attributes:
        data: The data set, in memory.
        model: A name of :mod:`onsphere.lab.models`, ``package.module:factory``, or a callable that returns a module.
        model_options: Keyword arguments for :func:`onsphere.lab.models.build` (width, widths, head_norm, eps).
        surgery: Whether the network is made scale-invariant first (:func:`onsphere.make_scale_invariant`).
        trained: Names of the trained parameters, in order; all others stay as initialised.
        geometry: ``sphere``: trained parameters on one sphere or several; ``space``: ordinary SGD.
        radius: Norm of the trained parameters on the sphere (on ``spheres`` of another kind, see there); None keeps
            each copy's initial norm.
        loss: ``cross-entropy`` or ``mse`` (mean over examples and classes, 0/1 targets).
        steps: Training steps of each copy.
        batch_size: Examples in the minibatch of a step.
        evaluations: How many evaluations along the run, besides the one at step 0.
        seed: The run's seed, from which all else follows.
        dtype: Precision of weights and activations.
        device: Where the copies live.
        schedule: ``constant``, or ``cosine``: every copy's lr falls to 0 over ``steps``.
        augment: Whether training images [C, H, W] are flipped and cropped at random (:mod:`.augment`).
        optimizer: ``sgd``, or in the whole space ``adam`` (coupled weight decay) or ``adamw`` (decoupled), with
            torch's default betas and eps.
        snapshots: Steps after which the trained tensors are kept; 0 is before the first.
        starts: File of trained tensors [M, ...] (:meth:`ShardFolder.snapshot_path`, :func:`stack_starts`) at whose rows
            the copies begin, instead of their seeds' initial weights; optimiser states begin at zero, but for momentum
            buffers that the file has as ``buffer0/NAME``.
        scaled: What initial weights are multiplied by, by name.
        keep_elr: Whether in the whole space ``lr`` is the effective learning rate: each step's lr is ``lr |w|²`` of the
            weights before it, so that weight decay moves the norm alone (:class:`onsphere.RegimeSchedule`).
        independent: Whether every step draws its examples anew from all of them, with replacement, instead of going
            through permutations of them.
        offset: The number of the first step in the streams of batches, augmentation and noise, so that a run that
            continues another sees what that one would have seen.
        subsets: Whether evaluations also measure right and wrong training labels apart, where there are both.
        running: Whether running batch statistics are kept, and test examples are evaluated by them too.
        spheres: Which spheres there are, and which trained tensors are on none; used on the sphere alone.
    """

    data: Dataset
    model: str | Callable[..., nn.Module]
    model_options: dict[str, Any] = field(default_factory=dict)
    surgery: bool = False
    trained: tuple[str, ...] = ()
    geometry: Literal["sphere", "space"] = "sphere"
    radius: float | None = 1.0
    loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    steps: int = 2500
    batch_size: int = 64
    evaluations: int = 10
    seed: int = 0
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    schedule: Schedule = "constant"
    augment: bool = False
    optimizer: Optimizer = "sgd"
    snapshots: tuple[int, ...] = ()
    starts: Path | None = None
    offset: int = 0
    scaled: dict[str, float] = field(default_factory=dict)
    keep_elr: bool = False
    independent: bool = False
    subsets: bool = False
    running: bool = False
    spheres: Spheres = field(default_factory=Spheres)

    @property
    def invariant(self) -> tuple[str, ...]:
        """The trained tensors whose moments are recorded: on the sphere those that are on one, else all."""
        return self.spheres.invariant(self.trained) if self.geometry == "sphere" else self.trained

    def build(self, seed: int) -> nn.Module:
        """The network of one seed as it is initialised, before its weights are put on the sphere (CPU, float32)."""
        network = models.build(
            self.model,
            input_shape=self.data.input_shape,
            classes=self.data.classes,
            seed=stream(self.seed, seed, INITIAL_WEIGHTS),
            **self.model_options,
        )
        if self.surgery:
            options = self.model_options
            network = make_scale_invariant(network, head_norm=options["head_norm"], eps=options["eps"])
        with torch.no_grad():
            for name, factor in self.scaled.items():
                network.get_parameter(name).mul_(factor)
        return network

    def batches(self, seed: int, start: int, stop: int) -> Tensor:
        """Indices of the training examples of steps ``start`` to ``stop``: int64 [stop - start, batch_size]."""
        key, offset = (self.seed, seed, BATCH_ORDER), self.offset
        draw = drawn_indices if self.independent else batch_indices
        return draw(len(self.data.x_train), self.batch_size, key, start + offset, stop + offset)

    def lrs(self, copy: Copy, start: int, stop: int) -> NDArray[np.float64]:
        """A copy's learning rates in steps ``start`` to ``stop``: float64 [stop - start]."""
        if copy.phases:
            return phase_lrs(copy.phases, self.steps, start, stop)
        return copy.lr * self.lr_factors(start, stop)

    def lr_factors(self, start: int, stop: int) -> NDArray[np.float64]:
        """What the schedule multiplies every lr by in steps ``start`` to ``stop``: float64 [stop - start]."""
        return lr_factors(self.schedule, self.steps, start, stop)

    def evaluation_steps(self) -> list[int]:
        """Steps after which the copies are evaluated: 0, then evenly spaced, the last step included."""
        return sorted({0} | {round(self.steps * i / self.evaluations) for i in range(1, self.evaluations + 1)})


def lr_factors(schedule: Schedule, steps: int, start: int, stop: int) -> NDArray[np.float64]:
    """Factors of a schedule over ``steps`` steps in those from ``start`` to ``stop``: float64 [stop - start].

    They are 1, or (1 + cos(π t / steps)) / 2 at step t.
    """
    if schedule == "constant":
        return np.ones(stop - start)
    return np.asarray((1 + np.cos(np.pi * np.arange(start, stop) / steps)) / 2)


def stream(*key: int) -> int:
    """A 63-bit integer seed for a generator, derived from the key alone (numpy ``SeedSequence``)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
