"""`simulate`: how long a program takes and how much it holds, from the duration of each kind of action.

Invariant: equals the closed forms in the schedules' docstrings exactly, where they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from mpitrain.program.action import Action, Kind, Program
from mpitrain.program.replay import Span, replay


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Seconds of each kind of action on each stage; a stage past the end of a sequence costs what the last one does."""

    forward: Sequence[float] = (1.0,)
    input_grad: Sequence[float] = (1.0,)
    weight_grad: Sequence[float] = (1.0,)
    #: From the end of a send to the arrival of its message.
    transfer: float = 0.0
    reduce: Sequence[float] = (0.0,)
    tally: float = 0.0
    step: Sequence[float] = (0.0,)

    def duration(self, action: Action) -> float:
        """Seconds that `action` keeps its rank busy."""
        by_stage: dict[Kind, list[Sequence[float]]] = {
            Kind.F: [self.forward],
            Kind.B: [self.input_grad, self.weight_grad],
            Kind.I: [self.input_grad],
            Kind.W: [self.weight_grad],
            Kind.REDUCE: [self.reduce],
            Kind.TALLY: [(self.tally,)],
            Kind.STEP: [self.step],
        }
        return sum(costs[min(action.stage, len(costs) - 1)] for costs in by_stage.get(action.kind, []))


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """A simulated step."""

    spans: list[list[Span]]
    #: Seconds from the first action's begin to the last one's end.
    makespan: float
    #: Seconds that each rank is idle within the makespan.
    bubble: list[float]
    #: The most microbatches of a stage that each rank holds for backward at once.
    peak_activations: list[int]


def simulate(program: Program, costs: Costs) -> Timeline:
    """Walk a valid `program` with `costs`."""
    walk = replay(program, costs.duration, lambda action: costs.transfer)
    assert not walk.stuck, "validate() comes first"
    makespan = max((span.end for spans in walk.spans for span in spans), default=0.0)
    busy = [sum(costs.duration(action) for action in actions) for actions in program]
    return Timeline(
        spans=walk.spans,
        makespan=makespan,
        bubble=[makespan - seconds for seconds in busy],
        peak_activations=[peak_activations(actions) for actions in program],
    )


def peak_activations(actions: Sequence[Action]) -> int:
    """The most forwards whose backward is still to come: held from F to B, or to W."""
    changes = {Kind.F: +1, Kind.B: -1, Kind.W: -1}
    return max(accumulate((changes.get(action.kind, 0) for action in actions), initial=0))
