"""The report as text and as a page, and what groups are called in it."""

import pytest
import torch
from torch import nn

from onsphere import Monitor
from onsphere.monitor import summary
from onsphere.monitor.titles import common_pattern, gist


def trained(steps=30, names=True):
    generator = torch.Generator().manual_seed(0)
    parts = [nn.Parameter(torch.randn(4, 3, generator=generator)) for _ in range(4)]
    called = ["layers.0.q.weight", "layers.1.q.weight", "layers.0.k.weight", "layers.1.k.weight"]
    groups = [
        {"params": parts[:2], "sphere": "joint"} | ({"names": called[:2]} if names else {}),
        {"params": parts[2:], "sphere": "joint", "name": "keys"} | ({"names": called[2:]} if names else {}),
    ]
    optimizer = torch.optim.AdamW(parts, 1e-2)
    monitor = Monitor(optimizer, groups, every=1)
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p / p.norm()).cumsum(0).square().sum() for p in parts).backward()
        optimizer.step()
    return monitor


def test_the_text_has_every_group_by_its_title_and_every_finding(tmp_path):
    monitor = trained()
    text = monitor.report(tmp_path / "new" / "report.md")
    assert (tmp_path / "new" / "report.md").read_text(encoding="utf-8") == text == monitor.report()
    lines = text.splitlines()
    assert lines[0] == "Monitor of AdamW, every 1 steps"
    assert [line.split("  ")[0] for line in lines[3:6]] == ["layers.*.q.weight", "keys", "total"]
    for word in ("decay", "alignment", "push", "residual"):
        assert word in lines[2]
    for finding in monitor.diagnose():
        assert f"{finding.severity}: {finding.message}" in lines
    assert "sphere 2" not in text and monitor.titles() == {"sphere": "layers.*.q.weight", "sphere 2": "keys"} | {
        "total": "total"
    }
    assert set(monitor.readings(select="keys")["group"]) == {"sphere 2"}


def test_forces_in_the_text_are_means_of_the_readings():
    monitor = trained(8)
    read = monitor.readings(select="keys")
    line = next(line for line in monitor.report().splitlines() if line.startswith("keys"))
    for name in ("decay", "alignment", "push"):
        assert f"{read[name][-2:].mean():+.1e}" in line


@pytest.mark.parametrize("suffix", [".html", ".HTML", ".htm"])
def test_the_page_needs_readings(tmp_path, suffix):
    assert "–" in trained(0).report()
    with pytest.raises(ValueError, match="no reading yet"):
        trained(0).report(tmp_path / f"report{suffix}")
    page = tmp_path / f"report{suffix}"
    trained(25).report(page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!") and "layers.*.q.weight" in text and "<script src=" not in text


def test_without_the_laboratory_a_page_is_refused_in_a_sentence(tmp_path, monkeypatch):
    def lacking(name):
        raise ImportError(f"No module named 'pyarrow' for {name}", name="pyarrow")

    monkeypatch.setattr(summary, "import_module", lacking)
    with pytest.raises(ImportError, match=r"page.html\) needs the laboratory.*which lacks pyarrow; .* \.txt or \.md"):
        trained(1).report(tmp_path / "page.html")


@pytest.mark.parametrize(
    "names, pattern",
    [
        (["a.weight"], "a.weight"),
        (["layers.0.q.weight", "layers.1.q.weight"], "layers.*.q.weight"),
        (["layers.0.q.weight", "layers.0.q.bias"], "layers.0.q.*"),
        (["layers.0.q.weight", "layers.0.mlp.up.weight"], "layers.0.*.weight"),
        (["q.weight", "k.weight"], "q.weight, k.weight"),
        (["q.weight", "k.weight", "v.weight"], "q.weight, k.weight, ..."),
        (["param 0", "param 1"], "param 0, param 1"),
        (["a.a.b", "a.b"], "a.*.b"),
    ],
)
def test_a_pattern_is_what_names_have_in_common(names, pattern):
    assert common_pattern(names) == pattern


def test_the_gist_of_names_keeps_those_that_differ_in_more_than_numbers():
    names = [f"layers.{i}.{part}.weight" for i in range(3) for part in ("q", "k", "v", "o")]
    assert gist(names) == "layers.*.q.weight, layers.*.k.weight, layers.*.v.weight, ..."
    assert gist(["layers.0.q.weight", "rest"]) == "layers.0.q.weight, rest"
    assert gist(["param 0", "param 3"]) == "param 0, param 3"
