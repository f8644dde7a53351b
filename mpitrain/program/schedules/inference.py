"""Inference: forwards only, on the stages that a rank has for training.

Invariant: a rank takes all microbatches through one run of neighbouring stages before it begins with its next run.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from mpitrain.program.action import Action, F, Schedule


def inference(owner: Mapping[int, int], microbatches: int) -> Schedule:
    """Forwards only, for validation and generation; `owner` maps each stage to its rank.

    With p ranks and m >= p microbatches: bubble (p-1) tF where stage s lives on rank s mod p, 2(p-1) tF in the V placement;
    nothing is held for a backward pass.
    """
    schedule: list[list[Action]] = [[] for _ in range(max(owner.values()) + 1)]
    for rank, run in groupby(sorted(owner), key=lambda stage: owner[stage]):
        stages = list(run)
        schedule[rank] += [F(stage, i) for i in range(microbatches) for stage in stages]
    return schedule
