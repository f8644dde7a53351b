"""Schedules are complete and in order for any size, and the simulator gives their closed forms exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpitrain.program import SCHEDULES, Costs, add_transfers, add_update, gpipe, inference, one_f_one_b, simulate, validate

SIZES = {"stages": st.integers(1, 16), "microbatches": st.integers(1, 64)}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@given(**SIZES)
def test_every_size_is_valid(schedule, stages, microbatches):
    program = add_update(add_transfers(schedule(stages, microbatches)), tied_stages={0, stages - 1})
    validate(program, max_tag=2 * 16 * 64)


@given(**SIZES)
def test_inference_is_valid(stages, microbatches):
    validate(add_transfers(inference(stages, microbatches)), backward=False)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@given(**SIZES, t_f=st.integers(1, 9), t_b=st.integers(1, 9))
def test_bubble_is_the_closed_form(schedule, stages, microbatches, t_f, t_b):
    costs = Costs(forward=[t_f], input_grad=[t_b / 2], weight_grad=[t_b / 2])
    timeline = simulate(add_transfers(schedule(stages, microbatches)), costs)
    assert timeline.makespan == (microbatches + stages - 1) * (t_f + t_b)
    assert timeline.bubble == [(stages - 1) * (t_f + t_b)] * stages


@given(**SIZES)
def test_peak_activations_are_the_closed_forms(stages, microbatches):
    costs = Costs()
    assert simulate(add_transfers(gpipe(stages, microbatches)), costs).peak_activations == [microbatches] * stages
    one_f = simulate(add_transfers(one_f_one_b(stages, microbatches)), costs).peak_activations
    assert one_f == [min(stages - rank, microbatches) for rank in range(stages)]


def test_a_schedule_prints_as_people_write_it():
    assert [" ".join(map(str, rank)) for rank in one_f_one_b(2, 3)] == ["0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1B0 1F1 1B1 1F2 1B2"]


def test_a_slow_link_is_waited_for():
    program = add_transfers(gpipe(2, 1))
    assert simulate(program, Costs(transfer=5.0)).makespan == 2 * (1 + 2) + 2 * 5.0
