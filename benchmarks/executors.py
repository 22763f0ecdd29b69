"""What a shard costs the driver, on an engine that trains nothing: ``python -m benchmarks executors``."""

from __future__ import annotations

import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from onsphere.lab.executors.driving import Outcome, drive
from onsphere.lab.executors.probe import check_done
from onsphere.lab.population import Copy, Plan, Shard
from onsphere.lab.progress import Progress
from onsphere.lab.training import Trainer

SHARDS, STEPS = 10_000, 100


@dataclass
class Simulated:
    """An engine whose shards end in the order in which they were given out, ``at_once`` a call.

    Attributes:
        folder: The folder of the shards, where each of them has ended already.
        at_once: How many end between two calls.
    """

    folder: Path
    at_once: int = 50
    out: deque[str] = field(default_factory=deque)

    def run(self, shards: list[Shard], plan: Plan, progress: Callable[[int], None]) -> Iterator[str]:
        """Run shards as an executor does."""
        return drive(self, shards, plan, lambda: False, progress)

    def submit(self, shards: Sequence[Shard], plan: Plan) -> None:
        """Give out shards."""
        self.out.extend(shard.name for shard in shards)

    def outcomes(self) -> Iterable[Outcome]:
        """The next shards have ended; the folder of each is looked at, as on a cluster."""
        for _ in range(min(self.at_once, len(self.out))):
            name = self.out.popleft()
            check_done(self.folder / name, "simulated")
            yield Outcome(name, "ended", done=STEPS)

    def steps(self) -> Iterable[tuple[str, int, bool]]:
        """Every shard at work has said how far it is."""
        return [(name, 1, True) for name in list(self.out)[: self.at_once]]

    def stop(self) -> None:
        """Nothing is at work."""


def shards() -> Iterator[str]:
    """The driver's processor time a shard, from the list of copies to the end of the round."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        trainer = Trainer(folder, Simulated(folder), Plan("loop", 1), 1, Progress(), STEPS, "")
        copies = [Copy(lr=0.1, seed=seed) for seed in range(SHARDS)]
        for shard in trainer.shards("round0", copies):  # what the nodes would have written
            path = folder / shard.name
            path.mkdir()
            (path / "shard.json").write_text(json.dumps({"copies": [asdict(copy) for copy in shard.copies]}))
            (path / "done.json").write_text("{}")
        before = time.process_time()
        many = sum(1 for _ in trainer.round("round0", copies, "simulated"))
        spent = time.process_time() - before
    yield f"driver, {many:,} empty shards on a simulated engine: {1e3 * spent / many:.2f} ms a shard (at most 5)"
