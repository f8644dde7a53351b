"""Breadth-first: several chunks a rank, each done for all microbatches at once.  Invariant: stage s lives on rank s mod p."""

from __future__ import annotations

from mpitrain.program.action import B, F, Schedule


def looped_bfs(ranks: int, microbatches: int, chunks: int = 2) -> Schedule:
    """GPipe over v chunks a rank: all microbatches through one chunk, then all through the next.

    With p ranks, m microbatches and tF, tB of one chunk: bubble (p-1)(tF+tB) a step, 1/v of GPipe's, and (v-1)(p-m)(tF+tB) more
    if m < p; every rank holds mv activations of a chunk.  A stage's passes are neighbours, so sharded weights are gathered
    only twice a step.
    Lamy-Poirier 2023, "Breadth-first pipeline parallelism", section 4.
    """
    order = range(microbatches)
    schedule = []
    for rank in range(ranks):
        stages = range(rank, ranks * chunks, ranks)
        forward = [F(stage, i) for stage in stages for i in order]
        schedule.append(forward + [B(stage, i) for stage in reversed(stages) for i in order])
    return schedule
