"""GPipe: all forwards, then all backwards.  Invariant: each rank owns the stage of its own number."""

from __future__ import annotations

from mpitrain.program.action import B, F, Schedule


def gpipe(stages: int, microbatches: int) -> Schedule:
    """All forwards, then all backwards.

    With p stages and m microbatches: bubble (p-1)(tF+tB) a step; every rank holds m activations.
    Huang et al. 2019, "GPipe: efficient training of giant neural networks", section 2.3.
    """
    order = range(microbatches)
    return [[F(rank, i) for i in order] + [B(rank, i) for i in order] for rank in range(stages)]
