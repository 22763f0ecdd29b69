"""What a study of the periods found: in sentences, and in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun, Setting, summaries
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number

__all__ = ["answer", "describe", "setting_name"]


def setting_name(lr: float, weight_decay: float, width: int | None = None) -> str:
    """A setting as the page writes it."""
    return f"lr {format_number(lr)} · wd {format_number(weight_decay)}" + (f" · width {width}" if width else "")


def describe(runs: Sequence[PeriodsRun]) -> str:
    """What the settings do, as far as it is known, in one line."""
    settings = [str(setting) for setting in summaries(runs)]
    more = f"; and {len(settings) - 3} more" if len(settings) > 3 else ""
    return "; ".join(settings[:3]) + more


def answer(result: PeriodsResult) -> list[str]:
    """What was found: one sentence, and one or two that explain it."""
    settings = summaries(result.runs)
    sentences = _one(settings[0], result) if len(settings) == 1 else _several(settings, result)
    return [*sentences, *_sphere(result), *_fixed(result), *_minima(result), *_sharpness(result)]


def _one(setting: Setting, result: PeriodsResult) -> list[str]:
    where = f"At lr {format_number(setting.lr)} and weight decay {format_number(setting.weight_decay)}"
    steps = result.spec.steps
    period = setting.median("period")
    if setting.behaviour == "periodic" or (setting.behaviour == "mixed" and period is not None):
        head = (
            f"{where} training is periodic: {_range(setting)} in {steps} steps, one every {format_number(period)} "
            f"steps ({format_number(setting.median('period_tau'), 2)} of 1/(2 lr · wd))."
        )
        return [head, *_recovery(setting)]
    if setting.behaviour == "equilibrium":
        return [f"{where} there are no periods: training settles at {_balance(setting)}."]
    if setting.behaviour == "non-finite":
        return [f"{where} training stopped being finite. Lower the learning rate, or use float64."]
    need = round(6 / (2 * setting.product))
    return [
        f"{where} {steps} steps show {_range(setting)}, too few for periods.",
        f"Times are set by 1/(2 lr · wd) = {format_number(1 / (2 * setting.product))} steps: take at least {need}.",
    ]


def _recovery(setting: Setting) -> list[str]:
    ratio, drop = setting.median("recovery_ratio"), setting.median("elr_drop")
    if ratio is None or drop is None:
        return []
    measured, predicted = setting.median("measured_recovery"), setting.median("predicted_recovery")
    words = (
        f"A jump divides the ELR by {format_number(drop)}; weight decay needs {format_number(measured)} steps to bring "
        f"it back, where the norm recurrence without gradients predicts {format_number(predicted)}"
    )
    off = f"{format_number(100 * abs(ratio - 1), 2)} % {'longer' if ratio > 1 else 'shorter'} in the median"
    return [f"{words}: {off}{', since gradient noise grows the norm on the way' if ratio > 1.1 else ''}."]


def _balance(setting: Setting) -> str:
    angle, law = setting.median("rms_angular_update"), setting.median("predicted_angular_update")
    words = f"an ELR of {format_number(setting.median('mean_elr'))}"
    if angle is None or law is None:
        return words
    off = format_number(100 * abs(angle / law - 1), 2)
    return f"{words} with an rms angular update of {format_number(angle)}, {off} % off √(2 lr · wd)"


def _several(settings: list[Setting], result: PeriodsResult) -> list[str]:
    periodic = [s for s in settings if s.behaviour == "periodic"]
    steady = [s for s in settings if s.behaviour == "equilibrium"]
    rest = len(settings) - len(periodic) - len(steady)
    sentences = []
    if periodic:
        span, _ = _span((s.median("period_tau") for s in periodic), 2)
        which = "all" if len(periodic) == len(settings) else str(len(periodic))
        sentences.append(
            f"Training is periodic in {which} {'of ' if which != 'all' else ''}{len(settings)} settings, with periods "
            f"of {span} times 1/(2 lr · wd)."
        )
        span, most = _span((s.median("recovery_ratio") for s in periodic), 3)
        sentences.append(
            f"From a jump back to the next takes {span} times what the norm recurrence says without gradients"
            f"{', which grow the norm on the way' if most > 1.1 else ''} (medians)."
        )
    if steady:
        verb = "settles" if len(steady) == 1 else "settle"
        sentences.append(f"{counted(len(steady), 'setting')} {verb} at an equilibrium, without periods.")
    if rest:
        sentences.append(
            f"{counted(rest, 'setting')} cannot be told, or differ between seeds: {result.spec.steps} steps are "
            "short against 1/(2 lr · wd) there, or periods too weak to stand out."
        )
    return sentences


def _sphere(result: PeriodsResult) -> list[str]:
    """Jumps on the sphere beside those in the whole space; losses where both are at equilibrium."""
    behaviour = {s.setting: s.behaviour for s in summaries(result.runs)}
    rows = [(behaviour[row.setting], row) for row in result.comparison if row.ratio is not None]
    sentences = []
    steady = [row.ratio for kind, row in rows if kind == "equilibrium"]
    if steady:
        span, _ = _span(steady, 3)
        sentences.append(f"The loss at equilibrium is {span} times that of training on the sphere at the same ELR.")
    jumpy = [row for kind, row in rows if kind != "equilibrium"]
    if jumpy:
        sphere, space = (
            format_number(sum(getattr(row, name) or 0 for row in jumpy) / len(jumpy), 2)
            for name in ("sphere_delta_jumps", "delta_jumps")
        )
        sentences.append(
            f"With the ELR fixed at its mean, on the sphere, there are {sphere} δ-jumps a run instead of {space}."
        )
    return sentences


def _fixed(result: PeriodsResult) -> list[str]:
    rows = [(row.delta_jumps, row.free_delta_jumps) for row in result.fixed if row.free_delta_jumps is not None]
    if not rows:
        return []
    fixed, free = (format_number(sum(counts) / len(rows), 2) for counts in zip(*rows, strict=True))
    return [f"With the norm fixed at the checkpoint's there are {fixed} δ-jumps a run instead of {free}."]


def _minima(result: PeriodsResult) -> list[str]:
    if not result.minima:
        return []
    pairs = [angle for one in result.minima for angle in one.consecutive]
    single = [sum(m.test_error) / len(m.test_error) for m in result.minima]
    together = [m.ensemble_error[-1] for m in result.minima]
    return [
        f"Minima of consecutive periods are {format_number(sum(pairs) / len(pairs), 2)} rad apart (mean); alone they "
        f"have {format_number(100 * sum(single) / len(single), 2)} % test error, averaged over a run's periods "
        f"{format_number(100 * sum(together) / len(together), 2)} %."
    ]


def _sharpness(result: PeriodsResult) -> list[str]:
    highest = [row.highest for row in result.sharpness if row.highest is not None]
    control = [value for row in result.sharpness for value in row.control if value is not None]
    if not highest or not control:
        return []
    span, _ = _span(highest, 2)
    return [
        f"Before {counted(len(highest), 'jump')} ELR · sharpness reached {span}; gradient descent on the full batch is "
        f"unstable above {format_number(result.sharpness[0].threshold)}; midway between jumps it was "
        f"{format_number(median(control), 2)} (median)."
    ]


def _range(setting: Setting) -> str:
    low, high = setting.jumps
    return counted(low, "jump") if low == high else f"{low} to {high} jumps"


def _span(values: Iterable[float | None], digits: int) -> tuple[str, float]:
    """Smallest and largest of the known values in words, and the largest."""
    known = sorted(value for value in values if value is not None)
    return " to ".join(dict.fromkeys(format_number(value, digits) for value in (known[0], known[-1]))), known[-1]
