"""Data parallelism: the actions ARM and REDUCE, the sum of a stage's gradients over its replicas while backward still runs.

Invariant: replicas start their buckets in the same order, each once all its gradients are complete, so the messages of all
replicas match whatever each of them computes first; the sum is over replicas only, what it is divided by is decided once, in
the tally.  In the first step nothing overlaps: it shows in which order gradients become ready on the first replica, which the
buckets of all replicas follow, and after how many contributions.  A gradient that had none in it has no such number: its bucket
is summed last, after backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import accumulate
from math import inf
from typing import TypeVar

import numpy as np

from mpitrain.arrays import Arrays
from mpitrain.autograd import Weight
from mpitrain.comm import Collective, Communicator, InFlight, Reduction
from mpitrain.comm.allreduce import Allreduce, ring
from mpitrain.nn import Parameter
from mpitrain.parallel.buckets import Bucket, Readiness, group_by_bytes, kept_bucket, readiness
from mpitrain.program import Action, Watch

T = TypeVar("T")

#: Starts the sum of a bucket over the replicas, in place.
Exchange = Callable[[Bucket], Collective]

#: Makes a bucket of a number and some parameters.
MakeBucket = Callable[[int, Sequence[Parameter], Arrays], Bucket]


def sum_over(comm: Communicator) -> Exchange:
    """The plain exchange: every replica gets the sum."""

    def exchange(bucket: Bucket) -> Collective:
        return ring(comm, bucket.flat, tag=bucket.index)

    return exchange


def sum_by(allreduce: Allreduce) -> Exchange:
    """As `sum_over`, by the algorithm that `allreduce` takes."""
    return lambda bucket: allreduce(bucket.flat, tag=bucket.index)


class DataParallel:
    """ARM and REDUCE for the stages of a rank; `exchange` is `None` where there is one replica.

    `make_bucket` is `kept_bucket`, or `passing_bucket` where an exchange takes the gradients away.
    """

    def __init__(
        self,
        stages: Mapping[int, Sequence[Parameter]],
        exchange: Exchange | None,
        arrays: Arrays,
        dtype: np.dtype,
        *,
        replicas: Communicator,
        bucket_bytes: int,
        make_bucket: MakeBucket = kept_bucket,
        watch: Watch = nullcontext,
    ) -> None:
        def buckets(first: int, parameters: Sequence[Parameter]) -> list[Bucket]:
            groups = group_by_bytes(parameters, bucket_bytes, dtype)
            return [make_bucket(number, group, arrays) for number, group in enumerate(groups, first)]

        # A bucket's number is its messages' tag, which MPI may bound by 32767.  A stage has no more buckets than parameters.
        firsts = accumulate(map(len, stages.values()), initial=0)
        self.stages = {
            stage: _StageGradients(parameters, exchange, partial(buckets, first), replicas, watch)
            for (stage, parameters), first in zip(stages.items(), firsts, strict=False)
        }

    @property
    def bucket_sizes(self) -> list[int]:
        """Bytes of each bucket that is kept."""
        buckets = [bucket for stage in self.stages.values() for bucket in stage.buckets]
        return [bucket.flat.nbytes for bucket in buckets if bucket.flat is not None]

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
        self,
        parameters: Sequence[Parameter],
        exchange: Exchange | None,
        fill_buckets: Callable[[Sequence[Parameter]], list[Bucket]],
        replicas: Communicator,
        watch: Watch,
    ) -> None:
        self.parameters, self.exchange, self.fill_buckets = parameters, exchange, fill_buckets
        self.replicas, self.watch = replicas, watch
        self.buckets = fill_buckets(parameters)
        self.armed = False
        #: The most contributions that a gradient had between two exchanges of the first step, and whether this is still it.
        self.expected: dict[Parameter, int] = {}
        self.learning = True
        self.seen: list[Parameter] = []
        self.missing: dict[Parameter, float] = {}
        self.started = 0
        self.in_flight: list[tuple[Bucket, InFlight]] = []

    def arm(self) -> None:
        if self.exchange is None:
            return
        if self.armed:  # where every microbatch's gradients are taken away: the last one's are
            self._complete()
        self.armed = True
        for parameter in self.parameters:
            self.missing[parameter] = self.expected.get(parameter, 0)
            if parameter.trained:  # what forward passes observe says nothing of backward
                self.missing[parameter] = self.missing[parameter] or inf
                parameter.on_grad = self._contributed

    def finish(self) -> None:
        self.armed = False
        for parameter in self.parameters:
            parameter.on_grad = None
        if self.exchange is None:
            for bucket in self.buckets:
                bucket.settle()
            return
        self._complete()
        self.learning = False

    def _complete(self) -> None:
        """Start what has not started (in the first step, everything), and wait for all of it."""
        if self.learning:
            self._learn()
        self._start(len(self.buckets))
        for bucket, exchange in self.in_flight:
            with self.watch(f"the sum over replicas of {bucket}"):
                while not _go(bucket, exchange.wait):
                    self.advance()  # the network has the others' messages to carry meanwhile
        self.in_flight.clear()
        self.started = 0

    def _learn(self) -> None:
        """From what has been seen: the buckets, once, and how many contributions there can be."""
        found = _agreed(readiness(self.parameters, self.seen), self.parameters, self.replicas)
        self.seen.clear()
        if not self.expected:
            self.buckets = self.fill_buckets(found.order)
        # The most, as the stages of a rank that share a weight need not contribute to it in turn.
        self.expected = {p: max(count, self.expected.get(p, 0)) for p, count in found.contributions.items()}

    def advance(self) -> None:
        for bucket, exchange in tuple(self.in_flight):  # a copy, as another thread may come by
            _go(bucket, exchange.advance)

    def _contributed(self, weight: Weight) -> None:
        assert isinstance(weight, Parameter)
        if self.learning:
            self.seen.append(weight)
            return
        self.missing[weight] -= 1
        if self.missing[weight] < 0:
            expected = self.expected[weight]
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
        for bucket in self.buckets[self.started : stop]:
            if bucket.flat is not None:
                bucket.settle()
            self.in_flight.append((bucket, _go(bucket, partial(self._exchange, bucket))))
        self.started = max(self.started, stop)

    def _exchange(self, bucket: Bucket) -> InFlight:
        assert self.exchange is not None
        return InFlight(self.exchange(bucket))


def _go(bucket: Bucket, step: Callable[[], T]) -> T:
    """Take a step of the bucket's exchange; an exception says whose it was, once."""
    try:
        return step()
    except Exception as error:
        note = f"in the sum over replicas of {bucket}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


def _agreed(found: Readiness, parameters: Sequence[Parameter], replicas: Communicator) -> Readiness:
    """The first replica's order, with the most contributions that any replica had: their graphs may differ.  Collective."""
    number = {parameter: i for i, parameter in enumerate(parameters)}
    order = np.array([number[p] for p in found.order], np.int64)
    counts = np.array([found.contributions[p] for p in parameters], np.int64)
    replicas.broadcast(order, 0)
    replicas.allreduce(counts, Reduction.MAX)
    contributions = dict(zip(parameters, counts.tolist(), strict=True))
    return Readiness(order=tuple(parameters[i] for i in order), contributions=contributions)
