"""Runs on disk: a folder each, written atomically, readable without onsphere (JSON, parquet, safetensors)."""

from onsphere.lab.store.run import Run, list_runs

__all__ = ["Run", "list_runs"]
