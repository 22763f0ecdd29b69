"""Draw the figures of docs/laws.md and print the numbers it quotes: ``make laws``, about two minutes on one core.

Each figure sets a law of ``onsphere.dynamics`` (lines) against a simulation that knows nothing of it (marks).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from onsphere import dynamics
from onsphere.lab.chart.style import log_axis, new_figure, panel_letter, style

IMAGES = Path(__file__).parent / "images"
BLUE, ORANGE, GREEN, PINK, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a8f94"
LINE: dict[str, Any] = {"color": GREY, "linewidth": 2.2, "zorder": 1}
MARK: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3.2, "markeredgewidth": 0, "zorder": 2}


def tangent_gradient(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random gradient of a scale-invariant loss: orthogonal to x [K, d], of norm 1 / ‖x‖."""
    noise = generator.normal(size=x.shape)
    square = (x * x).sum(axis=1, keepdims=True)
    noise -= x * (x * noise).sum(axis=1, keepdims=True) / square
    return noise / (np.linalg.norm(noise, axis=1, keepdims=True) * np.sqrt(square))


def simulate(name: str, lr: float, decay: float, steps: int, start: float, **known: Any) -> tuple[np.ndarray, float]:
    """Mean norm at every step, and rms angle over the last half, of 16 copies with 300 weights."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(16, 300))
    x *= start / np.linalg.norm(x, axis=1, keepdims=True)
    first, second, norms, angles = np.zeros_like(x), np.zeros_like(x), [start], []
    beta1, beta2 = known.get("betas", (0.0, 0.0))
    for t in range(1, steps + 1):
        g, before = tangent_gradient(x, generator), x
        if name in ("sgd", "momentum"):
            first = known.get("momentum", 0.0) * first + g + decay * x
            x = x - lr * first
        elif name == "adamw":
            first, second = beta1 * first + (1 - beta1) * g, beta2 * second + (1 - beta2) * g * g
            x = (1 - lr * decay) * x - lr * first / (1 - beta1**t) / np.sqrt(second / (1 - beta2**t))
        else:
            update = np.sign(beta1 * first + (1 - beta1) * g)
            first = beta2 * first + (1 - beta2) * g
            x = (1 - lr * decay) * x - lr * update
        cosine = (before * x).sum(axis=1) / np.linalg.norm(before, axis=1) / np.linalg.norm(x, axis=1)
        angles.append(2 * (1 - cosine))  # angle² to leading order
        norms.append(float(np.sqrt((x * x).sum(axis=1).mean())))
    return np.array(norms), float(np.sqrt(np.mean(angles[steps // 2 :])))


def one_step() -> Figure:
    """SGD on f(x) = <u, x̂> - <v, x̂>²: norm and ELR by the recurrences."""
    generator = np.random.default_rng(1)
    lr, decay, steps = 0.3, 0.03, 400
    u, v, x = generator.normal(size=(3, 12))
    rho, elr = [float(np.linalg.norm(x))], [dynamics.effective_elr(np.linalg.norm(x), lr)]
    law_rho, law_elr, worst = list(rho), list(elr), 0.0
    for _ in range(steps):
        norm = np.linalg.norm(x)
        unit = x / norm
        full = u - 2 * (v @ unit) * v
        g = (full - unit * (full @ unit)) / norm
        step = dynamics.sgd_step(law_rho[-1], np.linalg.norm(g), lr, decay)
        law_elr.append(dynamics.elr_after(law_elr[-1], dynamics.effective_step(norm, np.linalg.norm(g), lr), lr, decay))
        law_rho.append(step.radius)
        x = (1 - lr * decay) * x - lr * g
        rho.append(float(np.linalg.norm(x)))
        elr.append(lr / rho[-1] ** 2)
        worst = max(worst, abs(law_rho[-1] / rho[-1] - 1), abs(law_elr[-1] / elr[-1] - 1))
    print(f"one step: recurrences and simulation differ by at most {worst:.1e} after {steps} steps")
    figure = new_figure(6.6, 2.3)
    left, right = figure.subplots(1, 2)
    for axes, letter, title, law, seen in ((left, "a", "norm", law_rho, rho), (right, "b", "ELR", law_elr, elr)):
        axes.plot(law, **LINE, label="recurrence")
        axes.plot(range(0, steps + 1, 20), seen[::20], **MARK, color=BLUE, label="SGD + weight decay")
        panel_letter(axes, letter, title)
        axes.set_xlabel("step")
    log_axis(right, "y")
    left.legend()
    return figure


def equilibria() -> Figure:
    """Four optimisers: the way of the norm to equilibrium, and the angle against lr * weight decay."""
    figure = new_figure(6.6, 2.5)
    left, right = figure.subplots(1, 2)
    kinds = {
        "sgd": (0.1, {"gradient_norm": 1.0}, BLUE, "o"),
        "momentum": (0.1, {"gradient_norm": 1.0, "momentum": 0.9}, ORANGE, "s"),
        "adamw": (0.01, {"parameters": 300, "betas": (0.9, 0.99)}, GREEN, "D"),
        "lion": (0.01, {"parameters": 300, "betas": (0.9, 0.99)}, PINK, "^"),
    }
    worst_angle = worst_norm = 0.0
    for name, (lr, known, colour, marker) in kinds.items():
        products = np.array([1e-3, 3e-3, 1e-2])
        seen = []
        for product in products:
            law = dynamics.equilibrium(name, lr=lr, weight_decay=product / lr, **known)
            norms, angle = simulate(name, lr, product / lr, int(6 / product), 1.5 * law.radius, **known)
            seen.append(angle)
            worst_angle = max(worst_angle, abs(angle / law.angular_update - 1))
            worst_norm = max(worst_norm, abs(norms[len(norms) // 2 :].mean() / law.radius - 1))
            if product == 1e-3:
                time = np.arange(len(norms)) * product
                left.plot(time[::75], norms[::75] / law.radius, **MARK | {"marker": marker}, color=colour, label=name)
                power = 4 if name in ("sgd", "momentum") else 2
                decay = np.exp(-np.arange(len(norms)) / law.relaxation_steps)
                left.plot(time, (1 + (1.5**power - 1) * decay) ** (1 / power), **LINE | {"linewidth": 1.2})
        fine = np.geomspace(8e-4, 1.3e-2, 40)
        line = dynamics.equilibrium(name, lr=lr, weight_decay=fine / lr, **known).angular_update
        right.plot(fine, line, **LINE | {"linewidth": 1.2})
        right.plot(products, seen, **MARK | {"marker": marker, "markersize": 4.5}, color=colour, label=name)
    print(f"equilibria: angles within {100 * worst_angle:.2g} %, norms within {100 * worst_norm:.2g} % of the law")
    left.axhline(1, color="black", linewidth=0.6)
    left.set_xlim(0, 3)
    left.set_xlabel("step × lr · weight decay")
    panel_letter(left, "a", "norm / norm at equilibrium")
    left.legend()
    panel_letter(right, "b", "angle of a step (radians, rms)")
    right.set_xlabel("lr · weight decay")
    log_axis(right, "x")
    log_axis(right, "y")
    return figure


def jumps() -> Figure:
    """First δ-jump of random runs between its bounds, and ELR between the jumps of a run."""
    generator = np.random.default_rng(2)
    lr, decay, delta, radius = 0.1, 0.02, 1e-3, 1.6
    figure = new_figure(6.6, 2.5)
    left, right = figure.subplots(1, 2)
    lows = np.geomspace(0.4, 0.95, 12)
    threshold = dynamics.jump_threshold(delta) * (1 - lr * decay)
    inside = total = 0
    for low in lows:
        bounds = dynamics.jump_time_bounds(radius, low, 1.0, delta, lr, decay)
        for _ in range(40):
            square, t = radius**2, 0
            calm = generator.integers(0, 900)
            while t < 2000:
                g = low if t < calm else generator.uniform(low, 1.0)
                s = lr * g / square
                if s > threshold:
                    left.plot(low, max(t, 0.8), **MARK | {"markersize": 2}, color=BLUE)
                    total += 1
                    inside += np.floor(bounds.minimum) <= t <= np.ceil(bounds.maximum)
                    break
                square, t = square * ((1 - lr * decay) ** 2 + s**2), t + 1
    fine = np.geomspace(0.4, 0.95, 100)
    bounds = dynamics.jump_time_bounds(radius, fine, 1.0, delta, lr, decay)
    left.fill_between(fine, bounds.minimum, np.minimum(bounds.maximum, 1e4), color="#dddddd", zorder=0)
    left.set_ylim(30, 3000)
    left.annotate("above T_max", (0.9, 0.9), xycoords="axes fraction", ha="right", fontsize=7.5)
    left.annotate("below T_min", (0.9, 0.05), xycoords="axes fraction", ha="right", fontsize=7.5)
    print(f"jumps: {inside} of {total} first jumps between their bounds")
    panel_letter(left, "a", "steps to the first jump")
    left.set_xlabel("smallest / largest effective gradient")
    log_axis(left, "y")
    worst = 0.0
    for g in (0.0, 0.1, 0.2, 0.3):
        for trough in (0.01, 0.02, 0.05, 0.1):
            elr, t = trough, 0
            while elr < 0.2 and t < 5000:
                elr, t = dynamics.elr_after(elr, elr * g, lr, decay), t + 1
            law = dynamics.recovery_steps(trough, 0.2, lr, decay, g)
            worst = max(worst, abs(t - law) / law)
            right.plot(law, t, **MARK | {"markersize": 4}, color=(BLUE, GREEN, ORANGE, PINK)[round(10 * g)])
    right.plot([150, 1060], [150, 1060], **LINE)
    print(f"recovery: simulated times within {100 * worst:.1g} % of the law")
    panel_letter(right, "b", "steps from trough to jump")
    right.set_xlabel("law")
    right.set_ylabel("simulated")
    return figure


def pairs() -> Figure:
    """The pairs on one sphere: loss against ELR for several sets of coefficients, and the single pair's 2-cycle."""
    figure = new_figure(6.6, 2.5)
    left, right = figure.subplots(1, 2)
    c = np.array([0.5, 0.8, 0.9, 1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10, 30, 100])
    sets = {"1": (BLUE, "o"), "1, 2, 4": (ORANGE, "s"), "ten, 1 to 512": (GREEN, "D")}
    worst = {"near": 0.0, "far": 0.0, "below": 0.0}
    for label, (colour, marker) in sets.items():
        alphas = 2.0 ** np.arange(10) if label.startswith("ten") else np.array([float(x) for x in label.split(",")])
        elrs = np.repeat(c * dynamics.toys.pair_threshold(alphas), 8)
        run = dynamics.toys.simulate_pairs(alphas, elrs, 10_000)
        ratio = (run.loss / run.loss_at_random).reshape(len(c), 8).mean(axis=1)
        off = np.abs(ratio - np.maximum(0, 1 - 1 / c))
        worst["below"] = max(worst["below"], off[c < 1].max())
        worst["near"] = max(worst["near"], off[(c > 1) & (c < 1.3)].max())
        worst["far"] = max(worst["far"], off[c > 1.3].max())
        left.plot(c, ratio, **MARK | {"marker": marker}, color=colour, label=label)
    fine = np.geomspace(0.4, 120, 300)
    left.plot(fine, np.maximum(0, 1 - 1 / fine), **LINE)
    print(
        "pairs: distance to the law " + ", ".join(f"{name} the threshold {value:.1g}" for name, value in worst.items())
    )
    log_axis(left, "x")
    left.set_xlabel("ELR / threshold")
    panel_letter(left, "a", "loss / loss at random")
    left.legend(title="coefficients")
    run = dynamics.toys.simulate_pairs([1.0, 2.0, 4.0], [0.13, 0.2], 400, record_every=1, seed=3)
    for k, (colour, label) in enumerate(((BLUE, "ELR 0.13"), (ORANGE, "ELR 0.2"))):
        right.plot(
            run.recorded_steps, np.maximum(run.recorded_loss[k], 1e-12), color=colour, linewidth=0.9, label=label
        )
    log_axis(right, "y")
    right.set_xlabel("step")
    panel_letter(right, "b", "loss, coefficients 1, 2, 4 (threshold 0.143)")
    right.legend(loc="center right")
    return figure


