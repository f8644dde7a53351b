"""Hierarchical: the ranks of a host combine through memory that they share, and hosts by messages between their leaders.

Invariant: each element is combined on one rank of each host, then on one rank of all, and copied to the rest, so all ranks get
the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from mpitrain.arrays import Array, sum_dtype, to_host
from mpitrain.comm.allreduce.ring import ring
from mpitrain.comm.collective import Collective, finish
from mpitrain.comm.communicator import COMBINE, Communicator, Peers, Reduction
from mpitrain.comm.shared import shared_memory
from mpitrain.comm.staging import fill

#: Elements that are combined at a time: of all ranks' arrays, they fit in a core's cache.
_BLOCK = 1 << 15

#: Bytes that are copied into shared memory at a time, of arrays that are not there already.
_STAGE_BYTES = 1 << 20


class Hierarchical:
    """The allreduce of `comm`, whose ranks are on one or more hosts; an `Algorithm`.

    `host` is the part of `comm` that shares this rank's memory, by default what MPI says.  Collective.
    `ValueError` if ranks of a host have no way to share memory.
    """

    def __init__(self, comm: Communicator, host: Communicator | None = None) -> None:
        self.comm, self.host = comm, comm.same_host() if host is None else host
        fewest = np.array([self.host.size])
        comm.allreduce(fewest, Reduction.MIN)
        #: Ranks of each host that exchange with other hosts, each its share of the array.
        self.leaders = int(fewest[0])
        numbers = comm.allgather(np.array(self.host.rank)).tolist()
        self.across = comm.group([rank for rank, number in enumerate(numbers) if number == self.host.rank])
        self._names = self.host.allgather(np.array(comm.rank)).tolist()
        self._others: dict[int, list[np.ndarray]] = {}  # the other ranks' parts of a memory, by the address of this rank's
        self._stages: dict[int, list[np.ndarray]] = {}  # by tag
        able = np.array([shared_memory(self.host, 1) is not None], np.int64)
        comm.allreduce(able, Reduction.MIN)
        if not able[0]:
            raise ValueError("ranks of one host cannot share memory here; choose the allreduce native, ring or halving")

    def memory(self, count: int, dtype: DTypeLike) -> np.ndarray:
        """A flat array of zeros that is combined where it is, without a copy into shared memory and back.  Collective."""
        parts = self._share(count * np.dtype(dtype).itemsize)
        mine = parts.pop(self.host.rank)
        self._others[_address(mine)] = [part.view(dtype) for part in parts]
        weakref.finalize(mine, self._others.pop, _address(mine))
        return mine.view(dtype)

    def __call__(self, comm: Peers, x: Array, op: Reduction = Reduction.SUM, tag: int = 0) -> Collective:
        """Combine the flat array `x` over all ranks, in place.

        Of h ranks on a host, the first l (as many as the host with the fewest has) combine a share of n/l bytes each, read
        from the memory of all h; rings of the hosts' equal-numbered ranks combine the shares over the H hosts; each writes
        the result into the memory of all h.  2 ceil(log2 h) α + hn/l σ, and 2(H-1)α + 2(H-1)/H n/l β + (H-1)/H n/l γ if H > 1,
        with σ the seconds to read, combine and write a byte of one rank; n is read and written once more, in pieces, where `x`
        is not from `memory`.  A share is combined in the order of the host's ranks from its owner on, then as `ring` does.
        One leader a host in Rabenseifner, Hager and Jost 2009, "Hybrid MPI/OpenMP parallel programming"; several in Bayatpour
        et al. 2017, "Scalable reduction collectives with data partitioning-based multi-leader design".
        """
        assert comm is self.comm
        others = self._others.get(_address(x)) if isinstance(x, np.ndarray) else None
        if others is not None:
            parts = [part[: len(x)] for part in others]
            parts.insert(self.host.rank, x)
            yield from self._combine(parts, op, tag, x.nbytes)
            return
        if tag not in self._stages:
            finish(self._meet(tag, x.nbytes))  # a rank that brings another size may not come to what follows
            self._stages[tag] = self._share(_STAGE_BYTES)
        parts = [part.view(x.dtype) for part in self._stages[tag]]
        for start in range(0, max(1, len(x)), len(parts[0])):
            piece = x[start : start + len(parts[0])]
            views = [part[: len(piece)] for part in parts]
            mine = views[self.host.rank]
            mine[...] = to_host(piece)
            yield from self._combine(views, op, tag, x.nbytes)
            fill(piece, mine)

    def _share(self, nbytes: int) -> list[np.ndarray]:
        everyone = shared_memory(self.host, nbytes)
        assert everyone is not None, "the ranks of this host have shared memory before"
        return everyone

    def _combine(self, parts: Sequence[np.ndarray], op: Reduction, tag: int, nbytes: int) -> Collective:
        """Combine the arrays of this host's ranks with each other, and with those of other hosts."""
        yield from self._meet(tag, nbytes)
        rank, count = self.host.rank, len(parts[0])
        if rank < self.leaders:
            blocks = list(_blocks(count * rank // self.leaders, count * (rank + 1) // self.leaders))
            order = [*parts[rank:], *parts[:rank]]
            if self.across.size == 1:
                for block in blocks:
                    self._spread(_combined(order, block, op), parts, block, op)
            elif blocks:
                first, last = blocks[0].start, blocks[-1].stop
                total = np.empty(last - first, sum_dtype(parts[0].dtype))
                for block in blocks:
                    total[block.start - first : block.stop - first] = _combined(order, block, op)
                yield from ring(self.across, total, Reduction.SUM if op is Reduction.MEAN else op, tag)
                for block in blocks:
                    self._spread(total[block.start - first : block.stop - first], parts, block, op)
        yield from self._meet(tag, nbytes)

    def _spread(self, total: np.ndarray, parts: Sequence[np.ndarray], block: slice, op: Reduction) -> None:
        if op is Reduction.MEAN:
            total /= self.comm.size
        for part in parts:
            if not np.may_share_memory(part[block], total):
                part[block] = total

    def _meet(self, tag: int, nbytes: int) -> Collective:
        """Go on when all ranks of this host have come here: in round k, each rank hears from the one 2^k before it.

        Hensgen, Finkel and Manber 1988, "Two algorithms for barrier synchronization".
        """
        rank, size = self.host.rank, self.host.size
        mine, distance = np.array([nbytes]), 1
        while distance < size:
            theirs, source = np.empty_like(mine), (rank - distance) % size
            arriving = self.host.irecv(theirs, source, tag)
            leaving = self.host.isend(mine, (rank + distance) % size, tag)
            yield arriving
            if theirs[0] != nbytes:
                raise ValueError(
                    f"rank {self._names[source]} combines {theirs[0]} bytes where rank {self._names[rank]} combines {nbytes} "
                    f"(tag {tag}); every rank must hand over the same shape and dtype"
                )
            yield leaving
            distance *= 2


def _combined(order: Sequence[np.ndarray], block: slice, op: Reduction) -> np.ndarray:
    """The block of the first of `order`, combined with those of the others; in its place, unless it has 16-bit floats."""
    total = order[0][block].astype(sum_dtype(order[0].dtype), copy=False)
    for part in order[1:]:
        COMBINE[op](total, part[block].astype(total.dtype, copy=False), out=total)
    return total


def _blocks(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, _BLOCK):
        yield slice(first, min(first + _BLOCK, stop))


def _address(x: np.ndarray) -> int:
    return int(x.__array_interface__["data"][0])
