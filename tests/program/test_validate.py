"""`validate` finds each way in which a program can be wrong, and shows the culprit."""

from __future__ import annotations

import pytest

from mpitrain.program import Action, B, F, Kind, ProgramError, add_transfers, add_update, gpipe, one_f_one_b, validate


def _changed(change):
    program = [list(actions) for actions in add_update(add_transfers(one_f_one_b(2, 2)))]
    change(program)
    return program


def _swap(rank, first, second):
    def change(program):
        actions = program[rank]
        i, j = actions.index(first), actions.index(second)
        actions[i], actions[j] = actions[j], actions[i]

    return change


SEND, RECEIVE = Action(Kind.SEND_F, 0, 1), Action(Kind.RECV_F, 1, 1)

WRONG = {
    "forward missing": (lambda p: p[0].remove(F(0, 1)), "stage 0, microbatch 1 on rank 0: found F 0 times"),
    "backward missing": (lambda p: p[1].remove(B(1, 0)), "stage 1, microbatch 0 on rank 1: found F 1 times, B 0 times"),
    "forward twice": (lambda p: p[0].insert(0, F(0, 0)), "rank 0, 0F0: stands 2 times"),
    "B and W": (lambda p: p[1].append(Action(Kind.W, 1, 0)), "W 1 times; expected F once and either B, or I and W"),
    "backward first": (_swap(1, F(1, 0), B(1, 0)), "rank 1, 1B0: 1F0 has to come before it"),
    "input missing": (_swap(1, Action(Kind.RECV_F, 1, 0), F(1, 0)), "rank 1, 1F0: one of 1RECV_F0, 0F0 has to come before"),
    "sent before made": (_swap(0, F(0, 1), SEND), "rank 0, 0SEND_F1: one of 0F1 has to come before it"),
    "nobody sends": (lambda p: p[0].remove(SEND), "rank 1, 1RECV_F1: no other rank has 0SEND_F1"),
    "nobody receives": (lambda p: p[0].append(Action(Kind.SEND_F, 0, 7)), "0SEND_F7"),
    "stage on two ranks": (lambda p: p[1].append(B(0, 0)), "stage 0 lives on rank 0; expected one rank a stage"),
    "tally missing": (lambda p: p[0].remove(Action(Kind.TALLY, 0)), "cannot finish: rank 1 waits in 1TALLY"),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_program_is_refused(change, says):
    with pytest.raises(ProgramError) as caught:
        validate(_changed(change))
    assert says in str(caught.value)


def test_a_deadlock_shows_every_waiting_rank():
    # Each rank receives before it sends, and what it waits for comes after: a cycle.
    program = [list(actions) for actions in add_transfers(gpipe(2, 1))]
    program[0] = [F(0, 0), Action(Kind.RECV_B, 0, 0), Action(Kind.SEND_F, 0, 0), B(0, 0)]
    with pytest.raises(ProgramError) as caught:
        validate(program)
    assert "rank 0 waits in 0RECV_B0; rank 1 waits in 1RECV_F0" in str(caught.value)
    assert str(caught.value).count("<-- here") == 2


def test_too_many_tags():
    with pytest.raises(ProgramError, match=r"tags up to .* and this MPI allows 3"):
        validate(add_transfers(gpipe(2, 8)), max_tag=3)


def test_actions_print_and_parse():
    for text in ["2F0", "0SEND_F3", "11RECV_B4", "2I0", "2W10", "1REDUCE", "0TALLY"]:
        assert str(Action.parse(text)) == text
    with pytest.raises(ValueError, match="'F20' is not an action; expected stage, kind, microbatch"):
        Action.parse("F20")
