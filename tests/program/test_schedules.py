"""Schedules are complete and in order for any size, and the simulator gives their closed forms exactly."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mpitrain.program import (
    SCHEDULES,
    Costs,
    add_transfers,
    add_update,
    gpipe,
    inference,
    one_f_one_b,
    owners,
    peak_activations,
    schedule_named,
    simulate,
    validate,
)
from mpitrain.program.schedules import dualpipe_v, interleaved, looped_bfs, zb_h1, zb_v
from mpitrain.program.transfer import MAX_PARTS

SIZES = {"ranks": st.integers(1, 16), "microbatches": st.integers(1, 64)}
SECONDS = st.integers(1, 9)

#: Every schedule as a function of ranks, microbatches and chunks; the chunks count where a schedule has a choice.
EVERY = {name: lambda p, m, v, schedule=schedule: schedule(p, m) for name, schedule in SCHEDULES.items()}
EVERY |= {"interleaved": interleaved, "looped_bfs": looped_bfs}


def timed(schedule, t_f=1, t_i=1, t_w=1):
    return simulate(add_transfers(schedule), Costs(forward=[t_f], input_grad=[t_i], weight_grad=[t_w]))


def held(schedule):
    return [peak_activations(actions) for actions in schedule]


@pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
@settings(deadline=None, max_examples=20)
@given(**SIZES, chunks=st.integers(1, 4))
def test_every_size_is_valid(schedule, ranks, microbatches, chunks):
    actions = schedule(ranks, microbatches, chunks)
    owner = owners(actions)
    program = add_update(add_transfers(actions), tied_ranks={owner[0], owner[len(owner) - 1]})
    validate(program, max_tag=2 * 4 * 16 * 64 * MAX_PARTS)


@pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
@settings(deadline=None, max_examples=10)
@given(**SIZES)
def test_inference_is_valid_in_every_placement(schedule, ranks, microbatches):
    validate(add_transfers(inference(owners(schedule(ranks, 1, 3)), microbatches)), backward=False)


@settings(deadline=None, max_examples=25)
@given(**SIZES, t_f=SECONDS, chunks=st.integers(1, 4))
def test_inference_bubble(ranks, microbatches, t_f, chunks):
    assume(microbatches >= ranks)
    loop, fold = (owners(s) for s in (interleaved(ranks, 1, chunks), zb_v(ranks, 1)))
    assert timed(inference(loop, microbatches), t_f).bubble == [(ranks - 1) * t_f] * ranks
    assert timed(inference(fold, microbatches), t_f).bubble == [2 * (ranks - 1) * t_f] * ranks


@pytest.mark.parametrize("schedule", [gpipe, one_f_one_b])
@settings(deadline=None, max_examples=25)
@given(**SIZES, t_f=SECONDS, t_i=SECONDS, t_w=SECONDS)
def test_bubble_of_one_stage_a_rank(schedule, ranks, microbatches, t_f, t_i, t_w):
    timeline = timed(schedule(ranks, microbatches), t_f, t_i, t_w)
    assert timeline.makespan == (microbatches + ranks - 1) * (t_f + t_i + t_w)
    assert timeline.bubble == [(ranks - 1) * (t_f + t_i + t_w)] * ranks


@pytest.mark.parametrize("schedule", [interleaved, looped_bfs])
@settings(deadline=None, max_examples=25)
@given(**SIZES, chunks=st.integers(1, 4), t_f=SECONDS, t_i=SECONDS, t_w=SECONDS)
def test_bubble_of_several_chunks_a_rank(schedule, ranks, microbatches, chunks, t_f, t_i, t_w):
    waits = ranks - 1 + (chunks - 1) * max(0, ranks - microbatches)
    assert timed(schedule(ranks, microbatches, chunks), t_f, t_i, t_w).bubble == [waits * (t_f + t_i + t_w)] * ranks


@settings(deadline=None, max_examples=25)
@given(**SIZES, t_f=SECONDS, t_i=SECONDS, t_w=SECONDS)
def test_bubble_of_zb_h1(ranks, microbatches, t_f, t_i, t_w):
    assume(microbatches >= ranks and t_w <= min(t_f, t_i))
    assert timed(zb_h1(ranks, microbatches), t_f, t_i, t_w).bubble == [(ranks - 1) * (t_f + t_i - t_w)] * ranks


@settings(deadline=None, max_examples=25)
@given(**SIZES, t=SECONDS)
def test_bubble_of_zb_v(ranks, microbatches, t):
    assume(microbatches >= 2 * ranks - 1)
    timeline = timed(zb_v(ranks, microbatches), t, t, t)
    assert timeline.bubble == [(ranks - 1) * t] * ranks
    for rank, spans in enumerate(timeline.spans):
        work = [span for span in spans if span.end > span.begin and not span.action.kind.value.startswith("RECV")]
        assert (work[0].begin, work[-1].end) == (rank * t, (rank + 6 * microbatches) * t), "without a pause"


@settings(deadline=None, max_examples=25)
@given(ranks=SIZES["ranks"], more=st.integers(0, 32), t_w=SECONDS, t_i_more=st.integers(0, 9), t_f_more=st.integers(0, 9))
def test_bubble_of_dualpipe_v(ranks, more, t_w, t_i_more, t_f_more):
    t_i = t_w + t_i_more
    t_f = t_i + min(t_f_more, t_w)
    assert timed(dualpipe_v(ranks, 2 * ranks + more), t_f, t_i, t_w).bubble == [(ranks - 1) * (t_f + t_i - t_w)] * ranks


@settings(deadline=None, max_examples=25)
@given(**SIZES, chunks=st.integers(1, 4))
def test_peak_activations(ranks, microbatches, chunks):
    p, m, v = ranks, microbatches, chunks
    assert held(gpipe(p, m)) == [m] * p
    assert held(one_f_one_b(p, m)) == [min(p - rank, m) for rank in range(p)]
    assert held(zb_h1(p, m)) == [min(p, m)] * p
    assert held(looped_bfs(p, m, v)) == [m * v] * p
    rounds = max(1, m // p)
    group = -(-m // rounds)
    chunked = [min((v - 1) * group + 2 * (p - rank - 1) + 1, m * v) for rank in range(p)]
    assert held(interleaved(p, m, v)) == chunked
    assert max(held(zb_v(p, m))) == min(2 * p, 2 * m)
    if m >= 2 * p:
        assert held(dualpipe_v(p, m)) == [2 * p + 1] * p


def test_schedules_print_as_people_write_them():
    def rows(schedule):
        return [" ".join(map(str, actions)) for actions in schedule]

    assert rows(one_f_one_b(2, 3)) == ["0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1B0 1F1 1B1 1F2 1B2"]
    assert rows(zb_h1(2, 3)) == ["0F0 0F1 0I0 0W0 0F2 0I1 0W1 0I2 0W2", "1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1W2"]
    assert rows(interleaved(2, 2, 2))[1] == "1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1"
    assert rows(zb_v(1, 1)) == ["0F0 1F0 1I0 1W0 0I0 0W0"]


def test_names():
    assert schedule_named("interleaved:3")(2, 4) == interleaved(2, 4, 3)
    assert schedule_named("looped_bfs")(2, 4) == looped_bfs(2, 4, 2)
    for wrong in ["zb_v:3", "interleaved:0", "interleaved:x", "pipedream"]:
        with pytest.raises(ValueError, match=r"expected one of gpipe, 1f1b, interleaved, .* as in interleaved:4, or a file"):
            schedule_named(wrong)
