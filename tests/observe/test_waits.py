"""Waits on timelines made by hand, where the cause is known."""

from __future__ import annotations

import pytest
from timelines import simulated, step

from mpitrain.observe.waits import bubble, costliest_waits, makespan, report
from mpitrain.program import Action


def waits(trace, count=9):
    return [(w.rank, str(w.action), w.seconds, w.culprit, w.doing and str(w.doing), w.sent) for w in
            costliest_waits(trace.spans, trace.pipelines, count)]  # fmt: skip


def test_a_receive_waits_for_the_action_that_made_its_message():
    trace = step("0F0 0 5, 0SEND_F0 5 6", "1RECV_F0 0 7, 1F0 7 9")
    assert waits(trace) == [(1, "1RECV_F0", 7.0, 0, "0F0", False)]


def test_a_wait_for_a_wait_is_followed_to_its_cause():
    trace = step(
        "0F0 0 8, 0SEND_F0 8 9",
        "1RECV_F0 0 9, 1F0 9 10, 1SEND_F0 10 11",
        "2RECV_F0 0 11, 2F0 11 12",
    )
    assert waits(trace) == [(2, "2RECV_F0", 11.0, 0, "0F0", False), (1, "1RECV_F0", 9.0, 0, "0F0", False)]


def test_a_message_may_be_long_on_its_way():
    trace = step("0F0 0 1, 0SEND_F0 1 2, 0F1 2 12", "1RECV_F0 0 11, 1F0 11 12")
    assert waits(trace) == [(1, "1RECV_F0", 11.0, 0, "0F1", True)]


def test_a_rank_may_be_between_its_actions():
    trace = step("0F0 0 1, 0SEND_F0 9 10", "1RECV_F0 0 10, 1F0 10 12")
    assert waits(trace) == [(1, "1RECV_F0", 10.0, 0, None, False)]


def test_a_tally_waits_for_the_last_rank_of_the_job():
    trace = step("0F0 0 1, 0TALLY 1 9", "1F0 0 8, 1TALLY 8 9", "0F0 0 3, 0TALLY 3 9", "1F0 0 5, 1TALLY 5 9",
                 pipelines=[(0, 1), (2, 3)])  # fmt: skip
    assert waits(trace, 2) == [(0, "0TALLY", 7.0, 1, "1F0", False), (2, "0TALLY", 5.0, 1, "1F0", False)]


def test_gradients_wait_for_the_other_replica_of_their_stage():
    trace = step("0B0 0 1, 0REDUCE 1 7", "0B0 0 6, 0REDUCE 6 7", "1B0 0 9, 1REDUCE 9 10", pipelines=[(0,), (1,), (2,)])
    assert waits(trace) == [(0, "0REDUCE", 5.0, 1, "0B0", False)]


def test_a_wait_for_a_replica_is_followed_along_its_own_pipeline():
    trace = step(
        "0RECV_B0 0 1, 0B0 1 2, 0REDUCE 2 11",
        "1B0 0 .5, 1SEND_B0 .5 1",
        "0RECV_B0 0 9, 0B0 9 10, 0REDUCE 10 11",
        "1B0 0 8, 1SEND_B0 8 9",
        pipelines=[(0, 1), (2, 3)],
    )
    assert waits(trace)[:2] == [(2, "0RECV_B0", 9.0, 3, "1B0", False), (0, "0REDUCE", 8.0, 3, "1B0", False)]


def test_shared_weights_wait_within_their_pipeline():
    trace = step("0B0 0 1, 0TIE 1 5", "3B0 0 4, 3TIE 4 5", "0B0 0 9, 0TIE 9 10", "3B0 0 9, 3TIE 9 10",
                 pipelines=[(0, 1), (2, 3)])  # fmt: skip
    assert waits(trace) == [(0, "0TIE", 3.0, 1, "3B0", False)]


def test_clocks_that_disagree_do_not_make_a_circle():
    trace = step("0RECV_B0 0 10, 0SEND_F0 10 11", "1RECV_F0 0 10, 1SEND_B0 10 11")
    assert [(w.rank, w.seconds) for w in costliest_waits(trace.spans, trace.pipelines)] == [(0, 10.0), (1, 10.0)]


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (4, 8), (3, 3)])
def test_the_bubble_is_that_of_the_closed_form(ranks, microbatches):
    """1F1B with tF = 1, tI = tW = 1 and nothing else: (p - 1) of m + p - 1 slots are idle."""
    trace = simulated(ranks, microbatches, step=[0.0], tally=[0.0])
    assert bubble(trace.spans) == pytest.approx((ranks - 1) / (microbatches + ranks - 1), abs=1e-12)
    assert makespan(trace.spans) == pytest.approx(3 * (microbatches + ranks - 1), abs=1e-12)


def test_where_widths_differ_measured_and_ideal_bubble_are_of_the_same_ranks():
    """Two replicas before one, on time: rank 2 is busy for 6 of 10 s, the others for 4."""
    pipelines = [(0, 2), (1, 2)]
    trace = step("0F0 0 4", "0F0 0 4", "1F0 4 10", pipelines=pipelines)
    assert report(trace, [trace.spans[rank] for rank in pipelines[0]])[1].startswith("bubble measured 50.0%, ideal 50.0%")


def test_the_report_says_it_in_words():
    trace = step("0F0 0 .005, 0SEND_F0 .005 .006", "1RECV_F0 0 .007, 1F0 .007 .010")
    lines = report(trace, trace.spans)
    assert lines[0] == "step 2: 10.00 ms; its program with each action's usual time: 10.00 ms"
    assert lines[1].startswith("bubble measured 60.0%, ideal 60.0%")
    assert lines[2:] == ["  rank 1 waited 7.00 ms in 1RECV_F0: rank 0 was in 0F0"]
    assert Action.parse("0F0") == costliest_waits(trace.spans, trace.pipelines)[0].doing
