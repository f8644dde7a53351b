"""A trace as a file for https://ui.perfetto.dev or chrome://tracing.

Invariant: a rank is a process, a row a thread, an action a slice named as it prints, and a message an arrow from its send to
its receive.  Format: Google 2016, "Trace Event Format".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mpitrain.observe.trace import ROWS, StepTrace, row_of
from mpitrain.observe.waits import makespan
from mpitrain.program.replay import SENDERS, Span, sender_of

#: Microseconds between two recorded steps: those that were not recorded take no room.
_GAP_US = 1000.0


def write_perfetto(steps: Sequence[StepTrace], path: Path) -> None:
    """Write `steps` to `path`, one after the other."""
    events = list(_names(len(steps[-1].spans)))
    at = 0.0
    for step in steps:
        events += _slices(step, at)
        at += makespan(step.spans) * 1e6 + _GAP_US
    path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}), encoding="utf-8")


def _names(ranks: int) -> Iterator[dict[str, Any]]:
    for rank in range(ranks):
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}}
        yield {"ph": "M", "name": "process_sort_index", "pid": rank, "args": {"sort_index": rank}}
        for row, name in enumerate(ROWS):
            yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": row, "args": {"name": name}}
            yield {"ph": "M", "name": "thread_sort_index", "pid": rank, "tid": row, "args": {"sort_index": row}}


def _slices(step: StepTrace, at: float) -> Iterator[dict[str, Any]]:
    """Every action of a step that begins at `at`, in microseconds, and every message."""
    for span in (span for rank in step.spans for span in rank):
        action = span.action
        known = {"step": step.step, "stage": action.stage, "microbatch": action.microbatch}
        shape = {"name": str(action), "cat": row_of(action), "args": {k: v for k, v in known.items() if v is not None}}
        yield {"ph": "X", "ts": at + span.begin * 1e6, "dur": (span.end - span.begin) * 1e6, **_place(span), **shape}
    for send, receive in _messages(step):
        arrow = {"name": "message", "cat": "message", "id": f"{step.step}.{send.rank}-{receive.rank}.{send.action}"}
        yield {"ph": "s", "ts": at + send.begin * 1e6, **_place(send), **arrow}
        yield {"ph": "f", "bp": "e", "ts": at + receive.end * 1e6, **_place(receive), **arrow}


def _messages(step: StepTrace) -> Iterator[tuple[Span, Span]]:
    """The send and the receive of each message, once: where places differ in width, a rank is in several pipelines."""
    found = set()
    for pipeline in step.pipelines:
        spans = {span.action: span for rank in pipeline for span in step.spans[rank]}
        for receive in spans.values():
            if receive.action.kind not in SENDERS or sender_of(receive.action) not in spans:
                continue
            send = spans[sender_of(receive.action)]
            if (key := (send.rank, receive.rank, send.action)) not in found:
                found.add(key)
                yield send, receive


def _place(span: Span) -> dict[str, int]:
    return {"pid": span.rank, "tid": ROWS.index(row_of(span.action))}
