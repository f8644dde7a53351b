"""Interleaved 1F1B: several chunks a rank make the bubble smaller.  Invariant: stage s lives on rank s mod p."""

from __future__ import annotations

from itertools import pairwise

from mpitrain.program.action import Schedule
from mpitrain.program.schedules.phases import unroll


def interleaved(ranks: int, microbatches: int, chunks: int = 2) -> Schedule:
    """1F1B over v chunks a rank: a group of microbatches goes through one chunk of a rank after the other.

    With p ranks, m microbatches and tF, tB of one chunk: bubble (p-1)(tF+tB) a step, that is 1/v of what 1F1B has.  Groups are
    of p microbatches, or of a few more where p does not divide m, so that no chunk is waited for; with m < p there is one
    group, and each rank waits (v-1)(p-m)(tF+tB) longer.  With g microbatches in the largest group, rank r holds
    min((v-1)g + 2(p-r-1) + 1, mv) activations of a chunk.
    Narayanan et al. 2021, "Efficient large-scale language model training on GPU clusters using Megatron-LM", section 2.2.2.
    """
    groups = _groups(microbatches, max(1, microbatches // ranks))
    forward = [(chunk, i) for group in groups for chunk in range(chunks) for i in group]
    backward = [(chunk, i) for group in groups for chunk in reversed(range(chunks)) for i in group]
    schedule = []
    for rank in range(ranks):
        ahead = min((chunks - 1) * len(groups[0]) + 2 * (ranks - rank - 1), len(forward))
        schedule.append(
            unroll(
                [(ahead, "F"), (len(forward) - ahead, "F B"), (ahead, "B")],
                {"": [(chunk * ranks + rank, i) for chunk, i in forward]},
                {"": [(chunk * ranks + rank, i) for chunk, i in backward]},
            )
        )
    return schedule


def _groups(microbatches: int, count: int) -> list[range]:
    """`count` runs of microbatches, the first ones longer by one where they cannot be equal."""
    size, longer = divmod(microbatches, count)
    starts = [size * i + min(i, longer) for i in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]
