"""`automatic`: the best order that a search finds for measured costs under a memory limit.

Invariant: the result is never slower, as simulated, than any fixed schedule that places the stages alike and keeps to the
limit, and it keeps to the limit itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from mpitrain.program.action import Schedule, owners
from mpitrain.program.lower import add_transfers
from mpitrain.program.schedules.greedy import as_in, backward_first, greedy
from mpitrain.program.schedules.table import CHUNKED, SCHEDULES
from mpitrain.program.simulate import Costs, peak_activations, simulate

#: How long a rank waits for something better, in durations of what it can do at once: each is tried.
_PATIENCE = (0.0, 0.25, 0.5, 1.0)


def automatic(owner: Sequence[int], microbatches: int, *, costs: Costs, limits: Sequence[int]) -> Schedule:
    """Search for the order of least makespan.

    `owner[s]` is the rank of stage s, `costs` are of each stage (in a run, as its first steps measured them), and
    `limits[rank]` is the most activations of a stage that a rank may hold.  Candidates are the fixed schedules of the same
    placement, and what list scheduling makes of the order of each of them, whether it keeps to the limit or not, and of the
    rule to go backward where that is possible.  `ValueError` if a rank may hold fewer activations than it has stages: then no
    microbatch can pass through it.
    """
    for rank, limit in enumerate(limits):
        if limit < owner.count(rank):
            raise ValueError(
                f"rank {rank} may hold {limit} activations and has {owner.count(rank)} stages; expected one a stage at least"
            )
    fixed = _fixed(owner, microbatches)
    worths = [as_in(schedule, weights_last=last) for schedule in fixed for last in (False, True)]
    worths += [backward_first(later_first=later) for later in (False, True)]
    allowed = [s for s in fixed if all(peak_activations(actions) <= limit for actions, limit in zip(s, limits, strict=True))]
    found = [greedy(owner, microbatches, costs, limits, *how) for how in product(worths, _PATIENCE)]
    return min(allowed + found, key=lambda schedule: simulate(add_transfers(schedule), costs).makespan)


def _fixed(owner: Sequence[int], microbatches: int) -> list[Schedule]:
    """The fixed schedules that place the stages as `owner` does."""
    ranks = max(owner) + 1
    found = [schedule(ranks, microbatches) for schedule in SCHEDULES.values()]
    if len(owner) > 2 * ranks:
        found += [schedule(ranks, microbatches, len(owner) // ranks) for schedule in CHUNKED.values()]
    return [schedule for schedule in found if owners(schedule) == dict(enumerate(owner))]
