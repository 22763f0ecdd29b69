"""Runs on disk: a folder each, written atomically, readable without onsphere (JSON, parquet, safetensors)."""

from onsphere.lab.store.place import resume_command
from onsphere.lab.store.run import DiskFull, Run, list_runs
from onsphere.lab.store.seal import Damaged

__all__ = ["Damaged", "DiskFull", "Run", "list_runs", "resume_command"]
