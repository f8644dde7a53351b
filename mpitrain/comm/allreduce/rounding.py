"""What every algorithm leaves to one place: 16-bit floats are combined in float32, and the mean is a sum that is divided.

Invariant: an algorithm below sees a type that adds as it is, and a result is rounded to the array's own type once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Protocol, TypeVar

from mpitrain.arrays import Array, sum_dtype
from mpitrain.comm.collective import Collective
from mpitrain.comm.communicator import Peers, Reduction

#: What an algorithm asks of the ranks: `Peers`, or the whole of `Communicator`.
C = TypeVar("C", bound=Peers, contravariant=True)


class Algorithm(Protocol[C]):
    """Combines the flat array `x` over all ranks of `comm`, in place, and leaves the same bits on all of them.

    Several may be under way at once, each with a `tag` of its own.  Where a rank brings another number of bytes than its
    neighbours, one that finds out raises `ValueError` naming the other.
    """

    def __call__(self, comm: C, x: Array, op: Reduction = Reduction.SUM, tag: int = 0) -> Collective:
        """Start it."""
        ...


def rounded_once(combine: Callable[[C, Array, Reduction, int], Collective]) -> Algorithm[C]:
    """`combine`, which needs to know neither 16-bit floats nor the mean, as an `Algorithm`."""

    @wraps(combine)
    def algorithm(comm: C, x: Array, op: Reduction = Reduction.SUM, tag: int = 0) -> Collective:
        total = x.astype(sum_dtype(x.dtype), copy=False)
        if comm.size > 1:
            yield from combine(comm, total, Reduction.SUM if op is Reduction.MEAN else op, tag)
        if op is Reduction.MEAN:
            total /= comm.size
        if total is not x:
            x[...] = total.astype(x.dtype)

    return algorithm
