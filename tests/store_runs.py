"""A small map that tests of stored runs train, spoil and compare."""

import json

from onsphere.lab import map_regimes
from onsphere.lab.store import Run

FIELDS = {
    "train": 60,
    "label_noise": 0.0,
    "widths": (8,),
    "elr_min": 1e-3,
    "elr_max": 1.0,
    "elrs": 2,
    "seeds": 2,
    "steps": 120,
    "batch_size": 16,
    "refine": 0,
    "evaluations": 4,
    "workers": 1,
    "mode": "loop",
    "compiled": "no",
    "chunk": 2,
    "checkpoint_seconds": 1e-6,
}


def train(folder, *, until=None, **fields):
    """A map in a folder, stopped after so many questions."""
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return until is not None and asked > until

    return map_regimes(out=folder, stop=stop, **FIELDS | fields)


def strip_digests(folder):
    """Make a run one of those that were made before there were digests."""
    import pyarrow.parquet as pq
    from safetensors import safe_open
    from safetensors.torch import save_file

    (folder / "digests.json").unlink(missing_ok=True)
    for path in folder.rglob("*.json"):
        values = json.loads(path.read_text())
        for name in ("digest", "asked", "files", "signature"):
            values.pop(name, None)
        path.write_text(json.dumps(values))
    for path in folder.rglob("*.parquet"):
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            metadata, tensors = dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata.pop("digest", None)
        if "facts" in metadata:
            facts = json.loads(metadata["facts"])
            facts.pop("readings", None)
            metadata["facts"] = json.dumps(facts)
        save_file(tensors, path, metadata=metadata)


def findings(folder):
    """What a result says, without what depends on the sitting."""
    values = Run.open(folder).result()
    return {name: value for name, value in values.items() if name not in ("seconds", "cpu_seconds", "run", "report")}
