"""What an allreduce costs: formulas over a few measured constants, and the choices that follow from them.

Invariant: a choice depends on its arguments alone, so ranks with the same constants choose the same.
α (s) is the latency of a message, β (s/byte) its transfer, γ (s/byte) the combination of two arrays; n bytes on p ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A time that grows with size: `alpha` + n `beta` seconds for n bytes."""

    alpha: float
    beta: float

    def __call__(self, nbytes: float) -> float:
        """Seconds for `nbytes`."""
        return self.alpha + nbytes * self.beta


@dataclass(frozen=True, kw_only=True, slots=True)
class Constants:
    """What was measured of a communicator of `p` ranks on `hosts` hosts."""

    p: int
    #: A message to the right-hand neighbour while one comes from the left.
    message: Line
    #: Seconds to combine a byte.
    gamma: float
    #: MPI's own allreduce, as a whole.
    native: Line
    #: Seconds to read, combine and write a byte of one rank in shared memory; `None` where there is none.
    sigma: float | None = None
    hosts: int = 1
    #: Ranks on the host with the most, and with the fewest.
    most: int = 1
    fewest: int = 1

    def of_one_kind(self, other: Constants) -> bool:
        """Whether both are of as many ranks, on hosts that have as many of them, with or without shared memory."""
        ranks = [(c.p, c.hosts, c.most, c.fewest, c.sigma is None) for c in (self, other)]
        return ranks[0] == ranks[1]


def _native(c: Constants, n: float) -> float:
    return c.native(n)


def _ring(c: Constants, n: float, p: int | None = None) -> float:
    p = p or c.p
    share = (p - 1) / p * n
    return 2 * (p - 1) * c.message.alpha + 2 * share * c.message.beta + share * c.gamma


def _halving(c: Constants, n: float) -> float:
    core = 1 << (c.p.bit_length() - 1)
    share = (core - 1) / core * n
    powers = 2 * math.log2(core) * c.message.alpha + 2 * share * c.message.beta + share * c.gamma
    return powers + (2 * c.message(n) + n * c.gamma if core < c.p else 0.0)


def _hierarchical(c: Constants, n: float) -> float:
    if c.sigma is None:
        return math.inf
    host = 2 * math.ceil(math.log2(c.most)) * c.message.alpha + c.most * n / c.fewest * c.sigma
    return host + (_ring(c, n / c.fewest, c.hosts) if c.hosts > 1 else 0.0)


#: Seconds that each algorithm takes for n bytes; the formulas are derived in the algorithms' own files.
COSTS: dict[str, Callable[[Constants, float], float]] = {
    "native": _native,
    "ring": _ring,
    "halving": _halving,
    "hierarchical": _hierarchical,
}

#: What formulas and short measurements cannot tell apart.
MARGIN = 1.1

#: Latency may take this part of a bucket's time.
LATENCY_SHARE = 0.05

#: Buckets are no smaller, so that a model's small weights share one, and no larger, so that there is something to overlap.
SMALLEST_BUCKET, LARGEST_BUCKET = 1 << 18, 1 << 25


def choose(constants: Constants, nbytes: float, among: Collection[str] = tuple(COSTS)) -> str:
    """The first algorithm in `COSTS` that takes no more than `MARGIN` times the least for `nbytes`."""
    costs = {name: COSTS[name](constants, nbytes) for name in COSTS if name in among}
    return next(name for name, cost in costs.items() if cost <= MARGIN * min(costs.values()))


def bucket_bytes(constants: Constants, among: Collection[str] = tuple(COSTS)) -> int:
    """The size from which on latency is less than `LATENCY_SHARE` of the cost, of the algorithm that is then the fastest."""
    sizes = {name: _amortized(constants, name) for name in COSTS if name in among}
    best = min(sizes, key=lambda name: COSTS[name](constants, sizes[name]) / sizes[name])
    return sizes[best]


def _amortized(constants: Constants, name: str) -> int:
    cost = COSTS[name]
    latency = cost(constants, 0)
    per_byte = (cost(constants, LARGEST_BUCKET) - latency) / LARGEST_BUCKET
    if not per_byte < math.inf:
        return LARGEST_BUCKET
    wanted = latency * (1 / LATENCY_SHARE - 1) / per_byte
    return int(min(max(wanted, SMALLEST_BUCKET), LARGEST_BUCKET))
