"""`Compressor`: how the gradients of a bucket are summed over the replicas with fewer bytes.

Invariant: a compressor has no state.  What it remembers of a parameter is arrays, its slots, which `Compression` keeps; every
slot is linear in the gradients, so that what one number of replicas remembers can be dealt to another.  All replicas end with
the same bits.

In the formulas p is the number of replicas, n the elements of a parameter, w the bytes of one; bytes are those that a rank
sends in a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from mpitrain.arrays import Array, Stream, namespace
from mpitrain.bounds import check_fields
from mpitrain.comm import Collective, Peers
from mpitrain.comm.allreduce import ring
from mpitrain.nn import Parameter


class Held(Enum):
    """Who holds what of a slot."""

    #: Every replica an array of its own.
    EACH = "each"
    #: Every replica the same.
    ALL = "all"
    #: Every replica its run of rows (dim 0).
    ROWS = "rows"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """An array of `shape` that a compressor remembers of a parameter: zero at the start, or normal numbers of a stream."""

    name: str
    held: Held
    shape: tuple[int, ...]
    start: Stream | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A parameter's part in an exchange: `grad` is this replica's and becomes the sum, `state` has its slots by name."""

    name: str
    grad: Array
    state: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compressor:
    """What all compressors have.  Running statistics, such as batch norm's, are never compressed."""

    def __post_init__(self) -> None:
        check_fields(self)

    def takes(self, parameter: Parameter) -> bool:
        """Whether the parameter's gradient is compressed; by default every one's is."""
        return True

    def slots(self, parameter: Parameter) -> tuple[Slot, ...]:
        """What is remembered of a parameter."""
        return ()

    def exchange(self, peers: Peers, pieces: Sequence[Piece], *, step: int, tag: int) -> Collective:
        """Sum the gradients of `pieces` over the replicas, in place, in step number `step` (the first is 0)."""
        raise NotImplementedError(f"{type(self).__name__} must define exchange()")


def sum_dense(peers: Peers, arrays: Sequence[Array], tag: int) -> Collective:
    """Sum `arrays`, all of one dtype, over the ranks in place, as one message."""
    flat = joined(arrays)
    yield from ring(peers, flat, tag=tag)
    deal(flat, arrays)


def joined(arrays: Sequence[Array]) -> Array:
    """The arrays end to end, in memory of their own."""
    return namespace(arrays[0]).concatenate([x.reshape(-1) for x in arrays])


def deal(flat: Array, arrays: Sequence[Array]) -> None:
    """Overwrite the arrays with what lies end to end in `flat`."""
    start = 0
    for x in arrays:
        x[...] = flat[start : start + x.size].reshape(x.shape)
        start += x.size


def count_of(size: int, density: float) -> int:
    """How many of `size` elements are sent; at least one."""
    return max(1, round(size * density))