def periods() -> Figure:
    """The toy with weight decay: ELR over a few periods, and the period against its law."""
    figure = new_figure(6.6, 2.5)
    left, right = figure.subplots(1, 2)
    run = dynamics.toys.simulate_periods(0.1, 0.01, floor=1e-16, record_every=1, steps=2200)
    elr = 0.1 / np.exp(2 * run.recorded_log_radius[0])
    left.plot(run.recorded_steps, elr, color=BLUE, linewidth=1.0)
    left.plot(run.jumps[0], np.interp(run.jumps[0], run.recorded_steps, elr), **MARK | {"marker": "v"}, color=ORANGE)
    left.axhline(1, color=GREY, linewidth=1.2, linestyle="--")
    log_axis(left, "y")
    left.set_xlabel("step")
    panel_letter(left, "a", "ELR, its jumps and the threshold")
    ratios = []
    for product, colour, marker in ((3e-4, BLUE, "o"), (1e-3, ORANGE, "s"), (3e-3, GREEN, "D")):
        floors = np.repeat(10.0 ** -np.array([8, 12, 16, 24, 32, 40]), 16)
        run = dynamics.toys.simulate_periods(0.1, product / 0.1, floor=floors)
        seen, law = (x.reshape(6, 16).mean(axis=1) for x in (run.period, run.predicted_period))
        ratios += list(seen / law)
        label = f"lr · weight decay {product:g}"
        right.plot(law, seen, **MARK | {"marker": marker, "markersize": 4}, color=colour, label=label)
    right.plot([80, 800], [80, 800], **LINE)
    print(f"periods: {min(ratios):.2f} to {max(ratios):.2f} of the law")
    log_axis(right, "x")
    log_axis(right, "y")
    right.set_xlabel("law")
    panel_letter(right, "b", "period (steps)")
    right.legend()
    return figure


