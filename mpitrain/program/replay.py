"""`replay`: walk a program without running it, each rank as far as what it waits for allows.

Invariant: a rank does its actions in order; a receive ends no earlier than its send plus the link's delay; a tally ends when
every rank has come to it; sends never block.  These are the executor's rules too, so what cannot finish here would hang
there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mpitrain.program.action import Action, Kind, Program

#: For each kind of receive: the kind of its send, and the offset of the stage that sends.
SENDERS = {Kind.RECV_F: (Kind.SEND_F, -1), Kind.RECV_B: (Kind.SEND_B, +1)}


def sender_of(receive: Action) -> Action:
    """The send that `receive` waits for."""
    kind, offset = SENDERS[receive.kind]
    return Action(kind, receive.stage + offset, receive.microbatch)


@dataclass(frozen=True, slots=True)
class Span:
    """An action of a rank with its begin and end, in the unit of the durations."""

    rank: int
    action: Action
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a replay came: every span, in order, and for each rank the action that it could not get past."""

    spans: list[list[Span]]
    stuck: dict[int, Action]


def replay(program: Program, duration: Callable[[Action], float], delay: Callable[[Action], float]) -> Walk:
    """Walk `program`; `duration` gives each action's own time, `delay` the time from the end of a send to its arrival.

    A receive's own time begins when its message has arrived.  Linear in the number of actions: a rank that waits is taken up
    again by what it waits for.
    """
    spans: list[list[Span]] = [[] for _ in program]
    clock = [0.0 for _ in program]
    arrived: dict[Action, float] = {}
    waiting: dict[Action, int] = {}
    tallying: list[int] = []
    ready = deque(range(len(program)))

    def walk(rank: int) -> None:
        """Take `rank` as far as it gets."""
        actions = program[rank]
        for action in (actions[i] for i in range(len(spans[rank]), len(actions))):
            end = clock[rank] + duration(action)
            if action.kind in SENDERS:
                send = sender_of(action)
                if send not in arrived:
                    waiting[send] = rank
                    return
                end = max(clock[rank], arrived[send]) + duration(action)
            elif action.kind in (Kind.SEND_F, Kind.SEND_B):
                arrived[action] = end + delay(action)
                if action in waiting:
                    ready.append(waiting.pop(action))
            elif action.kind is Kind.TALLY:
                tallying.append(rank)
                return
            spans[rank].append(Span(rank, action, clock[rank], end))
            clock[rank] = end

    while ready:
        walk(ready.popleft())
        if len(tallying) == len(program):
            tallies = [program[rank][len(spans[rank])] for rank in range(len(program))]
            end = max(clock) + max(map(duration, tallies))
            for rank, action in enumerate(tallies):
                spans[rank].append(Span(rank, action, clock[rank], end))
                clock[rank] = end
            ready.extend(tallying)
            tallying.clear()
    stuck = {rank: actions[len(spans[rank])] for rank, actions in enumerate(program) if len(spans[rank]) < len(actions)}
    return Walk(spans, stuck)
