"""ZB-H1: weight gradients fill 1F1B's last bubble.  Invariant: each rank owns the stage of its own number."""

from __future__ import annotations

from mpitrain.program.action import Schedule
from mpitrain.program.schedules.phases import unroll


def zb_h1(ranks: int, microbatches: int) -> Schedule:
    """1F1B with I and W apart: rank r runs each W r microbatches after its I.

    With p ranks and m >= p microbatches: bubble (p-1)(tF+tI-tW) a step while tW <= tF and tW <= tI; every rank holds
    min(p, m) activations, what the first rank of 1F1B holds.
    Qi et al. 2024, "Zero bubble pipeline parallelism", section 2.3.
    """
    schedule = []
    for rank in range(ranks):
        ahead = min(ranks - rank - 1, microbatches)
        paired, late = microbatches - ahead, min(rank, microbatches)
        phases = [
            (ahead, "F"),
            (min(late, paired), "F I"),
            (paired - late, "F I W"),
            (late - paired, "I"),
            (microbatches - max(late, paired), "I W"),
            (late, "W"),
        ]
        slots = [(rank, i) for i in range(microbatches)]
        schedule.append(unroll(phases, {"": slots}, {"": slots}))
    return schedule
