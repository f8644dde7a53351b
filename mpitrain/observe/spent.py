"""`Spent`: where a rank's time went over many steps.

Invariant: its parts add up to the wall-clock time of the steps, and it keeps a few numbers however long a run is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpitrain.comm import Communicator
from mpitrain.observe.trace import row_of
from mpitrain.program import Kind, Measured

#: The parts of a step's time: what a person reads, in this order; what no action took is the last.
PARTS = ("compute", "waiting for activations", "reducing", "waiting for the last rank", "other")
#: The part of each row of a timeline.
_PART_OF_ROW = {"compute": 0, "receive": 1, "reduce": 2, "send": 4}


class Spent:
    """Adds up steps."""

    def __init__(self) -> None:
        self.seconds = np.zeros(len(PARTS))

    def add(self, measured: Sequence[Measured], seconds: float) -> None:
        """A step that took `seconds` in all."""
        parts = [0.0] * len(PARTS)
        for m in measured:
            # A tally is a handful of numbers: what it takes is the wait for whoever comes last.
            part = 3 if m.action.kind is Kind.TALLY else _PART_OF_ROW[row_of(m.action)]
            parts[part] += m.end - m.begin
        parts[-1] += seconds - sum(parts)
        self.seconds += parts

    def line(self, comm: Communicator) -> str:
        """One sentence on all ranks' time, and on the one that computed most.  Collective."""
        everyone = comm.allgather(self.seconds)
        mean = everyone.mean(axis=0) / everyone.mean(axis=0).sum()
        busiest = int(everyone[:, 0].argmax())
        parts = ", ".join(f"{name} {share:.0%}" for name, share in zip(PARTS, mean, strict=True))
        share = everyone[busiest, 0] / everyone[busiest].sum()
        return f"a step's time: {parts}" + (f"; rank {busiest} computed most, {share:.0%}" if comm.size > 1 else "")
