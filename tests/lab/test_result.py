"""What results share."""

from onsphere.lab.result import elapsed


def test_a_time_is_rounded_once(monkeypatch):
    monkeypatch.setattr("onsphere.lab.result.time.monotonic", lambda: 7.2504)
    assert elapsed(7.0) == 0.25  # 0.2504 would be shown as 0.3, and as 0.2 when read again
