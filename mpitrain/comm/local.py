"""`local`: a world whose ranks are threads of this process, for tests, for teaching, and to try a layout without MPI.

Invariant: a program that is right here is right under MPI: messages match by (source, tag) in order, collectives are called by
all.  Beyond that, reductions combine in rank order, so that a run repeats bit for bit.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mpitrain.arrays import Array, namespace, sum_dtype
from mpitrain.comm.accepted import (
    check_array,
    check_group,
    check_message,
    check_rank,
    check_reduction,
    check_started,
    described,
    disagreement,
)
from mpitrain.comm.communicator import COMBINE, Communicator, Reduction, Request, T
from mpitrain.comm.post import Channel, PeerGoneError, Post
from mpitrain.comm.staging import fill, staged


def local(size: int, *, latency: float = 0.0, limit_s: float = 60.0, deaths: Mapping[int, int] | None = None) -> LocalWorld:
    """A world of `size` ranks in this process.

    A message is visible to its receiver `latency` seconds after it was sent.  A wait longer than `limit_s` raises
    `TimeoutError`.  `deaths` maps a rank to the number of sends, receives and collectives that it starts before it dies.
    """
    if size < 1:
        raise ValueError(f"a local world of {size} ranks; expected at least 1")
    return LocalWorld(Post(size=size, latency=latency, limit_s=limit_s, deaths=dict(deaths or {})))


class LocalWorld:
    """See `local`.  The communicators are the same ones in every `run`."""

    leads = True

    def __init__(self, post: Post) -> None:
        self.size = post.size
        self._post = post
        self._members = [LocalCommunicator(post, "world", range(post.size), rank) for rank in range(post.size)]

    def kill(self, rank: int) -> None:
        """Let `rank` die at its next operation, or in the one that it is blocked in."""
        with self._post.changed:
            self._post.deaths[rank] = 0
            self._post.changed.notify_all()

    def run(self, function: Callable[[Communicator], T]) -> list[T]:
        """Call `function` for every rank, each in a thread of its own, and return the results in rank order.

        The first failure of a rank that is not merely the loss of a peer is raised, with a note that names the rank.  After a
        failure the world has ended, as a job would.
        """
        if self._post.failures:
            raise RuntimeError(f"rank {self._post.failures[0][0]} of this local world has failed; make a new world")
        self._post.gone.clear()
        results: dict[int, T] = {}

        def main(comm: LocalCommunicator) -> None:
            try:
                results[comm.rank] = function(comm)
                self._post.leave(comm.rank, "has returned")
            except BaseException as error:
                self._post.fail(comm.rank, error)

        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(main, comm), name=f"rank {comm.rank}", daemon=True)
            for comm in self._members
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as interrupt:  # Ctrl-C reaches the main thread only: let the ranks end too
            for comm in self._members:
                self._post.fail(comm.rank, interrupt)
            raise
        failures = self._post.failures
        if failures:
            rank, first = next((f for f in failures if not isinstance(f[1], PeerGoneError)), failures[0])
            first.add_note(f"on rank {rank} of {self.size}")
            raise first
        return [results[rank] for rank in range(self.size)]


class _Sent:
    """A send under way: the message was copied, so there is nothing to wait for."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        return


class _Receive:
    """A receive under way."""

    def __init__(self, post: Post, channel: Channel, x: Array) -> None:
        self._post, self._channel, self._x = post, channel, x
        self._number = post.ask(channel)
        self._complete = False

    def done(self) -> bool:
        if not self._complete:
            with self._post.changed:
                arrived = self._post.arrived(self._channel, self._number)
            if arrived:
                self.wait()
        return self._complete

    def wait(self) -> None:
        if self._complete:
            return
        _check_and_fill(self._x, self._post.take(self._channel, self._number).array, self._channel)
        self._complete = True


def _check_and_fill(x: Array, sent: np.ndarray, channel: Channel) -> None:
    if x.shape != sent.shape or x.dtype != sent.dtype:
        _, source, rank, tag = channel
        raise ValueError(
            f"rank {rank} receives {x.dtype} {tuple(x.shape)} where rank {source} sent {sent.dtype} {sent.shape} "
            f"({'in a collective' if tag is None else f'tag {tag}'}); both ends must name the same shape and dtype"
        )
    fill(x, sent)


