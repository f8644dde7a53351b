"""Lowering: passes that turn a schedule (compute only) into a program (everything that a rank does in a step).

Invariant: a pass only inserts actions; those that were there keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import accumulate

from mpitrain.program.action import Action, Kind, Program, Schedule, owners, stages_of

#: What has to come before and after an action of a kind when the neighbouring stage lives on another rank:
#: kind -> (receive, offset of the stage it comes from, send, offset of the stage it goes to).
_TRANSFERS = {
    Kind.F: (Kind.RECV_F, -1, Kind.SEND_F, +1),
    Kind.B: (Kind.RECV_B, +1, Kind.SEND_B, -1),
    Kind.I: (Kind.RECV_B, +1, Kind.SEND_B, -1),
}

#: What needs a stage's weights, and what adds to their gradients.
_COMPUTE = {Kind.F, Kind.B, Kind.I, Kind.W}
_BACKWARD = {Kind.B, Kind.W}


def leave_out(schedule: Schedule, frozen: Collection[int]) -> Schedule:
    """Leave out W of the `frozen` stages, whose I is all of B, and all backward of those that have only such below them."""
    lowest = min(owners(schedule).keys() - set(frozen))

    def needed(rank: int, action: Action) -> list[Action]:
        if action.kind is Kind.F or action.stage not in frozen:
            return [action]
        if action.kind is Kind.W or action.stage < lowest:
            return []
        return [Action(Kind.B, action.stage, action.microbatch)]

    return _expand(schedule, needed)


def add_transfers(schedule: Schedule) -> Program:
    """Receive what a stage needs before it runs and send what it made right after, where the neighbour is another rank.

    No gradient goes to a stage without backward.
    """
    owner = owners(schedule)
    backward = {action.stage for actions in schedule for action in actions if action.kind is not Kind.F}

    def transfers(rank: int, action: Action) -> list[Action]:
        if action.kind not in _TRANSFERS:
            return [action]
        receive, before, send, after = _TRANSFERS[action.kind]
        around = [action]
        if owner.get(action.stage + before, rank) != rank:
            around.insert(0, Action(receive, action.stage, action.microbatch))
        following = action.stage + after
        if owner.get(following, rank) != rank and (action.kind is Kind.F or following in backward):
            around.append(Action(send, action.stage, action.microbatch))
        return around

    return _expand(schedule, transfers)


def refine(schedule: Schedule, parts: Sequence[int]) -> Schedule:
    """Cut stage s into `parts[s]` of its own, run in turn where the stage was: forward in order, backward in reverse."""
    first = list(accumulate(parts, initial=0))

    def pieces(rank: int, action: Action) -> list[Action]:
        stages = range(first[action.stage], first[action.stage + 1])
        return [
            Action(action.kind, stage, action.microbatch) for stage in (stages if action.kind is Kind.F else reversed(stages))
        ]

    return _expand(schedule, pieces)


def gather_around(program: Program) -> Program:
    """Bring a stage's weights together one compute action before the one that needs them, and let them go after it."""

    def gathered(actions: Sequence[Action]) -> list[Action]:
        computes = [action.stage for action in actions if action.kind in _COMPUTE]
        coming = iter([*computes[1:], None])
        lowered = [Action(Kind.GATHER, computes[0])] if computes else []
        for action in actions:
            if action.kind not in _COMPUTE:
                lowered.append(action)
                continue
            following = next(coming)
            if following not in (None, action.stage):
                lowered.append(Action(Kind.GATHER, following))
            lowered.append(action)
            if following != action.stage:
                lowered.append(Action(Kind.FREE, action.stage))
        return lowered

    return [gathered(actions) for actions in program]


def gather_after_update(program: Program) -> Program:
    """Bring a stage's weights together again once each replica has updated its rows of them."""
    return _expand(
        program,
        lambda rank, action: [action, Action(Kind.GATHER, action.stage)] if action.kind is Kind.STEP else [action],
    )


def arm_reduction(program: Program, *, each: bool = False) -> Program:
    """Before the action that completes a stage's gradients, say so: their reduction can overlap it and all that follows.

    With `each`, every microbatch's gradients are reduced by themselves, as they become ready.
    """

    def armed(actions: Sequence[Action]) -> list[Action]:
        last = {action.stage: i for i, action in enumerate(actions) if action.kind in _BACKWARD}
        return [
            new
            for i, action in enumerate(actions)
            for new in (
                [Action(Kind.ARM, action.stage), action]
                if action.kind in _BACKWARD and (each or last[action.stage] == i)
                else [action]
            )
        ]

    return [armed(actions) for actions in program]


def add_update(program: Program, tied_ranks: Collection[int] = ()) -> Program:
    """End the step: wait for each stage's reduced gradients, join those that `tied_ranks` share weights of, tally, update."""

    def ending(rank: int, actions: Sequence[Action]) -> list[Action]:
        stages = stages_of(actions)
        tie = [Action(Kind.TIE, stages[0])] if rank in tied_ranks else []
        reduce, step = ([Action(kind, stage) for stage in stages] for kind in (Kind.REDUCE, Kind.STEP))
        return [*reduce, *tie, Action(Kind.TALLY, stages[0]), *step]

    return [[*actions, *ending(rank, actions)] for rank, actions in enumerate(program)]


def add_tally(program: Program) -> Program:
    """End an evaluation: add up loss and count."""
    return [[*actions, Action(Kind.TALLY, min(stages_of(actions), default=rank))] for rank, actions in enumerate(program)]


def _expand(program: Program, pass_: Callable[[int, Action], list[Action]]) -> Program:
    return [[new for action in actions for new in pass_(rank, action)] for rank, actions in enumerate(program)]
