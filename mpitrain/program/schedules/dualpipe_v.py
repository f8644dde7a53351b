"""DualPipeV: passes of different microbatches side by side.  Invariant: rank r owns the stages r and 2p-1-r."""

from __future__ import annotations

from mpitrain.program.action import Schedule
from mpitrain.program.schedules.phases import unroll_v


def dualpipe_v(ranks: int, microbatches: int) -> Schedule:
    """DualPipe cut in half, in the V placement: in the middle each F stands beside the B of another microbatch.

    With p ranks, m >= 2p microbatches and tI+tW >= tF >= tI >= tW of one chunk: bubble (p-1)(tF+tI-tW); every rank holds 2p+1
    activations of a chunk.  (The report counts a pair `F B` as one action whose messages leave at its end, and finds a bubble
    of (p-1)(tFB+tB-3tW).)  Its worth is in the pairs: the messages of one pass travel while the other one computes.
    DeepSeek-AI 2024, "DeepSeek-V3 technical report", section 3.2.1; Qi et al. 2025, "DualPipe could be better without the
    Dual".
    """
    enough = max(2 * ranks, microbatches)
    schedule = []
    for rank in range(ranks):
        # From the middle of the last backwards on, I and W are apart; on even ranks the switch is within a row.
        together, odd = (rank + 1) // 2, rank % 2
        phases = [
            (2 * (ranks - rank - 1), "F0"),
            (rank + 1, "F0 F1"),
            (ranks - rank - 1, "I1 W F1"),
            (enough - 2 * ranks + rank + 1, "F0 B1 F1 B0"),
            (ranks - rank - 1, "B1 F1 B0"),
            (together, "B1 B0"),
            (1 - odd, "B1 I0"),
            (rank // 2 + odd, "I1 I0"),
            (ranks - rank - 1, "W I0"),
            (rank + 1, "W"),
        ]
        schedule.append(unroll_v(phases, ranks, rank, enough, microbatches))
    return schedule