class LocalCommunicator:
    """A `Communicator` whose peers are threads; `members` are the group's ranks by their numbers in the world."""

    max_tag = 2**31 - 1
    timed = False
    concurrent = True

    def __init__(self, post: Post, name: str, members: Sequence[int], rank: int) -> None:
        self.rank = rank
        self.size = len(members)
        self._post, self._name, self._members = post, name, tuple(members)
        self._splits = 0

    def isend(self, x: Array, dest: int, tag: int) -> Request:
        """As `Communicator.isend`; the message is copied at once, so the request is done."""
        check_message(self, x, dest, tag, self.max_tag)
        self._post.start_operation(self._members[self.rank])
        self._post.put(self._channel(self.rank, dest, tag), staged(x).copy(), "send")
        return _Sent()

    def irecv(self, x: Array, source: int, tag: int) -> Request:
        """As `Communicator.irecv`."""
        check_message(self, x, source, tag, self.max_tag)
        self._post.start_operation(self._members[self.rank])
        return _Receive(self._post, self._channel(source, self.rank, tag), x)

    def allreduce(self, x: Array, op: Reduction = Reduction.SUM) -> None:
        """As `Communicator.allreduce`, in rank order."""
        check_reduction(x, op)
        self._combining(x, op).wait()

    def iallreduce(self, x: Array, op: Reduction = Reduction.SUM) -> Request:
        """As `Communicator.iallreduce`."""
        check_started(x, op)
        return self._combining(x, op)

    def broadcast(self, x: Array, root: int) -> None:
        """As `Communicator.broadcast`."""
        check_array(x)
        check_rank(self, root)
        message = staged(x) if self.rank == root else np.empty(0)
        fill(x, self._exchange(message, described(f"broadcast({root})", x))[root])

    def allgather(self, x: Array) -> Array:
        """As `Communicator.allgather`."""
        check_array(x)
        parts = self._exchange(staged(x), described("allgather", x))
        out = namespace(x).empty((self.size, *x.shape), x.dtype)
        fill(out, np.stack(parts))
        return out

    def barrier(self) -> None:
        """As `Communicator.barrier`."""
        self._exchange(np.empty(0), "barrier")

    def group(self, ranks: Sequence[int]) -> LocalCommunicator:
        """As `Communicator.group`."""
        check_group(self.rank, list(ranks))
        self._splits += 1
        members = [self._members[rank] for rank in ranks]
        return LocalCommunicator(self._post, f"{self._name}.{self._splits}{members}", members, list(ranks).index(self.rank))

    def same_host(self) -> LocalCommunicator:
        """As `Communicator.same_host`: everyone."""
        return self.group(range(self.size))

    def _combining(self, x: Array, op: Reduction) -> Request:
        kind = described(f"allreduce({op.value})", x)
        return _Combining(self, self._post_all(staged(x), kind), x, op, kind)

    def _channel(self, source: int, dest: int, tag: int | None) -> Channel:
        return self._name, self._members[source], self._members[dest], tag

    def _exchange(self, x: np.ndarray, kind: str) -> list[np.ndarray]:
        """The `x` of every rank, none of which may be written to; raises where another `kind` was called."""
        return self._collect_all(self._post_all(x, kind), kind)

    def _post_all(self, x: np.ndarray, kind: str) -> list[tuple[Channel, int]]:
        """Send `x` to every rank; which messages will hold theirs."""
        self._post.start_operation(self._members[self.rank])
        message = x.copy()
        for peer in range(self.size):
            self._post.put(self._channel(self.rank, peer, None), message, kind)
        channels = [self._channel(peer, self.rank, None) for peer in range(self.size)]
        return [(channel, self._post.ask(channel)) for channel in channels]

    def _collect_all(self, tickets: list[tuple[Channel, int]], kind: str) -> list[np.ndarray]:
        return [self._collect(peer, kind, ticket) for peer, ticket in enumerate(tickets)]

    def _collect(self, source: int, kind: str, ticket: tuple[Channel, int]) -> np.ndarray:
        message = self._post.take(*ticket)
        if message.kind != kind:
            raise ValueError(disagreement(self.rank, kind, source, message.kind))
        return message.array


class _Combining:
    """A reduction under way: everyone's part was sent, and is combined in rank order once all are there."""

    def __init__(self, comm: LocalCommunicator, tickets: list[tuple[Channel, int]], x: Array, op: Reduction, kind: str) -> None:
        self._comm, self._tickets, self._x, self._op, self._kind = comm, tickets, x, op, kind
        self._complete = False

    def done(self) -> bool:
        if not self._complete:
            with self._comm._post.changed:
                arrived = all(self._comm._post.arrived(channel, number) for channel, number in self._tickets)
            if arrived:
                self.wait()
        return self._complete

    def wait(self) -> None:
        if self._complete:
            return
        x, op = self._x, self._op
        parts = self._comm._collect_all(self._tickets, self._kind)
        total = parts[0].astype(sum_dtype(x.dtype))
        with np.errstate(all="ignore"):  # infinity and NaN come out as they do in MPI, without a word
            for part in parts[1:]:
                COMBINE[op](total, part.astype(total.dtype, copy=False), out=total)
        if op is Reduction.MEAN:
            total /= self._comm.size
        fill(x, total.astype(x.dtype, copy=False))
        self._complete = True
