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
from mpitrain.program import Kind
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
    path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}))


def _names(ranks: int) -> Iterator[dict[str, Any]]:
    for rank in range(ranks):
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}}
        yield {"ph": "M", "name": "process_sort_index", "pid": rank, "args": {"sort_index": rank}}
        for row, name in enumerate(ROWS):
            yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": row, "args": {"name": name}}
            yield {"ph": "M", "name": "thread_sort_index", "pid": rank, "tid": row, "args": {"sort_index": row}}


def _slices(step: StepTrace, at: float) -> Iterator[dict[str, Any]]:
    for pipeline in step.pipelines:
        spans = [span for rank in pipeline for span in step.spans[rank]]
        arrows = {span.action: f"{step.step}.{pipeline[0]}.{span.action}" for span in spans}
        for span in spans:
            action, place = span.action, _place(span)
            known = {"step": step.step, "stage": action.stage, "microbatch": action.microbatch}
            begin, duration = at + span.begin * 1e6, (span.end - span.begin) * 1e6
            shape = {"name": str(action), "cat": row_of(action), "args": {k: v for k, v in known.items() if v is not None}}
            yield {"ph": "X", "ts": begin, "dur": duration, **place, **shape}
            arrow = {"name": "message", "cat": "message", **place}
            if action.kind in SENDERS and sender_of(action) in arrows:
                yield {"ph": "f", "bp": "e", "ts": begin + duration, "id": arrows[sender_of(action)], **arrow}
            elif action.kind in (Kind.SEND_F, Kind.SEND_B):
                yield {"ph": "s", "ts": begin, "id": arrows[action], **arrow}


def _place(span: Span) -> dict[str, int]:
    return {"pid": span.rank, "tid": ROWS.index(row_of(span.action))}
