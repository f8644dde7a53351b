"""The ideal of a step takes each action's usual time and leaves out what came between."""

from __future__ import annotations

from dataclasses import replace

import pytest
from timelines import simulated, step

from mpitrain.observe.ideal import ideal
from mpitrain.observe.trace import StepTrace
from mpitrain.observe.waits import makespan
from mpitrain.program.replay import Span


def delayed(trace, rank, action, seconds):
    """`trace` with one rank late by `seconds` from an action on, others untouched."""
    mine = trace.spans[rank]
    at = next(i for i, span in enumerate(mine) if str(span.action) == action)
    later = [Span(rank, s.action, s.begin + seconds, s.end + seconds) for s in mine[at:]]
    return replace(trace, spans=[*trace.spans[:rank], [*mine[:at], *later], *trace.spans[rank + 1 :]])


@pytest.mark.parametrize(
    "costs", [{}, {"forward": [1.0, 2.0, 1.5]}, {"transfer": [0.25, 0.5]}], ids=["even", "uneven", "slow links"]
)
def test_a_step_without_disturbance_is_its_own_ideal(costs):
    trace = simulated(3, 6, **costs)
    assert ideal(trace) == trace.spans


def test_a_pause_is_left_out():
    trace = simulated(2, 4)
    assert ideal(delayed(trace, 0, "0STEP", 2.0)) == trace.spans


def test_an_action_takes_its_median():
    trace = step("0F0 0 1, 0F1 1 2, 0F2 2 50, 0TALLY 50 51")
    assert makespan(ideal(trace)) == 4.0


def test_a_sum_takes_what_the_last_to_come_took():
    trace = step("0F0 0 1, 0TALLY 1 10", "0F0 0 9, 0TALLY 9 10", pipelines=[(0,), (1,)])
    assert makespan(ideal(trace)) == 6.0  # the median of 1 and 9, and 1


def test_replicas_share_their_medians():
    one = simulated(2, 4)
    slow = simulated(2, 4, forward=[3.0], input_grad=[3.0], weight_grad=[3.0])
    spans = [*one.spans, *[[Span(rank + 2, s.action, s.begin, s.end) for s in mine] for rank, mine in enumerate(slow.spans)]]
    both = StepTrace(step=1, spans=spans, pipelines=[(0, 1), (2, 3)], error=0.0)
    mean = simulated(2, 4, forward=[2.0], input_grad=[2.0], weight_grad=[2.0])
    assert makespan(ideal(both)) == makespan(mean.spans)
