"""Data parallelism: the actions ARM and REDUCE, the sum of a stage's gradients over its replicas while backward still runs.

Invariant: replicas start their buckets in the same order, each once all its gradients are complete, so the messages of all
replicas match whatever each of them computes first; the sum is over replicas only, what it is divided by is decided once, in
the tally.  In the first step nothing overlaps: it shows in which order gradients become ready, and the buckets follow that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mpitrain.arrays import Arrays
from mpitrain.autograd import Weight
from mpitrain.comm import Collective, InFlight
from mpitrain.nn import Parameter
from mpitrain.parallel.buckets import Bucket, Readiness, fill_buckets, readiness
from mpitrain.program.action import Action

#: Starts the sum of a bucket over the replicas, in place.
Exchange = Callable[[Bucket], Collective]


class DataParallel:
    """ARM and REDUCE for the stages of a rank; `exchange` is `None` where there is one replica."""

    def __init__(
        self, stages: Mapping[int, Sequence[Parameter]], exchange: Exchange | None, arrays: Arrays, *, bucket_bytes: int
    ) -> None:
        self.stages = {
            stage: _StageGradients(parameters, exchange, arrays, bucket_bytes, stage) for stage, parameters in stages.items()
        }

    def arm(self, action: Action) -> None:
        """ARM: from here on, each contribution may complete a gradient."""
        self.stages[action.stage].arm()

    def reduce(self, action: Action) -> None:
        """REDUCE: wait until the stage's gradients are summed."""
        self.stages[action.stage].finish()

    def advance(self) -> None:
        """Go on with what is under way, as far as messages have arrived."""
        for stage in self.stages.values():
            stage.advance()


class _StageGradients:
    """The gradients of one stage and the exchanges of their buckets that are under way."""

    def __init__(
        self, parameters: Sequence[Parameter], exchange: Exchange | None, arrays: Arrays, bucket_bytes: int, stage: int
    ) -> None:
        self.parameters, self.exchange, self.arrays, self.bucket_bytes = parameters, exchange, arrays, bucket_bytes
        # A message is told apart by its bucket's number, so the stages of a rank number theirs apart.
        self.first_index = stage << 12
        self.buckets = fill_buckets(parameters, bucket_bytes, arrays, self.first_index)
        self.learnt: Readiness | None = None
        self.seen: list[Parameter] = []
        self.missing: dict[Parameter, int] = {}
        self.started = 0
        self.in_flight: list[InFlight] = []

    def arm(self) -> None:
        if self.exchange is None:
            return
        self.seen.clear()
        self.missing = dict(self.learnt.contributions) if self.learnt else {}
        for parameter in self.parameters:
            parameter.on_grad = self._contributed

    def finish(self) -> None:
        """Start what has not started (in the first step, everything), and wait for all of it."""
        for parameter in self.parameters:
            parameter.on_grad = None
        if self.exchange is None:
            for bucket in self.buckets:
                bucket.settle()
            return
        if self.learnt is None:
            self.learnt = readiness(self.parameters, self.seen)
            self.buckets = fill_buckets(self.learnt.order, self.bucket_bytes, self.arrays, self.first_index)
        self._start(len(self.buckets))
        for exchange in self.in_flight:
            exchange.finish()
        self.in_flight.clear()
        self.started = 0

    def advance(self) -> None:
        for exchange in self.in_flight:
            exchange.advance()

    def _contributed(self, weight: Weight) -> None:
        assert isinstance(weight, Parameter)
        self.seen.append(weight)
        if self.learnt is None:
            return
        self.missing[weight] -= 1
        if self.missing[weight] < 0:
            expected = self.learnt.contributions[weight]
            raise ValueError(
                f"parameter {weight.name} has had {expected + 1} contributions to its gradient in a backward pass where the "
                f"first step had {expected}: its sum is already under way; a model whose graph changes needs overlap = false"
            )
        ready = self.started
        while ready < len(self.buckets) and not any(self.missing[p] for p in self.buckets[ready].parameters):
            ready += 1
        self._start(ready)
        self.advance()

    def _start(self, stop: int) -> None:
        """Start the buckets up to number `stop`."""
        assert self.exchange is not None
        for bucket in self.buckets[self.started : stop]:
            bucket.settle()
            self.in_flight.append(InFlight(self.exchange(bucket)))
        self.started = max(self.started, stop)
