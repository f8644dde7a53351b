"""ZeRO: replicas share out what all of them would hold: optimizer state (level 1), gradients (2), weights (3).

Invariant: what a replica holds for good of a shared-out parameter is a run of its rows; whole arrays exist from a GATHER to a
FREE (weights, level 3), or from a contribution to the exchange that follows it (gradients, level 2 and 3).

For N parameters of w bytes, k arrays of optimizer state and d replicas, a replica holds, besides activations and passing
arrays, N w (2 + k) at level 0, N w (2 + k/d) at 1, N w (1 + (1 + k)/d) at 2, N w (2 + k)/d at 3. Rajbhandari et al. 2020,
"ZeRO: memory optimizations toward training trillion parameter models", section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from mpitrain.arrays import Array, Arrays, namespace
from mpitrain.comm import Collective, Communicator, InFlight, finish
from mpitrain.comm.allreduce import ring
from mpitrain.nn import Parameter, Stage
from mpitrain.parallel.buckets import Bucket
from mpitrain.parallel.rows import gather_rows, reduce_rows, rows_of, shard_of
from mpitrain.program.action import Action


def is_shared_out(parameter: Parameter, level: int) -> bool:
    """Whether replicas hold shards of `parameter`: of a frozen one there is no more than its weights to share out, and one
    without a dim, or without an element, has no rows.
    """
    has_rows = parameter.shape != () and parameter.size > 0
    return has_rows and (parameter.trained or (level == 3 and not parameter.moves))


class Zero:
    """GATHER and FREE for the stages of a rank, and the exchange of their gradients."""

    def __init__(self, comm: Communicator, level: int, stages: Mapping[int, Stage]) -> None:
        """Describe this replica's shards of the parameters of `stages`.  Collective over `comm`, the replicas.

        `level` is 1, 2 or 3.
        """
        self.comm, self.level = comm, level
        # Weights travel apart from gradients: the same numbers are tags of both.
        self.weights_comm = comm.group(range(comm.size))
        #: The shared-out weights that each stage computes with; two stages may use one.
        self.used: dict[int, list[Parameter]] = {}
        #: What moves and is not shared out: statistics, and what has no rows; one that stages share belongs to the first.
        self.wholes: dict[int, list[Parameter]] = {}
        for stage, module in stages.items():
            parameters = module.parameters()
            self.used[stage] = [p for p in parameters if is_shared_out(p, level)]
            earlier = set(chain.from_iterable(self.wholes.values()))
            self.wholes[stage] = [p for p in parameters if p.moves and not is_shared_out(p, level) and p not in earlier]
        self.shards = {p: shard_of(p, comm.size, comm.rank) for used in self.used.values() for p in used}
        #: The stages for which a weight is whole, at level 3.
        self.users: dict[Parameter, set[int]] = {p: set() for p in self.shards}
        self.in_flight: dict[int, InFlight] = {}

    def materialize(self, arrays: Arrays, dtype: np.dtype, seed: int) -> None:
        """Create the shards: views into the whole weights, which are there, or at level 3 arrays of their own."""
        for whole, shard in self.shards.items():
            if self.level == 3:
                shard.materialize(arrays, dtype, seed)
            else:
                shard.data = self._mine(whole.data)

    def exchange(self, bucket: Bucket) -> Collective:
        """Sum this replica's rows of the bucket's gradients over all replicas into its shards' gradients."""
        shared_out = [p for p in bucket.parameters if p in self.shards]
        if shared_out:
            yield from self._reduce(shared_out, bucket.index)

    def reduce_wholes(self, action: Action) -> None:
        """Sum the gradients of what is not shared out, and what statistics have observed in the step, over all replicas."""
        for whole in self.wholes[action.stage]:
            finish(ring(self.weights_comm, whole.settled_grad().reshape(-1), tag=action.stage))

    def gather(self, action: Action) -> None:
        """GATHER: start to bring all rows of the stage's weights together."""
        self._start_gather(action.stage)

    def free(self, action: Action) -> None:
        """FREE: let the stage's whole weights go."""
        self.need(action.stage)  # a rank without samples has not waited for them
        for whole in self.used[action.stage]:
            self.users[whole].discard(action.stage)
            if not self.users[whole]:
                whole.data = None

    def need(self, stage: int) -> None:
        """Wait until the stage's weights are whole."""
        if stage in self.in_flight:
            self.in_flight.pop(stage).finish()

    def advance(self) -> None:
        """Go on with what is under way, as far as messages have arrived."""
        for gathering in tuple(self.in_flight.values()):  # a copy, as another thread may come by
            gathering.advance()

    def refresh(self) -> None:
        """Bring the whole weights up to date after the shards were written from outside.  Collective."""
        if self.level < 3:
            for stage in self.used:
                self._start_gather(stage)
                self.need(stage)

    def _start_gather(self, stage: int) -> None:
        wholes = [whole for whole in self.used[stage] if not self.users[whole]]
        if self.level == 3:
            for whole in self.used[stage]:
                self.users[whole].add(stage)
            for whole in wholes:
                shard = self.shards[whole]
                whole.data = _empty(shard.data, whole.shape)
                self._mine(whole.data)[...] = shard.data
        if wholes:
            self.in_flight[stage] = InFlight(gather_rows(self.weights_comm, [whole.data for whole in wholes], stage))

    def _reduce(self, trained: Sequence[Parameter], tag: int) -> Collective:
        for p in trained:
            if p.fresh or p.grad is None:  # no op used it in this pass
                p.grad = _empty(self.shards[p].data, p.shape)
                p.grad.fill(0)
        shards = [self.shards[p] for p in trained]
        parts = [p.grad for p in trained]
        add = self.level > 1 and not shards[0].fresh
        if self.level == 1:
            out = [self._mine(part) for part in parts]
        else:
            out = [s.settled_grad() for s in shards]
            for p in trained:
                p.grad = None
        for p in trained:
            p.clear_grad()
        yield from reduce_rows(self.comm, parts, out, tag, add=add)
        for shard, grad in zip(shards, out, strict=True):
            shard.grad, shard.fresh = grad, False

    def _mine(self, whole: Array) -> Array:
        return rows_of(whole, self.comm.size, self.comm.rank)


def _empty(like: Array, shape: tuple[int, ...]) -> Array:
    """An array of `shape` in the memory and of the dtype of `like`."""
    return namespace(like).empty(shape, like.dtype)
