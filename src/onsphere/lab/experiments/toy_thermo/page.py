"""The page of the thermodynamics toy: the answer, energy and gas law, the protocols, Maxwell's relations, the rows."""

from __future__ import annotations

from collections.abc import Callable

from onsphere.lab.experiments.toy_thermo.charts import gas_chart, protocol_chart, protocols_chart
from onsphere.lab.experiments.toy_thermo.result import NAMES, ThermoRow, ToyThermoResult
from onsphere.lab.experiments.toy_thermo.words import subtitle
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.table import Column, table
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

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


_MAXWELL = (
    Column("protocol", lambda row: NAMES[row.protocol], kind="tight"),
    Column("relation", "name", "derivative of the entropy at one temperature", kind="tight"),
    Column("measured", "slope", digits=4),
    Column("error", "error", "standard error", digits=2),
    Column("expected", "expected", "by the relation"),
    Column("off (%)", lambda row: 100 * row.relative_residual, "measured against expected", digits=2),
    Column("settings", "points"),
)


def report(run: Run, result: ToyThermoResult) -> Report:
    """What is to be read about the thermodynamics."""
    protocols = list(dict.fromkeys(row.protocol for row in result.rows))
    charts = [protocol_chart(result, one) for one in protocols]
    sections = [
        Section("gas", "Energy and gas law", [gas_chart(result)]),
        *(Section(f"protocol-{p}", _HEADINGS[p], [chart]) for p, chart in zip(protocols, charts, strict=True)),
    ]
    if result.maxwell:
        caption = "The slope of the entropy across weight decays (norms), the temperature's own effect regressed out."
        sections.append(Section("maxwell", "Maxwell relations", [table(result.maxwell, _MAXWELL, caption)]))
    caption = "One row a setting. Click a heading to sort, click again to turn the order around."
    sections.append(Section("rows", "All settings", [table(result.rows, _COLUMNS, caption)]))
    return Report(
        title="Training with isotropic noise as an ideal gas",
        subtitle=subtitle(result),
        summary=[
            counted(len(result.rows), "setting"),
            counted(len(protocols), "protocol"),
            f"{result.spec.copies} copies each",
        ],
        sections=sections,
        figures=[protocols_chart(result, charts)],
        measured=_MEASUREMENTS,
    )


def printed(result: ToyThermoResult) -> list[Table | str]:
    """The settings as a table, and the Maxwell relations."""
    columns = [
        Column("fixed", lambda row: _SHORT[row.protocol], kind="tight"),
        *_COLUMNS[1:3],
        *(column for name, symbol in _SYMBOLS for column in _against_law(name, symbol)),
        Column("S", "entropy", digits=4),
        Column("off", lambda row: row.entropy - row.predicted_entropy, digits=2),
    ]
    relations: list[Table | str] = ["", table(result.maxwell, _MAXWELL)] if result.maxwell else []
    return [table(result.rows, columns), *relations]


def _off(name: str) -> Callable[[ThermoRow], float]:
    """How far a quantity is from its law, in percent."""
    return lambda row: 100 * (float(getattr(row, name)) / float(getattr(row, f"predicted_{name}")) - 1)


def _against_law(name: str, symbol: str) -> tuple[Column, Column]:
    return Column(symbol, name, digits=4), Column("off %", _off(name), digits=2)


_SHORT = {"fixed_elr": "ELR", "fixed_lr": "lr", "sphere": "ELR, r"}
_SYMBOLS = (("energy", "U"), ("radius", "r"), ("pressure", "p"))

_COLUMNS = (
    Column("protocol", lambda row: NAMES[row.protocol], "what was held fixed", kind="tight"),
    Column("rate", "rate", "the lr at a fixed lr, otherwise the ELR"),
    Column("wd or r", "knob", "norm on the sphere, otherwise weight decay"),
    Column("T", "temperature", "temperature by the protocol's law", digits=4),
    Column("U", "energy", "mean loss", digits=4),
    Column("law", "predicted_energy", "von Mises-Fisher at T", digits=4),
    Column("off (%)", _off("energy"), "U against its law", digits=2),
    Column("r", "radius", "root mean square of the norm", digits=4),
    Column("law", "predicted_radius", "T (d − 1) = wd r²", digits=4),
    Column("p", "pressure", "weight decay; measured on the sphere", digits=4),
    Column("law", "predicted_pressure", "T (d − 1) / r²", digits=4),
    Column("p V off (%)", lambda row: 100 * row.gas_law, "against (d − 1) T / 2", digits=2),
    Column("S", "entropy", "entropy, nats", digits=4),
    Column("law", "predicted_entropy", "von Mises-Fisher at T, plus (d − 1) ln r", digits=4),
)
