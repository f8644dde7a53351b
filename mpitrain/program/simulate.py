"""`simulate`: how long a program takes and how much it holds, from the duration of each action and each link's delay.

Invariant: equals the closed forms in the schedules' docstrings exactly, where they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from mpitrain.program.action import Action, Kind, Program
from mpitrain.program.replay import Span, replay


class Durations(Protocol):
    """What a simulation asks: `Costs` answers by formula, a measured step by what it has seen."""

    def duration(self, action: Action) -> float:
        """Seconds that `action` keeps its rank busy."""
        ...

    def delay(self, send: Action) -> float:
        """Seconds from the end of a send to the arrival of its message."""
        ...

    def kept(self, stage: int) -> float:
        """What a microbatch of `stage` keeps between forward and backward, in any unit."""
        ...


#: Where the seconds of each kind of action stand in `Costs`; those of other kinds are 0.
_PARTS = {
    Kind.F: ("forward",),
    Kind.B: ("input_grad", "weight_grad"),
    Kind.I: ("input_grad",),
    Kind.W: ("weight_grad",),
    Kind.SEND_F: ("send",),
    Kind.SEND_B: ("send",),
    Kind.RECV_F: ("receive",),
    Kind.RECV_B: ("receive",),
    Kind.REDUCE: ("reduce",),
    Kind.TALLY: ("tally",),
    Kind.STEP: ("step",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Seconds of each kind of action on each stage; a stage past the end of a sequence costs what the last one does."""

    forward: Sequence[float] = (1.0,)
    input_grad: Sequence[float] = (1.0,)
    weight_grad: Sequence[float] = (1.0,)
    #: From the end of a send to the arrival of its message, on the link from each stage to the one after and back.
    transfer: Sequence[float] = (0.0,)
    #: What a message takes of the rank that starts to send it, and of the one that receives it.
    send: Sequence[float] = (0.0,)
    receive: Sequence[float] = (0.0,)
    reduce: Sequence[float] = (0.0,)
    tally: Sequence[float] = (0.0,)
    step: Sequence[float] = (0.0,)
    #: What a microbatch of each stage keeps between forward and backward.
    activation: Sequence[float] = (1.0,)

    def duration(self, action: Action) -> float:
        """Seconds that `action` keeps its rank busy."""
        return sum(_at(getattr(self, part), action.stage) for part in _PARTS.get(action.kind, ()))

    def delay(self, send: Action) -> float:
        """Seconds from the end of `send` to the arrival of its message."""
        return _at(self.transfer, send.stage if send.kind is Kind.SEND_F else send.stage - 1)

    def kept(self, stage: int) -> float:
        """What a microbatch of `stage` keeps between forward and backward."""
        return _at(self.activation, stage)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """A simulated step."""

    spans: list[list[Span]]
    #: Seconds from the first action's begin to the last one's end, the synchronisation at the end of the step included.
    makespan: float
    #: Seconds that each rank is idle within the makespan.
    bubble: list[float]
    #: The most microbatches of a stage that each rank holds for backward at once.
    peak_activations: list[int]
    #: What each rank holds for backward: steps of (second, from then on so much), from the begin of a forward to the end of
    #: its backward.
    memory: list[list[tuple[float, float]]]


def simulate(program: Program, costs: Durations) -> Timeline:
    """Walk a valid `program` with `costs`."""
    walk = replay(program, costs.duration, costs.delay)
    assert not walk.stuck, "validate() comes first"
    makespan = max((spans[-1].end for spans in walk.spans if spans), default=0.0)
    busy = [sum(costs.duration(action) for action in actions) for actions in program]
    return Timeline(
        spans=walk.spans,
        makespan=makespan,
        bubble=[makespan - seconds for seconds in busy],
        peak_activations=[peak_activations(actions) for actions in program],
        memory=[_memory(spans, costs) for spans in walk.spans],
    )


#: What an action changes in the number of activations that are held: from F to B, or to W.
HELD = {Kind.F: +1, Kind.B: -1, Kind.W: -1}


def peak_activations(actions: Sequence[Action]) -> int:
    """The most forwards whose backward is still to come."""
    backward = {action.stage for action in actions if action.kind in (Kind.B, Kind.W)}
    return max(accumulate((HELD.get(action.kind, 0) for action in actions if action.stage in backward), initial=0))


def _memory(spans: Sequence[Span], costs: Durations) -> list[tuple[float, float]]:
    changes = [
        (span.begin if span.action.kind is Kind.F else span.end, HELD[span.action.kind] * costs.kept(span.action.stage))
        for span in spans
        if span.action.kind in HELD
    ]
    totals = accumulate(change for _, change in changes)
    return [(second, total) for (second, _), total in zip(changes, totals, strict=True)]


def _at(by_stage: Sequence[float], stage: int) -> float:
    return by_stage[min(stage, len(by_stage) - 1)]
