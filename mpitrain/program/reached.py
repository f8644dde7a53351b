"""`Reached`: which parameters a step's backward passes came to, on whatever rank: its update leaves the others alone.

Invariant: one contribution, of any microbatch on any replica or stage, is enough, and all ranks have the same answer.  It costs
a number in the tally, and a message of a byte for each parameter where that number is not zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mpitrain.comm.communicator import Communicator, Reduction
from mpitrain.nn import Parameter


class Reached:
    """The trained parameters of a model by name, and those of them that this rank computes with."""

    def __init__(self, comm: Communicator, names: Sequence[str], computed: Iterable[Parameter]) -> None:
        self._comm, self._names, self._computed = comm, names, list(computed)

    def missed(self) -> list[str]:
        """Those that nothing here has come to since the last call."""
        missed = [parameter.name for parameter in self._computed if not parameter.reached]
        for parameter in self._computed:
            parameter.reached = False
        return missed

    def nowhere(self, missed: Sequence[str]) -> frozenset[str]:
        """Those that no rank came to, if this one has `missed` some.  Collective."""
        here = {parameter.name for parameter in self._computed}.difference(missed)
        found = np.array([name in here for name in self._names], np.uint8)
        self._comm.allreduce(found, Reduction.MAX)
        return frozenset(name for name, somewhere in zip(self._names, found.tolist(), strict=True) if not somewhere)
