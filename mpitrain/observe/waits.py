"""Waits: how much of a step ranks were idle, which receive or sum cost most, and whose action was the cause.

Invariant: pure functions of spans, measured or simulated alike.  A wait's cause is what the rank that was waited for did in the
meantime; where that was a wait of its own, the cause of that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from mpitrain.observe.trace import StepTrace, row_of
from mpitrain.program import Action, Kind
from mpitrain.program.replay import SENDERS, Span, sender_of

#: Sums, in which all ranks that take part wait for the last one.
SUMS = (Kind.REDUCE, Kind.TIE, Kind.TALLY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """`rank` waited `seconds` in `action` because rank `culprit` was still in `doing` (`None`: between two actions).

    `sent` says that the message had already been sent and was on its way meanwhile.
    """

    rank: int
    action: Action
    seconds: float
    culprit: int
    doing: Action | None
    sent: bool = False

    def __str__(self) -> str:
        doing = "was between two actions" if self.doing is None else f"was in {self.doing}"
        on_its_way = ", the message being on its way" if self.sent else ""
        waited = f"rank {self.rank} waited {self.seconds * 1e3:.2f} ms in {self.action}"
        return f"{waited}: rank {self.culprit} {doing}{on_its_way}"


def makespan(spans: Sequence[Sequence[Span]]) -> float:
    """Seconds from the first begin to the last end."""
    return max(rank[-1].end for rank in spans) - min(rank[0].begin for rank in spans)


def bubble(spans: Sequence[Sequence[Span]]) -> float:
    """The part of a step in which ranks do not compute, from 0 to 1, over all ranks."""
    busy = sum(span.end - span.begin for rank in spans for span in rank if row_of(span.action) == "compute")
    return 1 - busy / (makespan(spans) * len(spans))


def over_pipelines(step: StepTrace) -> list[list[Span]]:
    """The spans of each pipeline's ranks, one pipeline after the other: where places differ in width, a rank is in several."""
    return [step.spans[rank] for pipeline in step.pipelines for rank in pipeline]


def costliest_waits(spans: Sequence[Sequence[Span]], pipelines: Sequence[Sequence[int]], count: int = 3) -> list[Wait]:
    """The `count` longest waits of a step, the longest first; `pipelines` lists the ranks of each."""
    return sorted(_waits(spans, pipelines), key=lambda wait: -wait.seconds)[:count]


def report(step: StepTrace, simulated: Sequence[Sequence[Span]]) -> list[str]:
    """What a person is told of a step beside its picture: bubbles, and the costliest waits with their cause."""
    long, short = makespan(step.spans), makespan(simulated)
    head = f"step {step.step}: {long * 1e3:.2f} ms; its program with each action's usual time: {short * 1e3:.2f} ms"
    bubbles = f"bubble measured {bubble(over_pipelines(step)):.1%}, ideal {bubble(simulated):.1%}"
    clocks = f"clocks agree within {step.error * 1e6:.0f} µs"
    return [head, f"{bubbles}; {clocks}", *(f"  {wait}" for wait in costliest_waits(step.spans, step.pipelines))]


def _waits(spans: Sequence[Sequence[Span]], pipelines: Sequence[Sequence[int]]) -> Iterator[Wait]:
    """Every wait, each with its cause."""
    done = {(span.rank, span.action): span for rank in spans for span in rank}
    # Where stages differ in width, a rank belongs to several pipelines: the first of them stands for all.
    home = {rank: pipeline for pipeline in reversed(pipelines) for rank in pipeline}
    sums: defaultdict[Action, list[Span]] = defaultdict(list)
    for span in done.values():
        if span.action.kind in SUMS:
            sums[sum_of(span.action)].append(span)

    @cache
    def wait_in(span: Span) -> Wait | None:
        """The wait that `span` is, if it is one, with the rank that it was directly for."""
        action, own = span.action, home[span.rank]
        if action.kind in SENDERS:
            send = next((done[rank, sender_of(action)] for rank in own if (rank, sender_of(action)) in done), None)
            if send is not None:
                sent = max(span.begin, min(span.end, send.end))
                late = sent - span.begin < span.end - sent  # more of the wait came after the send than before it
                begin, end = (sent, span.end) if late else (span.begin, sent)
                doing = _mostly(spans[send.rank], begin, end)
                return _wait(span, span.end - span.begin, send.rank, doing, late)
        if action.kind in SUMS:
            # Shared weights are a pipeline's own.
            taking_part = [s for s in sums[sum_of(action)] if action.kind is not Kind.TIE or s.rank in own]
            last = max(taking_part, key=lambda other: other.begin)
            if last.rank != span.rank and last.begin > span.begin:
                return _wait(span, last.begin - span.begin, last.rank, _mostly(spans[last.rank], span.begin, last.begin))
        return None

    for span in done.values():
        wait = first = wait_in(span)
        seen = {(span.rank, span.action)}
        while wait is not None and wait.doing is not None and (wait.culprit, wait.doing) not in seen:
            seen.add((wait.culprit, wait.doing))
            deeper = wait_in(done[wait.culprit, wait.doing])
            if wait.sent or deeper is None:
                break
            wait = deeper
        if wait is not None and first is not None:
            yield replace(wait, rank=first.rank, action=first.action, seconds=first.seconds)


def _wait(span: Span, seconds: float, culprit: int, doing: Action | None, sent: bool = False) -> Wait:
    return Wait(rank=span.rank, action=span.action, seconds=seconds, culprit=culprit, doing=doing, sent=sent)


def sum_of(action: Action) -> Action:
    """What the actions of one sum have in common: a stage's gradients are reduced by themselves, all else is one sum."""
    return action if action.kind is Kind.REDUCE else Action(action.kind, 0)


def _mostly(spans: Sequence[Span], begin: float, end: float) -> Action | None:
    """What a rank did for most of the time from `begin` to `end`; `None` where that is nothing."""
    shares = [(min(end, span.end) - max(begin, span.begin), span) for span in spans if span.begin < end and span.end > begin]
    if not shares:
        return None
    longest, span = max(shares, key=lambda share: share[0])
    idle = end - begin - sum(share for share, _ in shares)
    return span.action if longest >= idle else None
