"""Inference: forwards only.  Invariant: each rank owns the stage of its own number."""

from __future__ import annotations

from mpitrain.program.action import F, Schedule


def inference(stages: int, microbatches: int) -> Schedule:
    """Forwards only, for validation and generation.

    With p stages: bubble (p-1) tF; nothing is held for a backward pass.
    """
    return [[F(rank, i) for i in range(microbatches)] for rank in range(stages)]
