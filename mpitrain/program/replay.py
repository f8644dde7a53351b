"""`replay`: walk a program without running it, each rank as far as what it waits for allows.

Invariant: a rank does its actions in order; a receive ends no earlier than its send plus the link's delay; a tally ends when
every rank has come to it; sends never block.  These are the executor's rules too, so what cannot finish here would hang
there.
"""

from __future__ import annotations

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
    """Walk `program`; `duration` gives each action's own time, `delay` the time from the end of a send to its arrival."""
    spans: list[list[Span]] = [[] for _ in program]
    arrived: dict[Action, float] = {}
    clock = [0.0 for _ in program]
    moved = True
    while moved:
        moved = False
        for rank, actions in enumerate(program):
            while len(spans[rank]) < len(actions):
                action = actions[len(spans[rank])]
                if action.kind in SENDERS:
                    if sender_of(action) not in arrived:
                        break
                    end = max(clock[rank], arrived[sender_of(action)])
                elif action.kind is Kind.TALLY:
                    if not _all_at_tally(program, spans):
                        break
                    end = max(clock) + duration(action)
                else:
                    end = clock[rank] + duration(action)
                spans[rank].append(Span(rank, action, clock[rank], end))
                clock[rank], moved = end, True
                if action.kind in (Kind.SEND_F, Kind.SEND_B):
                    arrived[action] = end + delay(action)
    stuck = {rank: actions[len(spans[rank])] for rank, actions in enumerate(program) if len(spans[rank]) < len(actions)}
    return Walk(spans, stuck)


def _all_at_tally(program: Program, spans: list[list[Span]]) -> bool:
    """Whether every rank stands at its tally or has passed it."""
    return all(
        any(span.action.kind is Kind.TALLY for span in done)
        or (len(done) < len(actions) and actions[len(done)].kind is Kind.TALLY)
        for actions, done in zip(program, spans, strict=True)
    )
