"""How a batch is dealt to replicas and their microbatches.

Invariant: the parts are contiguous, in order, cover the batch, and differ in size by at most one; no divisibility is asked for.
Those of `share` follow from dp x microbatches alone, however that is factored; those of `share_jointly`, put together over the
replicas, from microbatches alone.
"""

from __future__ import annotations

from itertools import pairwise


def split(count: int, parts: int) -> list[tuple[int, int]]:
    """range(count) in `parts` runs (start, stop), the longer ones first."""
    size, longer = divmod(count, parts)
    starts = [part * size + min(part, longer) for part in range(parts + 1)]
    return list(pairwise(starts))


def share(count: int, dp: int, dp_rank: int, microbatches: int) -> list[tuple[int, int]]:
    """The microbatches (start, stop) of replica `dp_rank` of `dp` in a batch of `count` samples; the last may be empty."""
    first = dp_rank * microbatches
    return split(count, dp * microbatches)[first : first + microbatches]


def share_jointly(count: int, dp: int, dp_rank: int, microbatches: int) -> list[tuple[int, int]]:
    """As `share`, but the batch is cut into `microbatches` first and each of these among the replicas.

    So the microbatches i of all replicas together are the one that a single replica would have.
    """
    runs = [(start, split(stop - start, dp)[dp_rank]) for start, stop in split(count, microbatches)]
    return [(start + first, start + last) for start, (first, last) in runs]


def check_batch(batch: int, dp: int, microbatches: int) -> None:
    """`ValueError` if a batch of training has not a sample for each microbatch of each replica."""
    if microbatches < 1 or batch < dp * microbatches:
        raise ValueError(
            f"the batch has {batch} samples for dp={dp} x microbatches={microbatches}; expected at least one a microbatch: "
            f"a batch of {max(1, dp * microbatches)} or more, or fewer microbatches"
        )
