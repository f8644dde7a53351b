"""The order that a search finds for a job is no slower than any fixed one and keeps to memory; it changes no result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_cases import Case, check, gpt, mlp, tokens, vectors

import mpitrain as mt
from mpitrain.parallel import LayerProfile, search, stage_costs
from mpitrain.program import (
    SCHEDULES,
    Costs,
    add_transfers,
    owners,
    peak_activations,
    schedule_named,
    simulate,
    validate,
)

LINE, FOLD = ("gpipe", "1f1b", "zb_h1"), ("zb_v", "dualpipe_v")


@settings(deadline=None, max_examples=60)
@given(bases=st.sampled_from([LINE, FOLD]), ranks=st.integers(1, 4), microbatches=st.integers(1, 6), data=st.data())
def test_no_fixed_schedule_that_fits_is_faster(bases, ranks, microbatches, data):
    base = SCHEDULES[data.draw(st.sampled_from(bases))](ranks, microbatches)
    stages, number = len(owners(base)), st.integers(1, 9)
    profile = [
        LayerProfile(
            forward=data.draw(number), input_grad=data.draw(number), weight_grad=data.draw(number), saved=data.draw(number)
        )
        for _ in range(stages)
    ]
    kept = [data.draw(number)] * stages
    costs = stage_costs(profile, [(stage, stage + 1) for stage in range(stages)], [1] * stages)
    found = search(base, costs, kept, None)
    program = add_transfers(found.schedule)
    validate(program)
    assert found.seconds == simulate(program, costs).makespan
    assert found.base_seconds == simulate(add_transfers(base), costs).makespan

    def fullest(schedule):
        """The bytes of each rank, each activation as one of its largest stage, of the fullest rank."""
        mine = [[stage for stage, rank in owners(schedule).items() if rank == place] for place in range(ranks)]
        return max(
            sum(kept[stage] for stage in own) + peak_activations(actions) * max(profile[stage].saved for stage in own)
            for own, actions in zip(mine, schedule, strict=True)
        )

    assert fullest(found.schedule) <= fullest(base)
    for name in bases:
        fixed = SCHEDULES[name](ranks, microbatches)
        if fullest(fixed) <= fullest(base):
            assert found.seconds <= simulate(add_transfers(fixed), costs).makespan


def test_more_memory_makes_it_faster_and_too_little_is_refused():
    base, kept, costs = SCHEDULES["1f1b"](4, 12), [100.0] * 4, Costs(activation=[10])
    found = [search(base, costs, kept, limit) for limit in (115, 125, None, 180)]
    for order, most in zip(found, (1, 2, 4, 8), strict=True):  # the fullest rank of 1F1B holds 4
        assert max(order.held) <= most
    assert [order.seconds for order in found] == sorted((order.seconds for order in found), reverse=True)
    assert found[0].seconds > found[2].seconds
    assert found[0].base_seconds == 3 * 3 + 12 * 3  # (p - 1 + m)(tF + tB)
    assert found[3].seconds == 3 + 12 * 3  # only the way to the last rank is lost
    with pytest.raises(
        ValueError, match="rank 0 of the pipeline keeps 100 bytes and 10 for each microbatch of a stage, of which"
    ):
        search(base, costs, kept, 105)


def test_a_narrower_stage_takes_longer_and_so_do_its_links():
    profile = [LayerProfile(forward=1, input_grad=2, weight_grad=3, saved=4, output=8)] * 3
    costs = stage_costs(profile, [(0, 1), (1, 2), (2, 3)], [2, 2, 1], lambda nbytes: 10 + nbytes)
    seconds = {"forward": [1, 1, 2], "input_grad": [2, 2, 4], "weight_grad": [3, 3, 6], "transfer": [18, 26, 26]}
    assert costs == Costs(**seconds, activation=[4, 4, 8])


#: The search in the layout grid: alone, with other stages, replicas, shared-out weights, a tied model, widths, a limit.
CASES = {
    "gpt-pp2": Case(gpt(), tokens, 1, 2, 4, "automatic", 8, "float64"),
    "gpt-dp2-pp2": Case(gpt(), tokens, 2, 2, 3, "automatic", 11, "float64"),
    "gpt-pp2-folded-auto": Case(gpt(), tokens, 1, 2, 4, "automatic:zb_v", 8, "float64", settings={"stages": "auto"}),
    "gpt-dp2-pp2-zero3": Case(gpt(), tokens, 2, 2, 3, "automatic", 12, "float64", settings={"zero": 3}),
    "mlp-pp4-limit": Case(mlp, vectors, 1, 4, 5, "automatic", 9, "float64", settings={"memory_gib": 0.1}),
    "mlp-pp2-by-hand": Case(mlp, vectors, 1, 2, 5, "automatic", 9, "float64", settings={"stages": [3, 5]}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_one_rank_locally(name):
    check(mt.comm.local(CASES[name].size), CASES[name])


@pytest.mark.mpi([2, 4], timeout=120)
def test_equals_one_rank_over_mpi_and_all_ranks_agree(world):
    for name in [name for name, case in CASES.items() if case.size == world.size]:
        print(name, flush=True)
        check(world, CASES[name])
    job = mt.Trainer(
        gpt()(),
        mt.optim.SGD(lr=0.1),
        tokens(),
        mesh=mt.Mesh(world, mt.Layout(pp=2, dp=world.size // 2)),
        schedule="automatic",
        microbatches=6,
        arrays="numpy",
    )
    numbers = np.array([job.order.seconds, job.order.base_seconds, *job.order.held])
    (everyone,) = world.run(lambda comm: comm.allgather(numbers))
    assert (everyone == numbers).all()
    assert job.order.seconds <= job.order.base_seconds
    assert str(job.order).startswith("order by search: ")


def test_a_name_with_the_stages_of_another_schedule():
    assert schedule_named("automatic")(3, 4) == SCHEDULES["1f1b"](3, 4)
    assert schedule_named("automatic:interleaved:3")(2, 4) == schedule_named("interleaved:3")(2, 4)
    with pytest.raises(ValueError, match=r"'automatic:automatic' is not known; expected one of .* automatic for a search"):
        schedule_named("automatic:automatic")
