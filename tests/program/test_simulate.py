"""The simulator: links, the end of the step, memory over time."""

from __future__ import annotations

import pytest

from mpitrain.program import Costs, Kind, add_transfers, add_update, gpipe, one_f_one_b, simulate
from mpitrain.program.schedules import zb_h1


def test_a_slow_link_is_waited_for():
    assert simulate(add_transfers(gpipe(2, 1)), Costs(transfer=[5.0])).makespan == 2 * (1 + 2) + 2 * 5.0
    ends = Costs(transfer=[5.0], send=[3.0], receive=[4.0])
    assert simulate(add_transfers(gpipe(2, 1)), ends).makespan == 2 * (1 + 2) + 2 * (3 + 5 + 4)
    # Links by the stage before them: the second one is crossed once forward and once back.
    assert simulate(add_transfers(gpipe(3, 1)), Costs(transfer=[0.0, 5.0])).makespan == 3 * (1 + 2) + 2 * 5.0


def test_each_stage_has_its_own_costs():
    costs = Costs(forward=[1, 2, 3], input_grad=[1, 4, 1], weight_grad=[2, 2, 5])
    assert simulate(add_transfers(gpipe(3, 1)), costs).makespan == (1 + 2 + 3) + (3 + 6 + 6)


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_end_of_the_step_waits_for_the_slowest_rank(ranks):
    costs = Costs(reduce=[7] + [1] * 9, tally=[2], step=[1, 3, 2])
    timeline = simulate(add_update(add_transfers(one_f_one_b(ranks, 4))), costs)
    before = (4 + ranks - 1) * 3  # rank 0 is the last to end its backwards, and has the slowest reduction
    tallies = [span for spans in timeline.spans for span in spans if span.action.kind is Kind.TALLY]
    assert [span.end for span in tallies] == [before + 7 + 2] * ranks
    assert timeline.makespan == before + 7 + 2 + (1 if ranks == 1 else 3)


def test_memory_over_time():
    costs = Costs(activation=[10.0, 1.0])
    timeline = simulate(add_transfers(one_f_one_b(2, 2)), costs)
    assert timeline.memory[0] == [(0, 10), (1, 20), (4 + 2, 10), (7 + 2, 0)]
    assert timeline.memory[1] == [(1, 1), (4, 0), (4, 1), (7, 0)]
    apart = simulate(add_transfers(zb_h1(2, 2)), costs)
    assert apart.memory[1] == [(1, 1), (3, 2), (6, 1), (7, 0)], "held from F to W"
    assert apart.peak_activations == [2, 2]
