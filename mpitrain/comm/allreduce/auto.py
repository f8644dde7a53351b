"""`Allreduce`: the algorithms of one communicator, of which it takes the one that is the fastest there for a size.

Invariant: all ranks take the same algorithm for the same size.  What is chosen changes speed, and the order of sums where there
are more than two ranks: a run that has to repeat bit for bit names its algorithm and its bucket size.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.comm.allreduce.cost import COSTS, bucket_bytes, choose
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
    Collective; takes some milliseconds.  `ValueError` if there is no such algorithm, or if it cannot run here.
    """

    def __init__(self, comm: Communicator, name: str = "auto", *, overlapped: bool = True) -> None:
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
        self.constants = measure(comm, self.algorithms["native"], self._shared) if measured else None
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

    def explain(self, nbytes: int) -> str:
        """What is chosen for buckets of `nbytes`, and why, in one line."""
        line = f"allreduce over {self.comm.size} ranks: {self.choice(nbytes)}, in buckets of {nbytes / 2**20:.3g} MiB"
        if self.constants is None:
            return line
        costs = {name: COSTS[name](self.constants, nbytes) for name in self.algorithms}
        told = ", ".join(f"{name} {1e3 * cost:.3g}" for name, cost in costs.items())
        message = self.constants.message
        network = f"latency {1e6 * message.alpha:.3g} µs, bandwidth {1e-9 / message.beta:.3g} GB/s"
        return f"{line} ({network}; expected ms a bucket: {told})"

    def _hierarchical(self, *, required: bool) -> Hierarchical | None:
        try:
            return Hierarchical(self.comm)
        except ValueError:
            if required:
                raise
            return None
