"""`validate` finds each way in which a program can be wrong, and shows the culprit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitrain.program import (
    SCHEDULES,
    Action,
    B,
    F,
    Kind,
    ProgramError,
    add_transfers,
    add_update,
    gpipe,
    one_f_one_b,
    validate,
)
from mpitrain.program.replay import SENDERS, replay, sender_of


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
    "forward missing": (lambda p: p[0].remove(F(0, 1)), "stage 0, microbatch 1 on rank 0: found B; expected F and B, or F, I"),
    "backward missing": (lambda p: p[1].remove(B(1, 0)), "stage 1, microbatch 0 on rank 1: found F; expected F and B"),
    "forward twice": (lambda p: p[0].insert(0, F(0, 0)), "rank 0, 0F0: stands a second time"),
    "B and W": (lambda p: p[1].append(Action(Kind.W, 1, 0)), "on rank 1: found F and B and W; expected F and B, or"),
    "backward first": (_swap(1, F(1, 0), B(1, 0)), "rank 1, 1B0: 1F0 has to come before it"),
    "input missing": (_swap(1, Action(Kind.RECV_F, 1, 0), F(1, 0)), "rank 1, 1F0: one of 1RECV_F0, 0F0 has to come before"),
    "sent before made": (_swap(0, F(0, 1), SEND), "rank 0, 0SEND_F1: 0F1 has to come before it"),
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
    assert "<-- here" in str(caught.value)


def test_the_culprit_is_the_last_action_of_its_line():
    program = [list(actions) for actions in gpipe(2, 30)]
    program[0].remove(F(0, 20))
    program[0].append(F(0, 20))
    with pytest.raises(ProgramError) as caught:
        validate(add_transfers(program))
    lines = str(caught.value).splitlines()
    assert lines[0] == "rank 0, 0B20: 0F20 has to come before it"
    assert lines[1].startswith("  rank 0: ... 0RECV_B11 ")
    assert lines[1].endswith("0RECV_B20 0B20   <-- here")
    assert lines[2].endswith("1RECV_F9 1F9 ..."), "of other ranks the beginning"


def test_a_limit_of_activations():
    program = add_transfers(one_f_one_b(3, 5))
    validate(program, limits=[3, 2, 1])
    with pytest.raises(ProgramError, match=r"rank 1, 1F1: the rank holds 2 activations after it; expected at most 1"):
        validate(program, limits=[3, 1, 1])


def _finishes(program, ahead, random):
    """Whether `program` ends on ranks that take turns at random and a network that holds nothing: a message moves only once it
    is sent and its receive is posted, in the rank's order and at most `ahead` early; a rank ends when its sends have moved."""
    receives = [[a for a in actions if a.kind in SENDERS] for actions in program]
    at, passed, sent = [0] * len(program), [0] * len(program), set()

    def moved(rank, number):
        return number < passed[rank] + ahead and sender_of(receives[rank][number]) in sent

    def can_go(rank):
        if at[rank] == len(program[rank]):
            return False
        return program[rank][at[rank]].kind not in SENDERS or moved(rank, passed[rank])

    while able := [rank for rank in range(len(program)) if can_go(rank)]:
        rank = random.choice(able)
        action = program[rank][at[rank]]
        at[rank] += 1
        passed[rank] += action.kind in SENDERS
        if action.kind in (Kind.SEND_F, Kind.SEND_B):
            sent.add(action)
    return all(done == len(actions) for done, actions in zip(at, program, strict=True))


@pytest.mark.parametrize("ahead", [1, 2])
@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(SCHEDULES)), ranks=st.integers(2, 4), microbatches=st.integers(1, 5), random=st.randoms(),
    swaps=st.integers(0, 6),
)  # fmt: skip
def test_what_is_proven_ends_without_room_in_the_network(ahead, name, ranks, microbatches, random, swaps):
    program = [list(actions) for actions in add_transfers(SCHEDULES[name](ranks, microbatches))]
    for _ in range(swaps):  # receives and sends moved anywhere: many such programs are stuck
        actions = program[random.randrange(ranks)]
        transfers = [i for i, action in enumerate(actions) if action.kind not in (Kind.F, Kind.B, Kind.I, Kind.W)]
        actions.insert(random.randrange(len(actions)), actions.pop(random.choice(transfers)))
    stuck = replay(program, lambda action: 0.0, lambda action: 0.0).stuck
    assert _finishes(program, ahead, random) == (not stuck)


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
