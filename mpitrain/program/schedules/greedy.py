"""`greedy`: an order found by list scheduling, each rank doing the best of what it can do next.

Invariant: a rank never holds more than its limit, and keeps room for its later chunks, so that a microbatch under way can
always go on and no order ends in a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import inf

from mpitrain.program.action import Action, Kind, Schedule
from mpitrain.program.simulate import Costs

#: What a rank does next: of kind, stage and microbatch, what gives the least.
Worth = Callable[[Kind, int, int], tuple[float, ...]]


def backward_first(*, later_first: bool) -> Worth:
    """I before F before W; of two forwards the one of the later stage or that of the earlier one."""
    order = {Kind.I: 0, Kind.F: 1, Kind.W: 2}
    return lambda kind, stage, microbatch: (order[kind], stage if kind is Kind.F and not later_first else -stage)


def as_in(schedule: Schedule, *, weights_last: bool) -> Worth:
    """The order of `schedule`, but for what need not wait; with `weights_last`, W fills gaps only."""
    place = {}
    for actions in schedule:
        for i, action in enumerate(actions):
            for kind in (Kind.I, Kind.W) if action.kind is Kind.B else (action.kind,):
                place[kind, action.stage, action.microbatch] = (weights_last and kind is Kind.W, i, kind is Kind.W)
    return lambda kind, stage, microbatch: place[kind, stage, microbatch]


def greedy(
    owner: Sequence[int], microbatches: int, costs: Costs, limits: Sequence[int], worth: Worth, patience: float
) -> Schedule:
    """Schedule stage s on rank `owner[s]`, in the time that `costs` give, with at most `limits[rank]` activations a rank.

    A rank waits for what is worth more than the best that it can begin at once, if that comes within `patience` times the
    duration of the latter.  `limits[rank]` is at least the number of the rank's stages.
    """
    return _Greedy(owner, microbatches, costs, limits, worth, patience).run()


class _Greedy:
    def __init__(
        self, owner: Sequence[int], microbatches: int, costs: Costs, limits: Sequence[int], worth: Worth, patience: float
    ) -> None:
        self.owner, self.microbatches, self.limits, self.worth, self.patience = owner, microbatches, limits, worth, patience
        ranks, self.last = max(owner) + 1, len(owner) - 1
        self.mine = [[stage for stage, found in enumerate(owner) if found == rank] for rank in range(ranks)]
        #: For each stage, the activations that the rank has to leave free for its later stages.
        self.room = {stage: len(stages) - 1 - i for stages in self.mine for i, stage in enumerate(stages)}
        self.seconds = {
            kind: [costs.duration(Action(kind, stage)) for stage in range(len(owner))] for kind in (Kind.F, Kind.I, Kind.W)
        }
        self.delay = [
            costs.delay(Action(Kind.SEND_F, stage)) if owner[stage] != owner[stage + 1] else 0.0 for stage in range(self.last)
        ]
        #: When the next microbatch of each kind on each stage can run: a stage takes microbatches in their order.
        self.ready = {kind: [[inf] * microbatches for _ in owner] for kind in (Kind.F, Kind.I, Kind.W)}
        self.ready[Kind.F][0] = [0.0] * microbatches
        self.next = {kind: [0] * len(owner) for kind in (Kind.F, Kind.I, Kind.W)}
        self.clock = [0.0] * ranks
        self.held = [0] * ranks
        self.schedule: list[list[Action]] = [[] for _ in range(ranks)]

    def run(self) -> Schedule:
        # Ranks by the time of their next decision; an entry that is no longer true is passed over.
        decisions: list[tuple[float, int]] = []
        due = [inf] * len(self.mine)

        def consider(rank: int) -> None:
            due[rank] = max(self.clock[rank], min((ready for ready, _, _ in self._candidates(rank)), default=inf))
            if due[rank] < inf:
                heappush(decisions, (due[rank], rank))

        consider(self.owner[0])
        while decisions:
            time, rank = heappop(decisions)
            if time != due[rank]:
                continue
            for touched in self._do(rank, *self._choose(rank, time)):
                consider(touched)
        return self.schedule

    def _candidates(self, rank: int) -> list[tuple[float, Kind, int]]:
        """What the rank could do next: when, kind, stage."""
        found = []
        for stage in self.mine[rank]:
            for kind, ready in self.ready.items():
                i = self.next[kind][stage]
                if i < self.microbatches and ready[stage][i] < inf:
                    if kind is Kind.F and self.held[rank] + self.room[stage] >= self.limits[rank]:
                        continue
                    found.append((ready[stage][i], kind, stage))
        return found

    def _choose(self, rank: int, time: float) -> tuple[Kind, int]:
        """The best that can begin at `time`, or soon enough."""
        candidates = [
            (self.worth(kind, stage, self.next[kind][stage]), ready, kind, stage)
            for ready, kind, stage in self._candidates(rank)
        ]
        best = min((c for c in candidates if c[1] <= time), key=lambda c: c[0])
        until = time + self.patience * self.seconds[best[2]][best[3]]
        better = [c for c in candidates if c[1] < until and c[0] < best[0]]
        _, _, kind, stage = min(better, key=lambda c: c[1], default=best)
        return kind, stage

    def _do(self, rank: int, kind: Kind, stage: int) -> list[int]:
        """Append an action; the ranks whose next decision it may change."""
        i = self.next[kind][stage]
        end = max(self.clock[rank], self.ready[kind][stage][i]) + self.seconds[kind][stage]
        self.clock[rank] = end
        self.next[kind][stage] += 1
        self.schedule[rank].append(Action(kind, stage, i))
        touched = [rank]
        if kind is Kind.F:
            self.held[rank] += 1
            if stage == self.last:
                self.ready[Kind.I][stage][i] = end
            else:
                self.ready[Kind.F][stage + 1][i] = end + self.delay[stage]
                touched.append(self.owner[stage + 1])
        elif kind is Kind.I:
            self.ready[Kind.W][stage][i] = end
            if stage > 0:
                self.ready[Kind.I][stage - 1][i] = end + self.delay[stage - 1]
                touched.append(self.owner[stage - 1])
        else:
            self.held[rank] -= 1
        return touched
