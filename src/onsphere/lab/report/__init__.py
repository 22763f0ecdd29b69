"""Reports: figures as PNG and SVG, and one self-contained HTML page that needs no network.

`write_regimes_report` turns the map of the three regimes into both. The shared pieces (`Page`, `Section` and
the blocks inside them) serve every other experiment.
"""

from .page import Chart, Code, Facts, Page, Section, Table, Text
from .regimes import Curve, RegimesView, write_regimes_report

__all__ = [
    "Chart",
    "Code",
    "Curve",
    "Facts",
    "Page",
    "RegimesView",
    "Section",
    "Table",
    "Text",
    "write_regimes_report",
]
