"""Steps of the isotropic-noise model, for many settings and copies at once: checked settings in, time means out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, positive
from onsphere.dynamics._protocols import given, known, only, rate_and_decay
from onsphere.dynamics.thermodynamics import stationary_radius, temperature

__all__ = ["Settings", "settings", "simulate"]

#: Where the norm is free to move, half of the copies start at this times the predicted norm and half at its inverse.
_START = 1.25


@dataclass(frozen=True)
class Settings:
    """Checked arguments, each ``[settings]``; ``rate`` is the given lr or ELR, ``elr`` the stationary one."""

    protocol: str
    rate: Array
    decay: Array
    sigma: Array
    radius: Array
    elr: Array
    temperature: Array
    norm_relaxation: float
    dispersed: bool


def settings(
    d: int,
    protocol: str,
    elr: Numbers | None,
    lr: Numbers | None,
    weight_decay: Numbers | None,
    sigma: Numbers,
    radius: Numbers | None,
) -> Settings:
    """Check the arguments of :func:`onsphere.dynamics.toys.simulate_noise` and flatten them to one entry a setting."""
    noise = positive("sigma", sigma)
    start = None if radius is None else positive("radius", radius)
    if known(protocol) == "fixed_lr":
        only(protocol, elr=elr)
        rate, decay = rate_and_decay(protocol, lr, weight_decay)
    else:
        only(protocol, lr=lr, **({"weight_decay": weight_decay} if protocol == "sphere" else {}))
        rate = positive("elr", given(protocol, elr=elr))
        sphere = protocol == "sphere"
        decay = np.zeros(1) if sphere else positive("weight_decay", given(protocol, weight_decay=weight_decay))
    try:
        wide = np.broadcast_arrays(rate, decay, noise, np.ones(1) if start is None else start)
    except ValueError:
        raise ValueError(
            "the learning rates, weight decays, sigmas and radii do not broadcast; give one a setting"
        ) from None
    rate, decay, noise, start_or_one = (np.array(value).ravel() for value in wide)
    trace = noise**2 * (d - 1)
    if protocol == "sphere":
        heat = temperature("sphere", dimension=d, noise_trace=trace, elr=rate)
        return Settings(protocol, rate, decay, noise, start_or_one, rate, heat, 0.0, False)
    if protocol == "fixed_lr":
        heat = temperature("fixed_lr", dimension=d, noise_trace=trace, lr=rate, weight_decay=decay)
        norm = stationary_radius("fixed_lr", noise_trace=trace, lr=rate, weight_decay=decay)
        stationary, relaxation = rate / norm**2, (1 / (4 * rate * decay)).max()
    else:
        heat = temperature("fixed_elr", dimension=d, noise_trace=trace, elr=rate)
        norm = stationary_radius("fixed_elr", noise_trace=trace, elr=rate, weight_decay=decay)
        stationary, relaxation = rate, (1 / (rate**2 * trace)).max()
    begin = norm if start is None else start_or_one
    widest = begin * _START if start is None else begin
    if protocol == "fixed_elr" and not (rate * widest**2 * decay < 1).all():
        raise ValueError(
            f"radius {begin.max():g} makes elr r² weight_decay at least 1, so that a step turns the weights around; "
            "start with a smaller radius"
        )
    return Settings(protocol, rate, decay, noise, begin, stationary, heat, float(relaxation), start is None)


def simulate(
    d: int, s: Settings, copies: int, burn: int, steps: int, every: int, snapshots: int, generator: np.random.Generator
) -> tuple[dict[str, Array], Array]:
    """Each copy's time means ``[settings, copies]`` by name, and directions ``[settings, snapshots * copies, d]``."""
    n = len(s.rate)
    wide = {name: np.repeat(getattr(s, name), copies) for name in ("rate", "decay", "sigma", "radius")}
    rate, decay, sigma, radius = wide["rate"], wide["decay"], wide["sigma"], wide["radius"]
    if s.dispersed:
        radius = radius * _START ** np.where(np.arange(n * copies) % copies % 2, 1, -1)
    square = radius**2
    # coordinates first: sums over them then run along contiguous memory
    x = generator.standard_normal((d, n * copies))
    x /= np.linalg.norm(x, axis=0)
    noise, single = np.empty_like(x), np.empty(x.shape, np.float32)  # single precision: noise at half the price
    names = ("energy", "gradient", "square", "log_radius", "rate", "pressure")
    sums = {name: np.zeros(n * copies) for name in names}
    keep = set((burn + np.linspace(steps / snapshots, steps, snapshots).round().astype(int) - 1).tolist())
    clouds = []
    elr, shrink, readings = rate, np.ones_like(rate), 0
    for step in range(burn + steps):
        if s.protocol == "fixed_lr":
            elr, shrink = rate / square, 1 - rate * decay
        elif s.protocol == "fixed_elr":
            shrink = 1 - rate * square * decay
            if not shrink.min() > 0:
                worst = int(np.argmin(shrink)) // copies
                raise ValueError(
                    f"at elr {s.rate[worst]:g}, sigma {s.sigma[worst]:g} the norm grew until weight decay turned the "
                    f"weights around (step {step}); a fixed ELR needs small angles per step: lower elr or sigma"
                )
        # x <- shrink x - elr (mu + noise - <x, mu + noise> x), mu the first axis
        generator.standard_normal(out=single, dtype=np.float32)
        np.multiply(single, sigma, out=noise)
        noise[0] += 1
        radial = np.einsum("dm,dm->m", x, noise)
        x *= shrink + elr * radial
        noise *= elr
        x -= noise
        growth = np.einsum("dm,dm->m", x, x)
        x /= np.sqrt(growth)
        if s.protocol != "sphere":
            square = square * growth
        if step >= burn and (step - burn) % every == 0:
            readings += 1
            sums["energy"] += 1 + x[0]
            sums["gradient"] += 1 - x[0] ** 2
            sums["square"] += square
            sums["log_radius"] += np.log(square) / 2
            sums["rate"] += rate / square
            # (sqrt(growth) - 1) / (elr r²), in the form that keeps its digits
            sums["pressure"] += (growth - 1) / ((1 + np.sqrt(growth)) * rate * square)
        if step in keep:
            clouds.append(x.T.reshape(n, copies, d).copy())
    return {name: value.reshape(n, copies) / readings for name, value in sums.items()}, np.concatenate(clouds, axis=1)
