"""`Allreduce`: the algorithms of one communicator, of which it takes the one that is the fastest there for a size.

Invariant: the algorithm for a size follows from the measured constants alone, which all ranks share.  It decides speed and,
where there are more than two ranks, the order of sums; so a run that goes on from a checkpoint takes the constants in it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.comm.allreduce.cost import COSTS, Constants, bucket_bytes, choose
from mpitrain.comm.allreduce.halving import halving
from mpitrain.comm.allreduce.hierarchical import Hierarchical
from mpitrain.comm.allreduce.native import native, native_by_request
from mpitrain.comm.allreduce.ring import ring
from mpitrain.comm.allreduce.rounding import Algorithm
from mpitrain.comm.collective import Collective
from mpitrain.comm.communicator import Communicator, Reduction
from mpitrain.comm.probe import measure

#: Where time cannot be measured.
DEFAULT = "ring"


def allreduce_named(name: str) -> str:
    """`name`, if it is that of an algorithm or `"auto"`; `ValueError` names those that there are."""
    if name not in ("auto", *COSTS):
        raise ValueError(f"allreduce {name!r} is not known; expected one of auto, {', '.join(COSTS)}")
    return name


class Allreduce:
    """Combines flat arrays over all ranks of `comm`, in place.

    `name` is an algorithm's, or `"auto"` for the fastest by measurement.  `overlapped` says that other work goes on meanwhile.
    Constants are measured, which takes some milliseconds, unless they are given.  Collective.  `ValueError` if there is no such
    algorithm, or if it cannot run here.
    """

    def __init__(
        self, comm: Communicator, name: str = "auto", *, overlapped: bool = True, constants: Constants | None = None
    ) -> None:
        measured = comm.timed and comm.size > 1
        name = DEFAULT if allreduce_named(name) == "auto" and not measured else name
        self.comm = comm
        self.algorithms: dict[str, Algorithm[Communicator]] = {
            "native": native_by_request() if overlapped else native,
            "ring": ring,
            "halving": halving,
        }
        self._shared = self._hierarchical(required=name == "hierarchical") if name in ("auto", "hierarchical") else None
        if self._shared is not None:
            self.algorithms["hierarchical"] = self._shared
        self.constants = constants
        if constants is None and measured:
            self.constants = measure(comm, self.algorithms["native"], self._shared)
        #: What is chosen from.  Unasked, no request of MPI's own, which is slower than the others and has to wait in line.
        self.among: Collection[str] = [name]
        if name == "auto":
            self.among = [found for found in self.algorithms if found != "native" or not overlapped]
        #: The size of array for which latency matters little; `None` if it was not measured.
        self.bucket_bytes = bucket_bytes(self.constants, self.among) if self.constants else None

    def choice(self, nbytes: int) -> str:
        """The name of the algorithm for an array of `nbytes`."""
        return next(iter(self.among)) if self.constants is None else choose(self.constants, nbytes, self.among)

    def __call__(self, x: Array, op: Reduction = Reduction.SUM, tag: int = 0) -> Collective:
        """Combine `x`; see `Algorithm`."""
        return self.algorithms[self.choice(x.nbytes)](self.comm, x, op, tag)

    def zeros(self, arrays: Arrays, count: int, dtype: np.dtype) -> Array:
        """A flat array of zeros in the memory where it is combined fastest.  Collective."""
        if self._shared is not None and arrays.on_host and self.choice(count * dtype.itemsize) == "hierarchical":
            return self._shared.memory(count, dtype)
        return arrays.zeros((count,), dtype)

    def explain(self, sizes: Sequence[int]) -> str:
        """The choice for buckets of so many bytes each, and why, in one line."""
        sizes_by_name: dict[str, list[int]] = {}
        for nbytes in sorted(sizes, reverse=True):
            sizes_by_name.setdefault(self.choice(nbytes), []).append(nbytes)
        chosen = ", ".join(f"{name} for {_told(found)}" for name, found in sizes_by_name.items())
        line = f"allreduce over {self.comm.size} ranks: {chosen}"
        if self.constants is None:
            return line
        costs = {name: COSTS[name](self.constants, max(sizes)) for name in self.algorithms}
        told = ", ".join(f"{name} {1e3 * cost:.3g}" for name, cost in costs.items())
        message = self.constants.message
        network = f"latency {1e6 * message.alpha:.3g} µs, bandwidth {1e-9 / message.beta:.3g} GB/s"
        return f"{line} ({network}; expected ms for the largest: {told})"

    def _hierarchical(self, *, required: bool) -> Hierarchical | None:
        try:
            return Hierarchical(self.comm)
        except ValueError:
            if required:
                raise
            return None


def _told(sizes: Sequence[int]) -> str:
    """Descending `sizes` in bytes, as their number and range."""
    unit, name = (2**20, "MiB") if sizes[0] >= 2**20 else (2**10, "KiB")
    least, most = (f"{nbytes / unit:.3g}" for nbytes in (sizes[-1], sizes[0]))
    return f"{len(sizes)} bucket{'s' * (len(sizes) > 1)} of {least if least == most else f'{least} to {most}'} {name}"
