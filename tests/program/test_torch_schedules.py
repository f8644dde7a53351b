"""Our schedules beside those of torch.distributed.pipelining, under the same simulator: never slower, never holding more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch.distributed.pipelining import schedules as theirs

from mpitrain.program import Action, Costs, Kind, add_transfers, schedule_named, simulate, validate
from mpitrain.program.schedules import dualpipe_v, gpipe, interleaved, looped_bfs, zb_h1, zb_v

KINDS = {
    theirs.FORWARD: Kind.F,
    theirs.FULL_BACKWARD: Kind.B,
    theirs.BACKWARD_INPUT: Kind.I,
    theirs.BACKWARD_WEIGHT: Kind.W,
}


def their_order(schedule, ranks, microbatches, chunks):
    """The actions of `schedule`, a class of torch's, which it computes without a process group if its fields are there."""
    fields = fields_of(ranks, microbatches, chunks)
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


def fields_of(ranks, microbatches, chunks):
    """What a schedule of torch's asks of itself."""
    rounds = max(1, microbatches // ranks)
    return SimpleNamespace(
        pp_group_size=ranks,
        n_local_stages=chunks,
        num_stages=ranks * chunks,
        _num_stages=ranks * chunks,
        _stages=[None] * chunks,
        _n_microbatches=microbatches,
        number_of_rounds=rounds,
        microbatches_per_round=microbatches // rounds,
    )


def dumped(schedule, ranks, microbatches, chunks, file, form):
    """Let torch write `file`, from what `schedule` computes and torch's own lowering adds."""
    single = issubclass(schedule, theirs.PipelineScheduleSingle)
    if single:  # the orders of all ranks at once, and the exchange of gradients with them
        order = schedule._get_pipeline_order(SimpleNamespace(_num_stages=ranks, _n_microbatches=microbatches))
    else:
        fields = fields_of(ranks, microbatches, chunks)
        order = {rank: schedule._calculate_single_rank_operations(fields, rank) for rank in range(ranks)}
    owner = {a.stage_index: rank for rank, row in order.items() for a in row if a and a.computation_type is theirs.FORWARD}
    runtime = SimpleNamespace(pipeline_order=order)
    if form == "compute_comms":
        added = {rank: theirs._add_unshard_reshard(row) for rank, row in order.items()}
        if not single:
            added = {rank: theirs._add_reduce_grad(row, microbatches) for rank, row in added.items()}
        stages = ranks * chunks
        runtime.pipeline_order_with_comms = theirs._add_send_recv(added, stage_to_rank=owner.get, num_stages=stages)
    theirs._PipelineScheduleRuntime._dump_csv(runtime, file, format=form)


DUMPED = {
    "gpipe": (theirs.ScheduleGPipe, gpipe, 1),
    "1f1b": (theirs.ScheduleInterleaved1F1B, None, 1),
    "zb_v": (theirs.ScheduleZBVZeroBubble, zb_v, 2),
    "dualpipe_v": (theirs.ScheduleDualPipeV, None, 2),
}


@pytest.mark.parametrize("form", ["compute_only", "compute_comms"])
@pytest.mark.parametrize("name", DUMPED)
def test_what_torch_dumps_is_read(name, form, tmp_path):
    schedule, ours, chunks = DUMPED[name]
    ranks, microbatches = 3, 8
    dumped(schedule, ranks, microbatches, chunks, tmp_path / "order.csv", form)
    read = schedule_named(str(tmp_path / "order.csv"))(ranks, microbatches)
    assert read == (ours(ranks, microbatches) if ours else their_order(schedule, ranks, microbatches, chunks))
    text = (tmp_path / "order.csv").read_text()
    words = {
        "compute_only": ["REDUCE_GRAD"] if name == "gpipe" else [],
        "compute_comms": ["SEND_B", "RECV_F", "UNSHARD", "REDUCE"],
    }
    assert all(word in text for word in [*words[form], *(["OVERLAP_F_B"] if name == "dualpipe_v" else [])])


def test_what_torch_cannot_run_is_refused(tmp_path):
    """The order of its `Schedule1F1B` counts the last rank's forwards from 1, and its own lowering refuses it."""
    dumped(theirs.Schedule1F1B, 3, 8, 1, tmp_path / "order.csv", "compute_only")
    with pytest.raises(ValueError, match=r"order.csv runs 9 microbatches, 0 to 8; expected the step's 8, 0 to 7"):
        schedule_named(str(tmp_path / "order.csv"))(3, 8)


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
