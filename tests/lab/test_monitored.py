"""A monitor's readings on disk and its page in a browser."""

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import onsphere
from browser import CHROMIUM, attribute, open_page
from onsphere.lab import monitor_page, write_readings


def test_readings_and_page(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(32, 6), torch.arange(32) % 3
    groups = onsphere.sphere_groups(model, x)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    monitor = onsphere.Monitor(optimizer, groups, every=2)
    with pytest.raises(ValueError, match="no reading yet"):
        monitor_page(monitor, tmp_path / "empty.html")
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    table = pq.read_table(write_readings(monitor, tmp_path / "new" / "readings.parquet"))
    assert table.num_rows == 2 * 60 and {"step", "group", "elr", "angular_update"} <= set(table.column_names)
    tensors = pq.read_table(write_readings(monitor, tmp_path / "tensors.parquet", level="tensor"))
    assert tensors.num_rows == 6 * 60
    page = monitor_page(monitor, tmp_path / "page.html", title="A run")
    text = page.read_text(encoding="utf-8")
    assert "<h1>A run</h1>" in text and "60 readings" in text
    for finding in monitor.diagnose():
        assert finding.kind in text
    if CHROMIUM is None:
        pytest.skip("NO BROWSER: chromium is not on PATH, so the page was NOT opened or checked")
    document, console = open_page(page)
    assert console == [] and attribute(document, "data-errors") is None and attribute(document, "data-charts") == "1"
