"""The search keeps to its limits and is never slower than a fixed schedule; where there is room it reaches the optimum."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.program import Costs, add_transfers, owners, simulate, validate
from mpitrain.program.schedules import (
    automatic,
    dualpipe_v,
    gpipe,
    interleaved,
    looped_bfs,
    one_f_one_b,
    zb_h1,
    zb_v,
)

LINE = {"gpipe": gpipe, "1f1b": one_f_one_b, "zb_h1": zb_h1}
LOOP = {"interleaved": interleaved, "looped_bfs": looped_bfs}
LOOP_OF_3 = {name: lambda p, m, schedule=schedule: schedule(p, m, 3) for name, schedule in LOOP.items()}
FOLD = {"zb_v": zb_v, "dualpipe_v": dualpipe_v}
FIXED = [LINE, LOOP, LOOP_OF_3, FOLD]


def owner_of(schedule):
    found = owners(schedule)
    return [found[stage] for stage in range(len(found))]


@settings(deadline=None, max_examples=40)
@given(fixed=st.sampled_from(FIXED), ranks=st.integers(1, 4), microbatches=st.integers(1, 8), data=st.data())
def test_never_slower_than_a_fixed_schedule_within_the_limits(fixed, ranks, microbatches, data):
    schedules = [schedule(ranks, microbatches) for schedule in fixed.values()]
    owner = owner_of(schedules[0])
    seconds = st.lists(st.integers(1, 9), min_size=len(owner), max_size=len(owner))
    forward, input_grad, weight_grad = (data.draw(seconds) for _ in range(3))
    costs = Costs(forward=forward, input_grad=input_grad, weight_grad=weight_grad, transfer=[data.draw(st.integers(0, 3))])
    limits = [owner.count(rank) + data.draw(st.integers(0, 3 * ranks)) for rank in range(ranks)]
    program = add_transfers(automatic(owner, microbatches, costs=costs, limits=limits))
    validate(program, limits=limits)
    found = simulate(program, costs).makespan
    for schedule in schedules:
        timeline = simulate(add_transfers(schedule), costs)
        if all(held <= limit for held, limit in zip(timeline.peak_activations, limits, strict=True)):
            assert found <= timeline.makespan


@settings(deadline=None, max_examples=40)
@given(ranks=st.integers(1, 3), microbatches=st.integers(1, 6), data=st.data())
def test_any_placement_and_the_least_memory(ranks, microbatches, data):
    owner = [*range(ranks), *data.draw(st.lists(st.integers(0, ranks - 1), max_size=5))]
    limits = [owner.count(rank) for rank in range(ranks)]
    program = add_transfers(automatic(owner, microbatches, costs=Costs(), limits=limits))
    validate(program, limits=limits)
    assert owners(program) == dict(enumerate(owner))


@pytest.mark.parametrize(("seconds", "limit"), [((20, 20, 20), 8), ((20, 20, 10), 8), ((10, 25, 15), 12)])
@pytest.mark.parametrize("microbatches", [12, 16])
def test_with_enough_memory_only_the_way_to_the_last_rank_is_lost(seconds, limit, microbatches):
    forward, input_grad, weight_grad = seconds
    costs = Costs(forward=[forward], input_grad=[input_grad], weight_grad=[weight_grad], transfer=[1])
    program = add_transfers(automatic(range(4), microbatches, costs=costs, limits=[limit] * 4))
    # No order can be faster: the last rank begins no earlier, and has so much to do.
    least = 3 * (forward + 1) + microbatches * sum(seconds)
    assert simulate(program, costs).makespan == least
    for schedule in LINE.values():
        assert simulate(add_transfers(schedule(4, microbatches)), costs).makespan > least


def test_a_rank_that_cannot_hold_its_stages():
    with pytest.raises(ValueError, match="rank 1 may hold 1 activations and has 2 stages; expected one a stage at least"):
        automatic([0, 1, 0, 1], 4, costs=Costs(), limits=[2, 1])
