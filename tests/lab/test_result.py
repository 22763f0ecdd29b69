"""What results share."""

from onsphere.lab import Run
from onsphere.lab.result import elapsed


def test_a_time_is_rounded_once(monkeypatch):
    monkeypatch.setattr("onsphere.lab.result.time.monotonic", lambda: 7.2504)
    assert elapsed(7.0) == 0.25  # 0.2504 would be shown as 0.3, and as 0.2 when read again


def test_shards_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("grid-1000", "grid-999", "grid-002", "again-000", "somebody's"):
        (tmp_path / "shards" / name).mkdir(parents=True)
    run = Run(tmp_path)
    assert [path.name for path in run.shard_folders("grid")] == ["grid-002", "grid-999", "grid-1000"]
    assert [path.name for path in run.shard_folders()] == ["again-000", "grid-002", "grid-999", "grid-1000"]
