"""Where the time went adds up, and every rank's counts."""

from __future__ import annotations

import pytest

from mpitrain.comm import local
from mpitrain.observe.spent import PARTS, Spent
from mpitrain.program import Action, Measured


def measured(text):
    parts = [part.split() for part in text.split(",")]
    return [Measured(Action.parse(action), float(begin), float(end)) for action, begin, end in parts]


def test_parts_add_up_to_the_steps():
    spent = Spent()
    for _ in range(2):
        spent.add(measured("0RECV_F0 0 1, 0F0 1 4, 0SEND_F0 4 4.5, 0REDUCE 4.5 6.5, 0TALLY 6.5 7, 0STEP 7 8"), 10.0)
    found = dict(zip(PARTS, spent.seconds.tolist(), strict=True))
    assert found == {
        "compute": 8.0,
        "waiting for activations": 2.0,
        "reducing": 4.0,
        "waiting for the last rank": 1.0,
        "other": 5.0,
    }
    assert spent.seconds.sum() == 20.0


@pytest.mark.parametrize("ranks", [1, 2])
def test_one_sentence_for_all_ranks(ranks):
    def run(comm):
        spent = Spent()
        spent.add(measured(f"0F0 0 {2 + 6 * comm.rank}, 0REDUCE 8 9"), 10.0)
        return spent.line(comm)

    lines = local(ranks).run(run)
    mean = {1: 20, 2: 50}[ranks]
    expected = f"a step's time: compute {mean}%, waiting for activations 0%, reducing 10%, waiting for the last rank 0%, other "
    assert lines == [expected + {1: "70%", 2: "40%; rank 1 computed most, 80%"}[ranks]] * ranks
