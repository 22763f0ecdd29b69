"""Reports: one self-contained HTML page that needs no network; its charts come from `onsphere.lab.chart`."""

from .page import Chart, Code, Facts, Page, Picture, Section, Table, Text

__all__ = ["Chart", "Code", "Facts", "Page", "Picture", "Section", "Table", "Text"]
