"""The page of the thermodynamics toy: the answer, energy and gas law, the protocols, Maxwell's relations, the rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from onsphere.lab.experiments.toy_thermo.charts import gas_chart, protocol_chart
from onsphere.lab.experiments.toy_thermo.figures import gas_figure, protocols_figure
from onsphere.lab.experiments.toy_thermo.result import NAMES, ThermoRow, ToyThermoResult, worst
from onsphere.lab.experiments.toy_thermo.spec import ToyThermoSpec
from onsphere.lab.report.page import Cell, Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_duration, format_number
from onsphere.lab.store import Run
from onsphere.lab.toy import page

_TITLE = "Training with isotropic noise as an ideal gas"
_CLOSE = 0.05  # within it the laws are said to hold

_HEADINGS = {"fixed_elr": "At a fixed ELR", "fixed_lr": "At a fixed lr", "sphere": "On a fixed sphere"}

_MEASUREMENTS = (
    ("model", "loss 1 + ⟨μ, x⟩ / ‖x‖ with |μ| = 1; gradient noise isotropic in the tangent space, fresh at every step"),
    ("temperature T", "ELR σ² / 2; at a fixed lr √(lr wd σ² / (2 (d − 1)))"),
    ("internal energy U", "mean loss over steps and copies; law: von Mises-Fisher at T, (d − 1) T / 2 for small T"),
    ("norm r", "root mean square; law: r² = T (d − 1) / wd"),
    ("pressure p", "the weight decay; on the sphere (‖x'‖ − r) / (ELR r³), x' a step before its projection"),
    ("volume V", "r² / 2; gas law: p V = (d − 1) T / 2"),
    ("entropy S", "entropy of the directions, by k nearest neighbours, plus (d − 1) ⟨ln r⟩, nats"),
    ("error", "standard error from the spread over copies; that of S leaves the estimator's bias out"),
    ("Maxwell slope", "derivative of S at one temperature, by regression over the settings"),
)


def write_page(run: Run, result: ToyThermoResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run.
        result: Its result.

    Returns:
        The page.
    """
    name = subtitle(result)
    protocols = list(dict.fromkeys(row.protocol for row in result.rows))
    copies = int(result.spec["copies"])
    sections = [
        Section("gas", "Energy and gas law", [gas_chart(result)]),
        *(
            Section(f"protocol-{protocol}", _HEADINGS[protocol], [protocol_chart(result, protocol)])
            for protocol in protocols
        ),
    ]
    if result.maxwell:
        sections.append(Section("maxwell", "Maxwell relations", [_maxwell(result)]))
    sections.append(Section("rows", "All settings", [_table(result)]))
    return page.write(
        run,
        result,
        ToyThermoSpec,
        title=_TITLE,
        subtitle=name,
        answer=answer(result),
        summary=[
            counted(len(result.rows), "setting"),
            counted(len(protocols), "protocol"),
            f"{copies} copies each",
            format_duration(result.seconds),
        ],
        sections=sections,
        measurements=_MEASUREMENTS,
        runs=len(result.rows) * copies,
        figures={
            "gas": partial(gas_figure, result, _TITLE, name),
            "protocols": partial(protocols_figure, result, _TITLE, name),
        },
    )


def subtitle(result: ToyThermoResult) -> str:
    """What was simulated, in a line."""
    spec = result.spec
    return f"d = {spec['dimension']} weights · σ = {format_number(spec['sigma'])} · loss 1 + ⟨μ, x⟩ / ‖x‖"


def answer(result: ToyThermoResult) -> list[str]:
    """How well the laws hold, in one sentence, and what the rest comes from."""
    far = {name: worst(result, name) for name in ("energy", "radius", "pressure")}
    slopes = max((abs(row.relative_residual) for row in result.maxwell), default=None)
    close = max(*far.values(), slopes or 0) <= _CLOSE
    verb = "behaves like an ideal gas" if close else "is an ideal gas only roughly here"
    parts = [
        f"internal energy within {_percent(far['energy'])}",
        f"norm within {_percent(far['radius'])}",
        f"pressure within {_percent(far['pressure'])}",
    ]
    if slopes is not None:
        parts.append(f"Maxwell slopes within {_percent(slopes)}")
    return [f"Training with isotropic noise {verb}: {', '.join(parts)} of their laws.", _correction(result)]


def _correction(result: ToyThermoResult) -> str:
    largest = {
        name: max(abs(getattr(row, name) / getattr(row, f"corrected_{name}") - 1) for row in result.rows)
        for name in ("radius", "pressure")
    }
    return (
        "The laws are of small steps. With the discrete correction, which adds the squared gradient norm to the noise, "
        f"the norm agrees within {_percent(largest['radius'])} and the pressure within {_percent(largest['pressure'])}."
    )


def _percent(share: float) -> str:
    return "0.01 %" if share < 1e-4 else f"{format_number(100 * share, 2)} %"


def _maxwell(result: ToyThermoResult) -> Table:
    columns = [
        ("protocol", ""),
        ("relation", "derivative of the entropy at one temperature"),
        ("measured", ""),
        ("error", "standard error"),
        ("expected", "by the relation"),
        ("off (%)", "measured against expected"),
        ("settings", ""),
    ]
    rows: list[list[Cell | str]] = [
        [
            NAMES[row.protocol],
            row.name,
            format_number(row.slope, 4),
            format_number(row.error, 2),
            format_number(row.expected),
            format_number(100 * row.relative_residual, 2),
            str(row.points),
        ]
        for row in result.maxwell
    ]
    caption = "The slope of the entropy across weight decays (norms), the temperature's own effect regressed out."
    return Table(columns, rows, caption=caption, numeric=frozenset(range(2, 7)), tight=frozenset({0, 1}))


def _table(result: ToyThermoResult) -> Table:
    columns = [
        ("protocol", "what was held fixed"),
        ("rate", "the lr at a fixed lr, otherwise the ELR"),
        ("wd or r", "norm on the sphere, otherwise weight decay"),
        ("T", "temperature by the protocol's law"),
        ("U", "mean loss"),
        ("law", "von Mises-Fisher at T"),
        ("off (%)", "U against its law"),
        ("r", "root mean square of the norm"),
        ("law", "T (d − 1) = wd r²"),
        ("p", "weight decay; measured on the sphere"),
        ("law", "T (d − 1) / r²"),
        ("p V off (%)", "against (d − 1) T / 2"),
        ("S", "entropy, nats"),
        ("law", "von Mises-Fisher at T, plus (d − 1) ln r"),
    ]
    caption = "One row a setting. Click a heading to sort, click again to turn the order around."
    rows = [_cells(row) for row in result.rows]
    numeric = frozenset(range(1, len(columns)))
    return Table(columns, rows, caption=caption, sortable=True, numeric=numeric, tight=frozenset({0}))


def _cells(row: ThermoRow) -> list[Cell | str]:
    def plain(value: float, digits: int = 4) -> Cell:
        return Cell(format_number(value, digits), value)

    return [
        NAMES[row.protocol],
        plain(row.rate, 3),
        plain(row.knob, 3),
        plain(row.temperature),
        plain(row.energy),
        plain(row.predicted_energy),
        plain(100 * (row.energy / row.predicted_energy - 1), 2),
        plain(row.radius),
        plain(row.predicted_radius),
        plain(row.pressure),
        plain(row.predicted_pressure),
        plain(100 * row.gas_law, 2),
        plain(row.entropy),
        plain(row.predicted_entropy),
    ]
