"""1F1B: backward as soon as it can be.  Invariant: each rank owns the stage of its own number."""

from __future__ import annotations

from mpitrain.program.action import Schedule
from mpitrain.program.schedules.phases import unroll


def one_f_one_b(stages: int, microbatches: int) -> Schedule:
    """A few forwards to fill the pipeline, then one forward and one backward in turn, then the backwards that are left.

    With p stages and m microbatches: bubble (p-1)(tF+tB) a step, as GPipe; rank r holds min(p-r, m) activations.
    Narayanan et al. 2021, "Efficient large-scale language model training on GPU clusters using Megatron-LM", section 2.2.1.
    """
    schedule = []
    for rank in range(stages):
        ahead = min(stages - rank - 1, microbatches)
        slots = [(rank, i) for i in range(microbatches)]
        phases = [(ahead, "F"), (microbatches - ahead, "F B"), (ahead, "B")]
        schedule.append(unroll(phases, {"": slots}, {"": slots}))
    return schedule
