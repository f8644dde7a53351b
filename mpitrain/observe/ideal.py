"""The ideal of a measured step: its program, simulated with what its actions usually took.

Invariant: no duration is assumed; an action takes the median of its kind on its stage, and a message what the fastest one on
its link took.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from mpitrain.observe.trace import StepTrace
from mpitrain.observe.waits import SUMS, sum_of
from mpitrain.program import Action, simulate
from mpitrain.program.replay import SENDERS, Span, sender_of


class Medians:
    """`Durations` of the measured `spans` of some pipelines of the same program."""

    def __init__(self, pipelines: Sequence[Sequence[Sequence[Span]]]) -> None:
        found: defaultdict[Action, list[float]] = defaultdict(list)
        self._delays: dict[Action, float] = {}
        for pipeline in pipelines:
            by_action = {span.action: span for rank in pipeline for span in rank}
            for span in by_action.values():
                if span.action.kind in SENDERS:
                    self._hear(span, by_action[sender_of(span.action)])
                else:
                    found[_alike(span.action)].append(span.end - span.begin)
        # The span of a sum begins with a wait for the last rank to come; that one's own is what the sum takes.
        self._durations = {key: (min if key.kind in SUMS else median)(seconds) for key, seconds in found.items()}

    def duration(self, action: Action) -> float:
        """Seconds of `action`; a receive only waits."""
        return 0.0 if action.kind in SENDERS else self._durations[_alike(action)]

    def delay(self, send: Action) -> float:
        """Seconds from the end of `send` to the arrival of its message."""
        return self._delays.get(_alike(send), 0.0)

    def kept(self, stage: int) -> float:
        """Activations are counted."""
        return 1.0

    def _hear(self, receive: Span, send: Span) -> None:
        """Learn from a message how long its link takes, if its receiver was already waiting."""
        if receive.begin <= send.end:
            key = _alike(send.action)
            delay = max(0.0, receive.end - send.end)
            self._delays[key] = min(delay, self._delays.get(key, delay))


def _alike(action: Action) -> Action:
    """What the actions that should take the same time have in common."""
    return sum_of(action) if action.kind in SUMS else Action(action.kind, action.stage)


def ideal(step: StepTrace) -> list[list[Span]]:
    """A pipeline's step as it would be if every action took its usual time and nothing came between."""
    measured = [[step.spans[rank] for rank in pipeline] for pipeline in step.pipelines]
    program = [[span.action for span in rank] for rank in measured[0]]
    return simulate(program, Medians(measured)).spans
