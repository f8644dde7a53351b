"""Our schedules beside those of torch.distributed.pipelining, under the same simulator: never slower, never holding more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch.distributed.pipelining import schedules as theirs

from mpitrain.program import Action, Costs, Kind, add_transfers, simulate, validate
from mpitrain.program.schedules import dualpipe_v, interleaved, looped_bfs, zb_h1, zb_v

KINDS = {
    theirs.FORWARD: Kind.F,
    theirs.FULL_BACKWARD: Kind.B,
    theirs.BACKWARD_INPUT: Kind.I,
    theirs.BACKWARD_WEIGHT: Kind.W,
}


def their_order(schedule, ranks, microbatches, chunks):
    """The actions of `schedule`, a class of torch's, which it computes without a process group if its fields are there."""
    rounds = max(1, microbatches // ranks)
    fields = SimpleNamespace(
        pp_group_size=ranks,
        n_local_stages=chunks,
        num_stages=ranks * chunks,
        _num_stages=ranks * chunks,
        _stages=[None] * chunks,
        _n_microbatches=microbatches,
        number_of_rounds=rounds,
        microbatches_per_round=microbatches // rounds,
    )
    rows = [schedule._calculate_single_rank_operations(fields, rank) for rank in range(ranks)]
    return [
        [
            Action(KINDS[part.computation_type], part.stage_index, part.microbatch_index)
            for action in row
            if action is not None
            for part in (action.sub_actions or [action])
        ]
        for row in rows
    ]


PAIRS = {
    "interleaved 1": (theirs.ScheduleInterleaved1F1B, interleaved, 1),
    "interleaved 2": (theirs.ScheduleInterleaved1F1B, interleaved, 2),
    "interleaved 4": (theirs.ScheduleInterleaved1F1B, interleaved, 4),
    "looped_bfs 3": (theirs.ScheduleLoopedBFS, looped_bfs, 3),
    "zb_h1": (theirs.ScheduleInterleavedZeroBubble, lambda p, m, v: zb_h1(p, m), 1),
    "zb_v": (theirs.ScheduleZBVZeroBubble, lambda p, m, v: zb_v(p, m), 2),
    "dualpipe_v": (theirs.ScheduleDualPipeV, lambda p, m, v: dualpipe_v(p, m), 2),
}
#: F, I and W: equal ones, cheap weight gradients, cheap forwards; and a link that takes time.
COSTS = [(20, 20, 20, 0), (20, 20, 10, 0), (10, 25, 15, 0), (20, 20, 20, 3)]


def test_zb_v_is_torchs_order():
    for ranks in range(1, 13):
        for microbatches in range(1, 3 * ranks + 4):
            assert zb_v(ranks, microbatches) == their_order(theirs.ScheduleZBVZeroBubble, ranks, microbatches, 2)


SIZES = [(2, 4), (4, 8), (4, 10), (4, 16), (8, 11), (8, 16), (8, 32), (3, 2)]


@pytest.mark.parametrize(("ranks", "microbatches"), SIZES)
@pytest.mark.parametrize("name", PAIRS)
def test_never_slower_and_never_holding_more(name, ranks, microbatches):
    their, our, chunks = PAIRS[name]
    if name == "dualpipe_v":
        microbatches = max(2 * ranks, microbatches)  # theirs has none for fewer
    theirs_lowered = add_transfers(their_order(their, ranks, microbatches, chunks))
    ours_lowered = add_transfers(our(ranks, microbatches, chunks))
    validate(theirs_lowered)
    for forward, input_grad, weight_grad, transfer in COSTS:
        costs = Costs(forward=[forward], input_grad=[input_grad], weight_grad=[weight_grad], transfer=[transfer])
        ours, peer = simulate(ours_lowered, costs), simulate(theirs_lowered, costs)
        assert ours.makespan <= peer.makespan
        assert ours.peak_activations == peer.peak_activations
