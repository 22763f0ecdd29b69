"""What follow-ups find, a row a run or setting. The types write ``result.json`` and check it when it is read again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OfSetting:
    """What is found about one setting.

    Attributes:
        lr: Learning rate of the setting.
        weight_decay: Weight decay of the setting.
    """

    lr: float
    weight_decay: float

    @property
    def setting(self) -> tuple[float, float]:
        """Learning rate and weight decay."""
        return self.lr, self.weight_decay


@dataclass(frozen=True)
class OfRun(OfSetting):
    """What is found about one run in the whole space.

    Attributes:
        seed: The seed of the run.
    """

    seed: int

    @property
    def key(self) -> tuple[float, float, int]:
        """Learning rate, weight decay and seed."""
        return self.lr, self.weight_decay, self.seed


@dataclass(frozen=True)
class SphereRun(OfSetting):
    """One run of the same network at a fixed ELR on the sphere.

    Attributes:
        elr: The fixed effective learning rate.
        seed: The seed of the run.
        loss: Mean minibatch loss over the same window of steps.
        delta_jumps: Steps after the burn-in with 1 - cos above the setting's δ, with a pause of τ/5 after each.
        test_error: Test error at the end, fraction.
        finite: Whether loss and weights stayed finite.
    """

    elr: float
    seed: int
    loss: float | None
    delta_jumps: int
    test_error: float | None
    finite: bool


@dataclass(frozen=True)
class Comparison(OfSetting):
    """A setting in the whole space against the sphere at its ELR.

    Attributes:
        elr: Geometric mean of the ELR over the window and the seeds.
        loss: Geometric mean over seeds of the mean minibatch loss in the window.
        sphere_loss: This loss on the sphere, interpolated to ``elr`` on logarithmic scales.
        ratio: Loss in the whole space over that on the sphere.
        delta_jumps: Mean number of δ-jumps a run after the burn-in.
        sphere_delta_jumps: This number on the sphere at the ELR nearest to ``elr``.
    """

    elr: float | None
    loss: float | None
    sphere_loss: float | None
    ratio: float | None
    delta_jumps: float | None
    sphere_delta_jumps: float | None


@dataclass(frozen=True)
class Minima(OfRun):
    """The loss minima of one run's periods.

    Attributes:
        steps: Step of each minimum, M of them.
        test_error: Test error of each minimum, fraction, M.
        train_loss: Loss of each minimum on all training images, M.
        angles: Angles between the scale-invariant weights of each pair, radians, M x M.
        disagreement: Fraction of test images that each pair labels differently, M x M.
        ensemble_error: Test error of the averaged predictions of the last m minima, m = 1 .. M.
    """

    steps: list[int]
    test_error: list[float]
    train_loss: list[float]
    angles: list[list[float]]
    disagreement: list[list[float]]
    ensemble_error: list[float]

    @property
    def consecutive(self) -> list[float]:
        """Angles between the minima of consecutive periods, radians, M - 1 of them."""
        return [row[i + 1] for i, row in enumerate(self.angles[:-1])]


@dataclass(frozen=True)
class Sharpness(OfRun):
    """ELR times sharpness around one jump: what it comes to before the jump, and midway since the one before.

    Attributes:
        jump: Step of the jump.
        threshold: The value above which gradient descent is unstable: 2 without momentum.
        steps: Steps before the jump at which it was measured, the jump itself the last.
        elr_times_sharpness: ELR times sharpness at these steps; None where it is not finite.
        control_steps: As many steps in the middle of the gap between the jump before (or step 0) and this one.
        control: ELR times sharpness at the control steps.
    """

    jump: int
    threshold: float
    steps: list[int]
    elr_times_sharpness: list[float | None]
    control_steps: list[int]
    control: list[float | None]

    @property
    def highest(self) -> float | None:
        """The largest value before the jump, at whose own step the loss is high already."""
        return max((v for v in self.elr_times_sharpness[:-1] if v is not None), default=None)

    @property
    def crossing(self) -> int | None:
        """How many steps before the jump the threshold was first seen passed; None where it was not."""
        pairs = zip(self.steps[:-1], self.elr_times_sharpness[:-1], strict=True)
        return next((self.jump - step for step, v in pairs if v is not None and v > self.threshold), None)


@dataclass(frozen=True)
class FixedNorm(OfRun):
    """A run that goes on from a checkpoint with its norm fixed, beside the same one whose norm is free.

    Attributes:
        norm: Norm of the scale-invariant tensors at the checkpoint.
        elr: ELR that it fixes, lr / ((1 - lr weight_decay) norm²).
        loss: Mean minibatch loss over the window in which the free run's equilibrium is measured.
        free_loss: The same with the norm free.
        delta_jumps: Steps after the burn-in with 1 - cos above the setting's δ, with a pause of τ/5 after each.
        free_delta_jumps: The same with the norm free.
        test_error: Test error at the end, fraction.
        free_test_error: The same with the norm free.
    """

    norm: float
    elr: float
    loss: float | None
    free_loss: float | None
    delta_jumps: int
    free_delta_jumps: int | None
    test_error: float | None
    free_test_error: float | None


@dataclass(frozen=True)
class Traces(OfRun):
    """Traces along one run, by the tensors that ELR and norm are those of; a value is None where the run is not finite.

    Attributes:
        steps: The steps, N of them.
        norm: Norm of these tensors, N.
        hessian: Trace of the Hessian of the training-mode loss on a fixed batch, N.
        hessian_error: Its standard error over probes, N.
        ggn: Trace of the Gauss-Newton matrix, N.
        ggn_error: Its standard error over probes, N.
    """

    steps: list[int]
    norm: list[float | None]
    hessian: list[float | None]
    hessian_error: list[float | None]
    ggn: list[float | None]
    ggn_error: list[float | None]

    def on_sphere(self, name: str) -> list[float | None]:
        """A trace on the unit sphere of these tensors: norm² times ``hessian`` or ``ggn``, or its error, N."""
        values = zip(self.norm, getattr(self, name), strict=True)
        return [None if norm is None or value is None else norm**2 * value for norm, value in values]
