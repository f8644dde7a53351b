"""MPI's own Allreduce: at once, or as a request that goes on when it is asked.

Invariant: a request of MPI is started once all ranks are known to bring the same number of bytes, since it checks nothing and
may crash; a blocking allreduce compares by itself.  All ranks do it at once, or all by request, since MPI does not match the
one with the other.  The sum order is the library's; MPI advises, and the libraries take care, that all ranks get the same bits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np

from mpitrain.arrays import Array
from mpitrain.comm.allreduce.rounding import Algorithm, rounded_once
from mpitrain.comm.collective import Collective, InFlight
from mpitrain.comm.communicator import Communicator, Peers, Reduction, Request


def native(comm: Communicator, x: Array, op: Reduction = Reduction.SUM, tag: int = 0) -> Collective:
    """Combine `x` over all ranks, in place, before the first yield.

    The library picks steps by size and number of ranks itself: a measured α + nβ.  No tag is used.  MPI 4.1, section 6.9.1.
    """
    comm.allreduce(x, op)
    yield from ()


def native_by_request() -> Algorithm[Communicator]:
    """An algorithm, for one communicator, that is `native` while other work goes on.

    By itself it takes longer (Open MPI 5: 1.5 to 3 times).  Collectives of a communicator match in the order in which they are
    started, so each waits until all before it have compared sizes; large arrays are combined in chunks that are all started at
    once.  MPI 4.1, section 6.12.8.
    """
    line: deque[_Turn] = deque()
    lock = threading.Lock()

    @rounded_once
    def by_request(comm: Communicator, x: Array, op: Reduction, tag: int) -> Collective:
        turn = _Turn(line, lock, InFlight(_same_size(comm, x.nbytes, tag)), partial(comm.iallreduce, x, op))
        line.append(turn)
        yield turn
        assert turn.started is not None
        yield turn.started

    return by_request


class _Turn:
    """A request that is done once `start` was called: after the `sizes` of this one and of all before it in `line`."""

    def __init__(self, line: deque[_Turn], lock: threading.Lock, sizes: InFlight, start: Callable[[], Request]) -> None:
        self._line, self._lock, self._sizes, self._start = line, lock, sizes, start
        self.started: Request | None = None

    def done(self) -> bool:
        if self._lock.acquire(blocking=False):
            try:
                self._go(InFlight.advance)
            finally:
                self._lock.release()
        return self.started is not None

    def wait(self) -> None:
        while self.started is None:
            with self._lock:
                self._go(InFlight.wait)

    def _go(self, step: Callable[[InFlight], bool]) -> None:
        while self.started is None and step(self._line[0]._sizes):
            first = self._line.popleft()
            first.started = first._start()


def _same_size(comm: Peers, nbytes: int, tag: int) -> Collective:
    """`ValueError` on every rank if two of them bring different numbers of bytes.

    In round k, each hears from the rank 2^k before it what the least and the most of 2^k ranks are, and whose.
    """
    least = most = (nbytes, comm.rank)
    distance = 1
    while distance < comm.size:
        theirs, mine = np.empty(4, np.int64), np.array([*least, *most], np.int64)
        arriving = comm.irecv(theirs, (comm.rank - distance) % comm.size, tag)
        leaving = comm.isend(mine, (comm.rank + distance) % comm.size, tag)
        yield arriving
        a, b, c, d = theirs.tolist()
        least, most = min(least, (a, b)), max(most, (c, d))
        yield leaving
        distance *= 2
    if least[0] != most[0]:
        raise ValueError(
            f"rank {least[1]} combines {least[0]} bytes where rank {most[1]} combines {most[0]} (tag {tag}); "
            "every rank must hand over the same shape and dtype"
        )
