"""What the rest of the package may ask of a group of ranks; `mpi` and `local` answer it.

Invariant: only arrays travel, never pickled objects, and an array that is handed over may live on a device: the communicator
synchronises and stages where its library cannot read device memory.  Collectives are called by every rank of the group, in
the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol, TypeVar

import numpy as np

from mpitrain.arrays import Array

T = TypeVar("T")


class Reduction(Enum):
    """How an allreduce combines elements."""

    SUM = "sum"
    #: The sum divided by the number of ranks; of floating-point numbers.
    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    PRODUCT = "product"


#: The element-wise function of each reduction, for host and device arrays alike.
COMBINE = {
    Reduction.SUM: np.add,
    Reduction.MEAN: np.add,
    Reduction.MAX: np.maximum,
    Reduction.MIN: np.minimum,
    Reduction.PRODUCT: np.multiply,
}


class Request(Protocol):
    """A transfer under way."""

    def done(self) -> bool:
        """Whether it has completed; asking makes progress."""
        ...

    def wait(self) -> None:
        """Return once it has completed: the array has arrived, or may be written again."""
        ...


class Peers(Protocol):
    """A group of ranks that send each other messages, as one of its members sees it: all that a `Collective` needs."""

    rank: int
    size: int

    def isend(self, x: Array, dest: int, tag: int) -> Request:
        """Start sending the array `x`, which must stay unchanged until the request is done."""
        ...

    def irecv(self, x: Array, source: int, tag: int) -> Request:
        """Start receiving into the array `x` of exactly the sent shape and dtype.

        `wait` and `done` raise `ValueError` if another came; processes see only another number of bytes.
        """
        ...


class Communicator(Peers, Protocol):
    """A group of ranks that act together.

    What cannot travel or be combined is refused, by `ValueError`, and so are, on every rank, collectives that do not go
    together: other ones, or of another shape or dtype.
    """

    #: Whether the time that a message takes says anything about a machine: not where ranks are threads of one process.
    timed: bool
    #: Whether several threads of a rank may communicate at once.
    concurrent: bool

    def allreduce(self, x: Array, op: Reduction = Reduction.SUM) -> None:
        """Combine `x` over all ranks, in place, any size; 16-bit floats are combined in float32 and rounded once.

        What is not a number on one rank is none in the result.
        """
        ...

    def iallreduce(self, x: Array, op: Reduction = Reduction.SUM) -> Request:
        """Start to combine `x`, in place; it must be left alone until the request is done.

        Not for 16-bit floats, nor for the mean.  Started in the same order on every rank, with as many bytes: before they are
        combined nobody compares.
        """
        ...

    def broadcast(self, x: Array, root: int) -> None:
        """Overwrite `x` with the root's."""
        ...

    def allgather(self, x: Array) -> Array:
        """The `x` of every rank, all of one shape and dtype, stacked: shape (size, *x.shape)."""
        ...

    def barrier(self) -> None:
        """Return when every rank has come here."""
        ...

    def group(self, ranks: Sequence[int]) -> Communicator:
        """The communicator of `ranks` of this group, in that order.  Called by every rank of this group, each with the group
        that it belongs to (the groups of one call are disjoint).
        """
        ...

    def same_host(self) -> Communicator:
        """The communicator of the ranks that share this rank's host memory."""
        ...

    @property
    def max_tag(self) -> int:
        """The largest tag that a message may carry."""
        ...


class World(Protocol):
    """All ranks of a job, of which this process runs one (`mpi`) or all (`local`)."""

    size: int

    @property
    def leads(self) -> bool:
        """Whether this process runs rank 0, whose word stands for all."""
        ...

    def run(self, function: Callable[[Communicator], T]) -> list[T]:
        """Call `function` for every rank that this process runs and return the results in rank order."""
        ...
