"""What a monitor saw, as text: its groups with their norms, ELRs, angles and forces, then what it has to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onsphere.monitor.finding import Finding
from onsphere.monitor.groups import Group
from onsphere.monitor.partners import Exponents, partners
from onsphere.monitor.record import Record

if TYPE_CHECKING:
    from onsphere.monitor.monitor import Monitor

__all__ = ["summary", "write"]

_HEADINGS = ("group", "weights", "norm", "ELR", "rad a step", "decay", "alignment", "push", "residual")


def summary(heading: str, record: Record, bound: Sequence[Exponents], findings: Sequence[Finding]) -> str:
    """The report in lines.

    Args:
        heading: The first line of the text, which says what the monitor watches.
        record: The readings of all groups.
        bound: The exponents of rescaling partners.
        findings: What the readings mean.
    """
    shares = partners(record, bound)
    rows = [_HEADINGS] + [_row(group, record.size(group), record.read(group)) for group in record.groups]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    lines = [heading, ""]
    for row in rows:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines += [
        "",
        "Norms from the first reading to the last; the rest are medians over the last quarter of the readings, forces",
        "means: what decay, the update along the weights and the update across them change log norm by in a step.",
    ]
    for name in dict.fromkeys(shares["group"]):
        of = shares["group"] == name
        product, share = shares["norm_product"][of], shares["imbalance"][of]
        if len(product):
            lines.append(
                f"{name}: norm product {product[0]:.3g} to {product[-1]:.3g}, imbalance {share[0]:+.2f} to "
                f"{share[-1]:+.2f}"
            )
    lines += ["", *(f"{one.severity}: {one.message}" for one in findings)] if findings else ["", "Nothing stands out."]
    return "\n".join(lines) + "\n"


def write(monitor: Monitor, text: str, path: Path) -> None:
    """Write the report: a page if the file's name ends in ``.html``, else the text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".html", ".htm"):
        try:  # the laboratory draws the page, and is no part of the core
            page = import_module("onsphere.lab").monitor_page
        except ImportError as error:
            raise ImportError(
                f'a page ({path.name}) needs the laboratory, pip install "onsphere[lab]", which lacks {error.name}; '
                "give a name that ends in .txt or .md for the text"
            ) from error
        page(monitor, path)
    else:
        path.write_text(text, encoding="utf-8")


def _row(group: Group, size: int, read: Mapping[str, Any]) -> tuple[str, ...]:
    good = np.flatnonzero(read["finite"])
    if not len(good):
        return (group.title, f"{size:,}", *["–"] * (len(_HEADINGS) - 2))
    late = good[-max(len(good) // 4, 1) :]
    norm = read["norm"]
    medians = [_number(read[name][late]) for name in ("elr", "angular_update")]
    forces = [f"{read[name][late].mean():+.1e}" for name in ("decay", "alignment", "push")]
    residual = _number(read["noether_residual"][late])
    return (group.title, f"{size:,}", f"{norm[good[0]]:.3g} to {norm[good[-1]]:.3g}", *medians, *forces, residual)


def _number(values: Any) -> str:
    known = values[np.isfinite(values)]
    return f"{np.median(known):.2g}" if len(known) else "–"
