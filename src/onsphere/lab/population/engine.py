"""Executes the one-copy step for K copies: batched (vmap) or one after another (loop), replayed or compiled.

The step is written once, for one copy (:mod:`.step`). ``vmap`` gives every tensor a leading axis of K copies and is
the better way where single operations are small (multilayer perceptrons); ``loop`` runs copies one by one and is the
better way where they are large (convolutions on a CPU). In both, the step is traced once into a flat list of tensor
operations and replayed, which removes the cost of vmap and of automatic differentiation from every later step without
a compiler; ``compiled`` gives that list to ``torch.compile``. A network that cannot be traced runs untraced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.func import vmap

from onsphere.functional.recomputation import without_recomputation
from onsphere.lab.population.augment import augmented
from onsphere.lab.population.copies import AUGMENTATION, FORWARD_NOISE, Copy, Problem, stream
from onsphere.lab.population.layout import safe_in_channels_last
from onsphere.lab.population.readings import ANGLE, FIXED
from onsphere.lab.population.running import Recorder, momenta, statistic_names
from onsphere.lab.population.spheres import Spheres
from onsphere.lab.population.step import Hyper, Step, StepState, make_step
from onsphere.normalisation import BatchStatistics, without_running_statistics
from onsphere.products import squared_norm
from onsphere.tracing import trace


@dataclass(frozen=True)
class Plan:
    """How the copies are executed.

    Attributes:
        mode: ``vmap`` for batched copies or ``loop`` for one after another.
        chunk: Copies per shard, at most.
        compiled: Whether the step goes through ``torch.compile``.
        traced: Whether the step is traced first; False only for networks that cannot be.
        channels_last: Whether images and convolution weights lie in channels-last order, where that is safe
            (:mod:`.layout`; a plan recorded by an earlier version may ask for it where it is not).
    """

    mode: Literal["vmap", "loop"]
    chunk: int
    compiled: bool = False
    traced: bool = True
    channels_last: bool = False


@dataclass
class State:
    """The state of K copies.

    Attributes:
        params: Trained tensors, each [K, ...].
        buffers: Momentum buffers, like ``params``; of Adam the first moments of all tensors, then the second ones;
            empty of an optimiser without memory.
        constants: All other parameters and buffers of the network, each [K, ...].
        alive: bool [K]; False once a copy became non-finite.
        radius: float64 [K]; the norm that each copy keeps on the sphere, or of every group of it [K, groups].
        step: How many steps are done.
        statistics: Running means and variances of the batch norms, each [K, C], where they are kept.
    """

    params: list[Tensor]
    buffers: list[Tensor]
    constants: list[Tensor]
    alive: Tensor
    radius: Tensor
    step: int = 0
    statistics: list[Tensor] = field(default_factory=list)


class Engine:
    """Runs K copies of one problem by one plan."""

    def __init__(self, problem: Problem, copies: tuple[Copy, ...], plan: Plan) -> None:
        self.problem, self.copies, self.plan = problem, copies, plan
        self.seeds = sorted({c.seed for c in copies})
        self._seed_of_copy = torch.tensor([self.seeds.index(c.seed) for c in copies], device=problem.device)
        self.buffers_each = 2 if problem.optimizer != "sgd" else int(any(c.momentum != 0 for c in copies))
        self._varies = problem.schedule != "constant" or any(c.phases for c in copies)
        template = problem.build(copies[0].seed).to(problem.device, problem.dtype)
        if not any(module.training for module in template.modules()):
            template.train()  # else as the factory made it: some norms may be frozen
        self.stochastic = any(isinstance(m, nn.modules.dropout._DropoutNd) for m in template.modules())
        self._random_devices = [torch.device(problem.device)] if problem.device.startswith("cuda") else []
        self._channels_last = plan.channels_last and safe_in_channels_last(template)
        norms = momenta(template) if problem.running else {}
        self.statistic_names = statistic_names(norms)
        self.template = without_running_statistics(template)
        for module in self.template.modules():
            if isinstance(module, BatchStatistics):
                module.under_vmap = plan.mode == "vmap"
        names = dict(self.template.named_parameters()) | dict(self.template.named_buffers())
        self.constant_names = tuple(name for name in names if name not in problem.trained)
        # the joint sphere without momentum has an update of its own, and needs no angle: it follows from the gradient
        several = problem.geometry == "sphere" and (problem.spheres != Spheres() or self.buffers_each > 0)
        self.extra = (ANGLE,) if several else ()
        step = make_step(
            self.template,
            problem.trained,
            self.constant_names,
            loss=problem.loss,
            geometry=problem.geometry,
            optimizer=problem.optimizer,
            spheres=problem.spheres if several else None,
            recorder=Recorder(self.template, norms) if norms else None,
            keep_elr=problem.keep_elr,
        )
        self._shared_batch = len(self.seeds) == 1
        data_axis = None if self._shared_batch else 0
        self._raw: Step = (
            vmap(step, in_dims=(0, 0, 0, data_axis, data_axis), randomness="different") if plan.mode == "vmap" else step
        )
        self._step: Step | None = None
        self.x = self.weight_layout(problem.data.x_train.to(problem.device, problem.dtype))
        self.y = problem.data.y_train.to(problem.device)
        self.columns = FIXED + 3 * len(problem.invariant) + len(self.extra)

    def initial_state(self) -> State:
        """Every copy as initialised from its seed; on the sphere, scaled to the problem's radius."""
        problem, networks = self.problem, {}
        for seed in self.seeds:
            network = problem.build(seed).to(problem.device, problem.dtype)
            values = dict(network.named_parameters()) | dict(network.named_buffers())
            networks[seed] = {name: value.detach().clone() for name, value in values.items()}

        def stacked(name: str) -> Tensor:
            return torch.stack([networks[c.seed][name] for c in self.copies])

        fresh = problem.starts is None
        params = [stacked(name) for name in problem.trained] if fresh else list(self._started().values())
        radius = vmap(squared_norm)(params).sqrt()
        if problem.geometry == "sphere" and (problem.radius is not None or problem.spheres != Spheres()):
            params, radius = problem.spheres.placed(params, problem.trained, problem.radius)
        kept = {} if fresh else self._started("buffer0/")
        buffers = [kept.get(name, torch.zeros_like(p)) for name, p in zip(problem.trained, params, strict=True)]
        buffers = (buffers + [torch.zeros_like(p) for p in params])[: self.buffers_each * len(params)]
        alive = torch.ones(len(self.copies), dtype=torch.bool, device=problem.device)
        constants, statistics = (
            [stacked(name) for name in names] for names in (self.constant_names, self.statistic_names)
        )
        return State(params, buffers, constants, alive, radius, statistics=statistics)

    def _started(self, kind: str = "") -> dict[str, Tensor]:
        """The trained tensors at which the copies begin, or their momentum buffers as far as the file has them."""
        rows = [c.start for c in self.copies]
        with safe_open(self.problem.starts, framework="pt", device=self.problem.device) as file:
            names = [name for name in self.problem.trained if not kind or kind + name in file.keys()]  # noqa: SIM118
            return {name: file.get_tensor(kind + name)[rows].to(self.problem.dtype) for name in names}

    def advance(
        self, state: State, stop: int, ring: Tensor, *, interrupted: Callable[[int], bool] | None = None
    ) -> State:
        """Train from ``state.step`` to ``stop``.

        Args:
            state: Where the copies are.
            stop: Step to end at.
            ring: Readings go here, [at least stop - state.step, K, 2 + 3 L].
            interrupted: Called after every step with the number of copy-steps done since the last call; the run
                ends early, after whole steps of all copies, when it returns True.

        Returns:
            The new state; its ``step`` is below ``stop`` only when interrupted.
        """
        if state.step >= stop:
            return state
        indices = torch.stack([self.problem.batches(seed, state.step, stop) for seed in self.seeds], dim=1)
        indices = indices.to(self.problem.device)
        hyper = self._hyper(state, stop)
        with torch.no_grad(), torch.random.fork_rng(devices=self._random_devices, enabled=self.stochastic):
            if self.plan.mode == "vmap":
                return self._advance_batched(state, hyper, indices, ring, interrupted)
            return self._advance_one_by_one(state, hyper, indices, ring, interrupted)

    def _advance_batched(
        self, state: State, hyper: list[Hyper], indices: Tensor, ring: Tensor, interrupted: Callable[[int], bool] | None
    ) -> State:
        now = StepState(state.params, state.buffers, state.alive, state.statistics)
        done, first = 0, self.problem.offset + state.step
        for t in range(len(indices)):
            rows = indices[t, 0] if self._shared_batch else indices[t].index_select(0, self._seed_of_copy)
            if self.stochastic:
                torch.manual_seed(stream(self.problem.seed, self.copies[0].seed, FORWARD_NOISE, first + t))
            x = self._augmented_batches(indices[t], state.step + t) if self.problem.augment else self.x[rows]
            now, ring[t] = self._run(now, state.constants, hyper[t], x, self.y[rows])
            done += 1
            if interrupted is not None and interrupted(len(self.copies)):
                break
        return replace(state, **now._asdict(), step=state.step + done)

    def _advance_one_by_one(
        self, state: State, hyper: list[Hyper], indices: Tensor, ring: Tensor, interrupted: Callable[[int], bool] | None
    ) -> State:
        after: list[StepState] = []
        steps, first = len(indices), self.problem.offset + state.step
        for k, this in enumerate(self.copies):
            params, buffers, constants, statistics = (
                [self.weight_layout(tensor[k]) for tensor in tensors]
                for tensors in (state.params, state.buffers, state.constants, state.statistics)
            )
            now = StepState(params, buffers, state.alive[k], statistics)
            rows_of_seed = indices[:, self.seeds.index(this.seed)]
            own = Hyper(*(h[k] for h in hyper[0]))
            for t in range(steps):
                rows = rows_of_seed[t]
                if self.stochastic:
                    torch.manual_seed(stream(self.problem.seed, this.seed, FORWARD_NOISE, first + t))
                if hyper[t] is not hyper[0]:
                    own = own._replace(lr=hyper[t].lr[k], number=hyper[t].number[k])
                x = self._batch(rows, this.seed, state.step + t)
                now, ring[t, k] = self._run(now, constants, own, self.weight_layout(x), self.y[rows])
                # the first copy decides how far this call goes; the others follow it to the same step
                if interrupted is not None and interrupted(1) and k == 0:
                    steps = t + 1
                    break
            after.append(now)
        lists: dict[str, Any] = {
            name: _restack([getattr(s, name) for s in after]) for name in ("params", "buffers", "statistics")
        }
        return replace(state, **lists, alive=torch.stack([s.alive for s in after]), step=state.step + steps)

    def _hyper(self, state: State, stop: int) -> list[Hyper]:
        """The copies' hyper-parameters in each step up to `stop`, as float64 [K] tensors."""
        values = [[getattr(c, name) for c in self.copies] for name in ("lr", "weight_decay", "momentum")]
        lr, decay, momentum = torch.tensor(values, dtype=torch.float64, device=self.problem.device)
        number = torch.full_like(lr, state.step + 1)
        each = [Hyper(lr, decay, momentum, state.radius, number)] * (stop - state.step)
        if self._varies:
            lrs = np.stack([self.problem.lrs(c, state.step, stop) for c in self.copies], axis=1)
            rows = torch.from_numpy(lrs).to(number.device)
            each = [one._replace(lr=row) for one, row in zip(each, rows, strict=True)]
        if self.problem.optimizer != "sgd":
            each = [one._replace(number=number + t) for t, one in enumerate(each)]
        return each

    def _batch(self, rows: Tensor, seed: int, step: int) -> Tensor:
        """The images that a seed sees in a step; the draws depend on the two alone."""
        if not self.problem.augment:
            return self.x[rows]
        return augmented(self.x[rows], (self.problem.seed, seed, AUGMENTATION, self.problem.offset + step))

    def _augmented_batches(self, rows: Tensor, step: int) -> Tensor:
        """Images of all copies [K, B, ...], or of their one seed [B, ...], from the rows [seeds, B]."""
        batches = [self._batch(own, seed, step) for own, seed in zip(rows, self.seeds, strict=True)]
        return batches[0] if self._shared_batch else torch.stack(batches).index_select(0, self._seed_of_copy)

    def _run(
        self, state: StepState, constants: list[Tensor], hyper: Hyper, x: Tensor, y: Tensor
    ) -> tuple[StepState, Tensor]:
        with without_recomputation():  # weights are handed over for the one call
            if self._step is None:
                # tracing draws as well: the first step, here or after an interruption, shall not see that
                with torch.random.fork_rng(devices=self._random_devices, enabled=self.stochastic):
                    step: Any = trace(self._raw, state, constants, hyper, x, y) if self.plan.traced else self._raw
                self._step = torch.compile(step, fullgraph=True, dynamic=False) if self.plan.compiled else step
            return self._step(state, constants, hyper, x, y)

    def weight_layout(self, tensor: Tensor) -> Tensor:
        """Weights or images in the plan's memory order."""
        if self._channels_last and tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor


def _restack(copies: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(tensors).contiguous() for tensors in zip(*copies, strict=True)]
