r"""What happens on the sphere while somebody trains: attach a monitor to the optimiser, change nothing else.

    monitor = onsphere.Monitor(optimizer, groups, every=10)
    ...                                     # the training loop as it is
    print(*monitor.diagnose(), sep="\n")    # "sphere: jumps every ~330 steps (lr·wd = 0.003); next in 60-120 steps"

Readings are defined in :mod:`onsphere.monitor.readings`, how they are taken in :mod:`onsphere.monitor.recorder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from onsphere.groups import Only, matches
from onsphere.monitor.groups import frozen_norms, watch
from onsphere.monitor.outlets import Outlets
from onsphere.monitor.partners import check_partners, partners, partners_title
from onsphere.monitor.record import Record
from onsphere.monitor.recorder import Recorder
from onsphere.monitor.rings import emptied
from onsphere.monitor.state import packed, unpacked
from onsphere.optim.wrappers import torch_optimizers
from onsphere.results import frame
from onsphere.sharding import agree, is_spread

if TYPE_CHECKING:
    from onsphere.monitor.findings import Finding
    from onsphere.monitor.forecast import Forecast
    from onsphere.monitor.sinks import Sink
    from onsphere.symmetry import Symmetries

__all__ = ["Monitor"]

#: With an alarm callback the ring is emptied at least so often, readings; and so many readings are looked at.
_ALARM_EVERY, _ALARM_WINDOW = 32, 4096


class Monitor:
    """Reads norms, ELR and angles of a training run from its optimiser's steps.

    The training loop does not change and training stays the same bit for bit: the monitor copies weights and gradients
    around the steps that it reads and writes nothing that the optimiser sees. Between flushes nothing is read back from
    the device. It works with any ``torch.optim.Optimizer``, closures, schedulers, gradient scalers, gradient clipping
    and ``keep_on_sphere`` (before or after); several optimisers may share a group. A step that a gradient scaler skips
    is no step, and a step inside a step (``super().step()``) is part of it. The gradient is the one the step used:
    summed over accumulation, unscaled, clipped. Readings may be asked for from any thread. Whatever fails in the
    monitor is said once, and training goes on without it. ``torch.compile`` calls its hooks as they are, untraced.

    In distributed training make it on every rank, with the same arguments: all read the same, ``rank`` alone writes and
    alarms. Of DTensors (FSDP2, tensor parallelism, HSDP) each rank reads its part, without communication, but for a
    gradient that is still ``Partial``; at a flush the sums are added up, one all-reduce a mesh, and readings are those
    of the whole tensors. So a flush waits for all ranks: it comes when the ring is full, and with :meth:`flush`,
    :meth:`state_dict` and :meth:`detach`, which every rank has to call at the same step. :meth:`readings`,
    :meth:`to_frame`, :meth:`diagnose` and :meth:`forecast` then do not flush, and may be called on one rank alone: what
    is still in the ring is not in them. If reading fails on one rank, it ends on all that add up with it.

    Memory for T selected tensors of N numbers in all (on this rank): a ring of ``72 T capacity`` bytes on their device;
    work space there of 24 N bytes (up to 2.4 MB if N is below 2¹⁵, where steps are gathered), or, if N is above 2²⁰
    (2²² on accelerators), 24 times that and one copy of the weights in their own dtype; on the host at most
    ``(40 T + 40 P + 8) keep`` bytes for P param groups, the oldest readings being dropped. ``repr`` says how much.

    Args:
        optimizer: An optimiser, or a list of all that step the tensors in ``groups``.
        groups: As ``onsphere.sphere_groups(model, batch)`` returns them. None: the optimiser's param groups that have a
            ``sphere``, or, if none has, all of its parameters as one group ``all``.
        every: Steps 0, ``every``, 2 ``every``, ... are read.
        select: Glob of tensor names, or several; others are not read, and norms are those of the selected part.
        only: Which tensors of the sphere groups their norm and ELR are of, as for :func:`onsphere.sphere_groups`:
            ``"weights"`` (at least two dimensions, as the papers' code counts), or globs; the others are read with the
            rest. It decides the ELR: gains of one add their number to ρ². None: all of them. Whether these are
            scale-invariant by themselves shows in their Noether residual.
        capacity: Readings that the ring holds; it is flushed when full. With ``on_alarm`` it is at most 32, so that an
            alarm comes no later than 32 readings.
        keep: Readings that are kept on the host.
        on_alarm: Called with a finding of kind ``jump`` or ``jump expected`` when it is new. An exception in it
            is reported once, as a warning, and training goes on.
        sinks: Where readings of the groups go at each flush, see :mod:`onsphere.monitor.sinks`.
        rank: If there are several processes, the one that writes to ``sinks`` and calls ``on_alarm``; None: every one.
            With pipeline stages, which have other tensors each, give the first rank of each stage.
        model: Where the tensors' names come from; else the groups' ``names``, else ``param 0``, ...
        symmetries: As ``onsphere.find_symmetries(model, batch)`` returns them: ``readings("partners")`` then has norm
            product and imbalance of the tensors that a rescaling binds.

    Raises:
        TypeError: Something is not an optimiser, or a tensor does not hold real floating-point numbers or is split in a
            way that is not understood (FSDP 1, DeepSpeed's third stage, ``Partial``).
        ValueError: The optimiser has a monitor already or does not step a tensor of ``groups``, nothing is selected, a
            number is out of range, ``only`` leaves nothing on spheres or splits one that the optimiser keeps,
            ``symmetries`` binds no tensors that are read, or DTensors are watched otherwise on another rank.
        RuntimeError: DTensors are watched, and another rank has made no monitor within two minutes.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> monitor = Monitor(optimizer, [{"params": [weight], "sphere": "joint"}], every=1)
        >>> weight.grad = torch.tensor([4.0, -3.0])
        >>> optimizer.step()
        >>> {name: float(monitor.readings()[name][0]) for name in ("norm", "elr", "effective_step")}
        {'norm': 5.0, 'elr': 0.02, 'effective_step': 0.5}
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        groups: Iterable[Mapping[str, Any]] | None = None,
        every: int = 10,
        *,
        select: str | Sequence[str] = "*",
        only: Only = None,
        capacity: int = 256,
        keep: int = 20_000,
        on_alarm: Callable[[Finding], object] | None = None,
        sinks: Iterable[Sink] = (),
        rank: int | None = 0,
        model: nn.Module | None = None,
        symmetries: Symmetries | None = None,
    ) -> None:
        for name, value in (("every", every), ("capacity", capacity), ("keep", keep)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        optimizers = torch_optimizers(optimizer, "Monitor")
        attached = [type(one).__name__ for one in optimizers if one in _ATTACHED]
        if attached:
            raise ValueError(f"this {attached[0]} has a monitor already; call its detach() first, or use that one")
        self._watched = watch(optimizers, groups, select, model, only)
        names = [tensor.name for tensor in self._watched.by_tensor]
        self._bound = check_partners(symmetries.rescalings, names) if symmetries else []
        self.every, self.on_alarm, self.sinks = every, on_alarm, list(sinks)
        ring = min(capacity, _ALARM_EVERY) if on_alarm else capacity
        self._record = Record(self._watched, [type(one).__name__ for one in optimizers], keep)
        self._outlets = Outlets(self._record, rank)
        self._everything = [tensor for tensors in self._watched.tensors for tensor in tensors]
        meshes: list[Any] = [tensor.device_mesh for tensor in self._everything if is_spread(tensor)]  # type: ignore[attr-defined]
        self._waits = any(mesh.size() > 1 for mesh in meshes)
        agree("a Monitor", self._everything, [f"every {every}", f"a ring of {ring} readings", *self._watched.notes()])
        self._recorders = [
            Recorder(one, tensors, param_groups, every, ring, self.flush, spread=bool(meshes))
            for one, tensors, param_groups in zip(
                optimizers, self._watched.tensors, self._watched.param_groups, strict=True
            )
        ]
        self._stepped = [{id(p) for g in one.param_groups for p in g["params"]} for one in optimizers]
        self._model, self._lock = model, RLock()
        _ATTACHED.update(optimizers)

    # -- what it read -------------------------------------------------------------------------------------------------

    def readings(
        self, level: Literal["group", "tensor", "partners"] = "group", select: str | Sequence[str] = "*"
    ) -> dict[str, NDArray[Any]]:
        """All kept readings, one row for each step that was read and each group.

        Args:
            level: ``group`` (``sphere``, ``sphere 2``, ..., ``rest``, and ``total`` for all sphere groups together if
                there are several), ``tensor``, or ``partners`` (with ``symmetries=``).
            select: Glob of group or tensor names, or several; groups are found by what findings call them as well.

        Returns:
            Arrays of one length: ``step`` (number of steps before it), ``group``, then ``norm``, ``gradient_norm``,
            ``effective_gradient``, ``elr``, ``effective_step``, ``angular_update`` (radians), ``decay_pull``,
            ``gradient_push``, ``decay``, ``alignment``, ``push`` (which add up to the change of log norm),
            ``noether_residual``, ``lr``, ``weight_decay`` (NaN where the optimiser has none) and
            ``finite``: whether weights, gradient and update are. Of partners ``step``, ``group`` (``v ~ o``),
            ``norm_product`` and ``imbalance``, see :mod:`onsphere.monitor.partners`.

        Raises:
            ValueError: ``level`` is something else.
        """
        if level not in ("group", "tensor", "partners"):
            raise ValueError(f'level is {level!r}; it must be "group", "tensor" or "partners"')
        self._refresh()
        if level == "partners":
            with self._lock:
                return partners(self._record, [one for one in self._bound if matches(partners_title(one), select)])
        groups = self._record.groups if level == "group" else self._watched.by_tensor
        with self._lock:
            chosen = [group for group in groups if matches(group.name, select) or matches(group.title, select)]
            return self._record.table(chosen)

    def titles(self) -> dict[str, str]:
        """What findings call the groups of :meth:`readings`: the names given, or what their tensors' names share."""
        return {group.name: group.title for group in self._record.groups}

    def to_frame(
        self, level: Literal["group", "tensor", "partners"] = "group", select: str | Sequence[str] = "*"
    ) -> Any:
        """:meth:`readings` as a pandas data frame (needs pandas)."""
        return frame(self.readings(level, select))

    def diagnose(self) -> list[Finding]:
        """What the readings mean: findings with ``kind``, ``severity``, ``message`` and ``evidence``, alarms first.

        Returns:
            The findings; printed, each is a sentence. An empty list if nothing stands out.
        """
        from onsphere.monitor.finding import in_order
        from onsphere.monitor.findings import changes, diagnose

        self._refresh()
        frozen = tuple(frozen_norms(self._model))
        held = self._watched.held([recorder.optimizer for recorder in self._recorders])
        with self._lock:
            histories = self._record.histories()
        histories = [replace(one, frozen_norms=frozen, held=one.name in held) for one in histories]
        changed = changes(self._recorders, self._watched.names, self._stepped)
        return in_order(diagnose(histories) + changed)

    def forecast(self) -> Forecast | None:
        """When the next jump comes: ``step``, ``low`` and ``high``; None before two whole periods lie behind."""
        from onsphere.monitor.findings import forecast_of

        self._refresh()
        with self._lock:
            history = self._record.history(self._record.main)
        return forecast_of(history)

    def report(self, path: str | Path | None = None) -> str:
        """What was read and what it means, as text, and as a file.

        Args:
            path: Where it is written; its folder is made if missing. A name that ends in ``.html`` gets a page with
                charts (which needs the laboratory, ``pip install "onsphere[lab]"``), any other the text.

        Returns:
            The text: a table of the groups (norm, ELR, angle, forces), rescaling partners, and the findings.

        Raises:
            ImportError: A page was asked for without the laboratory.
            ValueError: A page was asked for and nothing has been read yet.
        """
        from onsphere.monitor.summary import summary, write

        findings = self.diagnose()
        with self._lock:
            text = summary(repr(self).splitlines()[0], self._record, self._bound, findings)
        if path is not None:
            write(self, text, Path(path))
        return text

    def flush(self) -> None:
        """Bring what is in the ring to the host, to the sinks and to the alarm; with DTensors call it on every rank."""
        with self._lock:
            stores = zip(self._recorders, self._record.stores, strict=True)
            full = [(recorder, store) for recorder, store in stores if recorder.used]
            if not full:
                return
            for (_, store), block in zip(full, emptied([recorder for recorder, _ in full]), strict=True):
                store.append(block)
            self._outlets.call("writing", self._outlets.write, self.sinks)
        if self.on_alarm:
            self._outlets.call("the alarm", self._alarm, self.on_alarm)

    def detach(self, *, flush: bool = True) -> None:
        """Remove the hooks; the readings stay. Doing it twice is doing it once.

        Args:
            flush: Whether to flush first. With DTensors that waits for every rank: take False where an exception ends
                the training of one; the readings in the ring are lost.
        """
        if flush:
            self.flush()
        for recorder in self._recorders:
            recorder.detach()
            _ATTACHED.discard(recorder.optimizer)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Readings (as bytes) and step counts; a run resumed with them goes on as if never stopped.

        Every entry has the same type and place whatever was read, so that ``torch.distributed.checkpoint`` can save and
        load a monitor as it can a model, also on another number of processes. With DTensors call it on every rank.
        """
        self.flush()
        with self._lock:
            stores = self._record.stores
            pairs = zip(self._recorders, stores, strict=True)
            return {
                "every": self.every,
                "names": [list(names) for names in self._watched.names],
                "param_groups": [list(indices) for indices in self._watched.param_groups],
                "runs": [{"count": recorder.count, "dropped": store.dropped} for recorder, store in pairs],
                "readings": packed(
                    [store.arrays() for store in stores],
                    {"shown": self._outlets.shown, "alarmed": sorted(self._outlets.alarmed)},
                ),
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; readings made so far are forgotten.

        Args:
            state: From a monitor of the same tensors with the same ``every``; with DTensors the same on every rank.

        Raises:
            ValueError: It is from another kind of monitor, or damaged, or, with DTensors, not the one that another rank
                loads; then nothing has changed.
            RuntimeError: DTensors are watched, and another rank has loaded none within two minutes.
        """
        mine = {"every": self.every, "names": self._watched.names, "param_groups": self._watched.param_groups}
        for key, value in mine.items():
            if state.get(key) != value:
                raise ValueError(
                    f"the loaded state has {key} {state.get(key)}, this monitor {value}; make it with the groups, "
                    "select, only and every that the saved one had"
                )
        blocks, notes = unpacked(state)
        counts = [f"{int(run['count'])} steps of optimiser {k}" for k, run in enumerate(state["runs"])]
        agree("a Monitor from a saved state", self._everything, counts)
        with self._lock:
            runs = zip(self._recorders, self._record.stores, state["runs"], blocks, strict=True)
            for recorder, store, run, block in runs:
                recorder.take()
                recorder.count = int(run["count"])
                store.replace(block, int(run["dropped"]))
            self._outlets.shown, self._outlets.alarmed = dict(notes["shown"]), set(notes["alarmed"])

    def __repr__(self) -> str:
        optimizers = " and ".join(type(recorder.optimizer).__name__ for recorder in self._recorders)
        lines = [f"Monitor of {optimizers}, every {self.every} steps"]
        for group in self._watched.groups:
            steps, tensors = self._record.read(group)["step"], sum(map(len, group.members.values()))
            span = f", steps {steps[0]} to {steps[-1]}" if len(steps) else ""
            size = self._record.size(group)
            called = group.name if group.title == group.name else f"{group.name} ({group.title})"
            lines.append(f"  {called}: {tensors} tensors, {size:,} weights, {len(steps):,} readings{span}")
        ring, space = (sum(each) for each in zip(*(recorder.device_bytes for recorder in self._recorders), strict=True))
        lines.append(f"  memory on the device: ring {ring:,} bytes, work space {space:,} bytes")
        return "\n".join(lines)

    def _refresh(self) -> None:
        if not self._waits:  # else a flush would wait for other ranks, which need not be here
            self.flush()

    def _alarm(self, on_alarm: Callable[[Finding], object]) -> None:
        with self._lock:
            histories = self._record.histories(last=_ALARM_WINDOW)
        self._outlets.alarm(histories, on_alarm)


_ATTACHED: WeakSet[Optimizer] = WeakSet()
