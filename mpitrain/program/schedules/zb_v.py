"""ZB-V: two chunks a rank, down and up the ranks, and no bubble.  Invariant: rank r owns the stages r and 2p-1-r."""

from __future__ import annotations

from mpitrain.program.action import Schedule
from mpitrain.program.schedules.phases import unroll_v


def zb_v(ranks: int, microbatches: int) -> Schedule:
    """V placement with I and W apart.

    With p ranks, m >= 2p-1 microbatches and tF = tI = tW of one chunk: each rank works without a pause from its first action
    to its last.  It starts and ends as much later than rank 0 as the first microbatch takes to reach it, so counted over all
    ranks the bubble is (p-1) tF a step, the least that there can be.  Every rank holds at most min(2p, 2m) activations of a
    chunk, as much as the first rank of 1F1B.  The order is that of torch's `ScheduleZBVZeroBubble`, to the last action.
    Qi et al. 2024, "Zero bubble pipeline parallelism", section 6, and "Pipeline parallelism with controllable memory".
    """
    enough = max(2 * ranks - 1, microbatches)
    schedule = []
    for rank in range(ranks):
        phases = [
            (2 * (ranks - rank) - 1, "F0"),
            (rank, "F1 F0"),
            (ranks - rank, "F1 I1 W"),
            (enough - 2 * ranks + rank + 1, "F0 I0 W F1 I1 W"),
            (ranks - rank - 1, "I0 W F1 I1 W"),
            (rank, "I0 I1"),
            (ranks - rank, "I0 W0"),
            (rank, "W1"),
            (rank, "W0"),
        ]
        schedule.append(unroll_v(phases, ranks, rank, enough, microbatches))
    return schedule
