"""Steps with known times, for the tests of what is made from traces."""

from __future__ import annotations

from mpitrain.observe.trace import StepTrace
from mpitrain.program import Action, Costs, add_transfers, add_update, one_f_one_b, simulate
from mpitrain.program.replay import Span


def step(*ranks, pipelines=None):
    """A step from text: a rank is "0F0 0 2, 0SEND_F0 2 3": actions with begin and end."""
    spans = []
    for rank, text in enumerate(ranks):
        parts = [part.split() for part in text.split(",")]
        spans.append([Span(rank, Action.parse(action), float(begin), float(end)) for action, begin, end in parts])
    return StepTrace(step=2, spans=spans, pipelines=pipelines or [tuple(range(len(ranks)))], error=0.0)


def simulated(ranks=2, microbatches=4, **costs):
    """A step of 1F1B that took exactly `costs`."""
    program = add_update(add_transfers(one_f_one_b(ranks, microbatches)))
    spans = simulate(program, Costs(**{"step": [0.5], "tally": [0.25]} | costs)).spans
    return StepTrace(step=7, spans=spans, pipelines=[tuple(range(ranks))], error=0.0)