def thermodynamics() -> Figure:
    """Isotropic noise in three dimensions: energy and norm or pressure of the three protocols."""
    figure = new_figure(6.6, 2.5)
    left, right = figure.subplots(1, 2)
    elrs, worst = np.geomspace(2e-3, 5e-2, 5), 0.0
    protocols: dict[str, dict[str, Any]] = {
        "fixed_elr": {"elr": elrs, "weight_decay": 0.01},
        "fixed_lr": {"lr": np.geomspace(1e-3, 1e-1, 5), "weight_decay": 0.01},
        "sphere": {"elr": elrs, "radius": 1.0},
    }
    for (name, known), colour, marker in zip(protocols.items(), (BLUE, ORANGE, GREEN), "osD", strict=True):
        run = dynamics.toys.simulate_noise(3, protocol=name, sigma=1.0, **known)
        law, label = run.corrected, name.replace("_", " ").replace("lr", "LR").replace("eLR", "ELR")
        left.plot(run.temperature, run.energy, **MARK | {"marker": marker, "markersize": 4}, color=colour, label=label)
        seen = run.pressure if name == "sphere" else run.radius
        expected = law.pressure if name == "sphere" else law.radius
        worst = max(worst, np.abs(run.energy / law.energy - 1).max(), np.abs(seen / expected - 1).max())
        quantity = "pressure" if name == "sphere" else "norm"
        right.plot(run.temperature, seen, **MARK | {"marker": marker, "markersize": 4}, color=colour, label=quantity)
        right.plot(run.temperature, expected, **LINE | {"linewidth": 1.2})
    fine = np.geomspace(8e-4, 3e-2, 60)
    left.plot(fine, dynamics.vmf_energy(3, fine), **LINE)
    print(f"thermodynamics: energy, norm and pressure within {100 * worst:.1g} % of the law")
    for axes, letter, title in (
        (left, "a", "mean loss U"),
        (right, "b", "norm; pressure (sphere)"),
    ):
        log_axis(axes, "x")
        log_axis(axes, "y")
        axes.set_xlabel("temperature")
        panel_letter(axes, letter, title)
    left.legend()
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "one-step": one_step,
    "equilibria": equilibria,
    "jumps": jumps,
    "pairs": pairs,
    "periods": periods,
    "thermodynamics": thermodynamics,
}


def main(names: list[str]) -> None:
    """Draw the named figures, or all."""
    for name in names or FIGURES:
        with style():
            figure = FIGURES[name]()
            figure.savefig(IMAGES / f"law-{name}.png", dpi=110, metadata={"Software": "onsphere"})


if __name__ == "__main__":
    main(sys.argv[1:])
