"""Every schedule in the layout grid: several stages a rank, both ends of a tied model on one, replicas; against one rank.

A schedule from a file is here too, with a placement that none of the others has.
"""

from __future__ import annotations

import functools

import pytest
from layout_cases import Case, check, tokens

import mpitrain as mt


@functools.cache
def gpt(depth, tied):
    return lambda: mt.nn.models.GPT(width=16, depth=depth, heads=2, vocab=61, context=12, tied=tied)


@functools.cache
def llama(depth, tied):
    return lambda: mt.nn.models.Llama(width=16, depth=depth, heads=2, kv_heads=1, vocab=61, context=12, mlp=24, tied=tied)


#: Schedule, and layers that a rank needs.
SCHEDULES = {"interleaved": 2, "interleaved:3": 3, "looped_bfs": 2, "zb_h1": 1, "zb_v": 2, "dualpipe_v": 2}

LAYOUTS = [(gpt, True, 1, 2, 5), (gpt, True, 2, 2, 3), (gpt, True, 1, 3, 2), (gpt, True, 2, 4, 2)]
LAYOUTS += [(gpt, False, 1, 3, 4), (llama, False, 2, 2, 2), (llama, True, 1, 4, 8)]
ZERO = [(schedule, zero) for schedule in ("interleaved", "zb_v", "dualpipe_v") for zero in (1, 2, 3)]


def case(schedule, model, tied, dp, pp, microbatches, **settings):
    depth = SCHEDULES[schedule] * pp
    batch = 2 * dp * microbatches - 1
    return Case(model(depth, tied), tokens, dp, pp, microbatches, schedule, batch, "float64", settings=settings)


CASES = {
    f"{schedule}-{model.__name__}-{'tied' if tied else 'untied'}-dp{dp}-pp{pp}-m{m}": case(schedule, model, tied, dp, pp, m)
    for schedule in SCHEDULES
    for model, tied, dp, pp, m in LAYOUTS
}
CASES |= {f"{schedule}-zero{zero}": case(schedule, gpt, True, 2, 2, 3, zero=zero) for schedule, zero in ZERO}


@pytest.mark.parametrize("name", CASES)
def test_schedule_equals_one_rank_locally(name):
    check(mt.comm.local(CASES[name].size), CASES[name])


@pytest.mark.mpi([2, 4], timeout=120)
def test_schedules_equal_one_rank_over_mpi(world):
    for name in [name for name, case in CASES.items() if case.size == world.size and "gpt-tied" in name]:
        print(name, flush=True)
        check(world, CASES[name])


#: Rank 1 begins and ends, rank 0 has the middle; a backward pass is whole on one stage and in two halves on another.
CUSTOM = """\
1F0,1F1,1I0,1B1,,1W0
0F0,0F1,2F0,2I0,2F1,2B1,2W0,0B0,0I1,,0W1
"""


@pytest.mark.parametrize("dp", [1, 2, (1, 2)])
def test_a_file_with_a_placement_of_its_own_equals_one_rank(tmp_path, dp):
    file = tmp_path / "order.csv"
    file.write_text(CUSTOM)
    case = Case(gpt(3, True), tokens, dp, 2, 2, str(file), 8, "float64")
    check(mt.comm.local(case.size), case)
