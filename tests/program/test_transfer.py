"""What a step repeats is worked out once, and messages are asked for now and then only."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.arrays import Arrays
from mpitrain.program import Action, Kind, Mail, Piece, Transfers, transfer

ACTIONS = (
    [Action(Kind.SEND_F, 0, 0), Action(Kind.SEND_F, 0, 1), Action(Kind.RECV_B, 0, 0), Action(Kind.RECV_B, 0, 1)],
    [Action(Kind.RECV_F, 1, 0), Action(Kind.RECV_F, 1, 1), Action(Kind.SEND_B, 1, 0), Action(Kind.SEND_B, 1, 1)],
)
ROWS = 3


def step(transfers, actions, route, crossings, number):
    """Two microbatches there and back; what the second rank makes of each is twice as much."""
    mail = transfers.mail
    transfers.begin(actions, route, crossings)
    for action in actions:
        i = action.microbatch
        if action.kind is Kind.SEND_F:
            mail.inputs[1, i] = (np.full((ROWS, 2), number + i), np.arange(ROWS))
        elif action.kind is Kind.SEND_B:
            mail.grads[0, i] = (2 * mail.inputs.pop((1, i))[0],)
        (transfers.receive if action.kind in (Kind.RECV_F, Kind.RECV_B) else transfers.send)(action)
    transfers.end()
    return [mail.grads.pop((0, i))[0].tolist() for i in (0, 1)] if actions is ACTIONS[0] else None


def run(comm, forget):
    """Three steps; with `forget`, the ranks learn the shapes anew in each."""
    transfers = Transfers(comm, 2, Mail(), Arrays())
    actions, crossings = ACTIONS[comm.rank], {}

    def route(stage, microbatch):
        return [Piece(stage, 0, ROWS)]

    found = []
    for number in range(3):
        found.append(step(transfers, actions, route, {} if forget else crossings, float(number)))
        comm.barrier()
    return found


@pytest.mark.parametrize("forget", [False, True])
def test_there_and_back(forget):
    found, _ = mt.comm.local(2).run(lambda comm: run(comm, forget))
    assert found == [[[[2.0 * (number + i)] * 2] * ROWS for i in (0, 1)] for number in range(3)]


def test_tags_are_worked_out_once(monkeypatch):
    asked = []
    tag_of = transfer.tag_of
    monkeypatch.setattr(transfer, "tag_of", lambda action, stages, *part: asked.append(action) or tag_of(action, stages, *part))
    mt.comm.local(2).run(lambda comm: run(comm, False))
    # at each end, for each microbatch: the header and two parts there, one gradient back, since integers have none
    assert len(asked) == 2 * 2 * (1 + 2 + 1)


@pytest.mark.mpi(2, local=True)
def test_a_sender_whose_tensors_have_changed_says_so(comm):
    """Of as many bytes, too, of which a process sees nothing."""
    actions, mail, crossings = ACTIONS[comm.rank], Mail(), {}
    transfers, other = Transfers(comm, 2, mail, Arrays()), 1 - comm.rank

    def route(stage, microbatch):
        return [Piece(other, 0, ROWS)]

    for number in range(2):
        step(transfers, actions, route, crossings, float(number))
    transfers.begin(actions, route, crossings)
    for action in actions:
        if action.kind is Kind.SEND_F:
            good = (np.zeros((ROWS, 2)), np.arange(ROWS))
            changed = [
                (np.zeros((ROWS, 1, 2)), good[1]),
                (np.zeros((ROWS, 4), np.float32), good[1]),
                good[:1],
                (*good, good[1]),
            ]
            box, slot, words = (
                mail.inputs,
                (1, action.microbatch),
                r"crosses into stage 1, where float64 \(2,\), int64 \(\) did",
            )
        elif action.kind is Kind.SEND_B:
            good = (np.zeros((ROWS, 2)),)
            changed = [(np.zeros((ROWS, 2, 1)),), (np.zeros((ROWS, 2), np.float32),), (np.zeros((ROWS, 2)), np.zeros(ROWS))]
            box, slot, words = (
                mail.grads,
                (0, action.microbatch),
                r"the gradient of the input of stage 1 is .* is float64 \(2,\)",
            )
        else:
            transfers.receive(action)
            continue
        for parts in changed:
            box[slot] = parts
            with pytest.raises(ValueError, match=words):
                transfers.send(action)
        box[slot] = good
        transfers.send(action)
    transfers.end()


class Never:
    """A request that does not end, and takes a millisecond of the clock `now` to say so."""

    def __init__(self, now):
        self.asked, self.now = 0, now

    def done(self):
        self.asked += 1
        self.now[0] += 1e-3
        return False


def test_asking_for_a_message_that_has_not_come_takes_little_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(transfer, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    transfers = Transfers(None, 2, Mail(), Arrays())
    sent, coming = Never(now), Never(now)
    transfers.posted[ACTIONS[1][0]] = [coming], ()
    while now[0] < 0.2:
        transfers.advance()
        now[0] += 1e-4
    assert coming.asked == 4  # each time 1 ms, then 50 ms not
    transfers.sending.append((sent, np.zeros(1)))
    transfers.resting, before = 0.0, coming.asked
    transfers.advance()
    assert (sent.asked, coming.asked) == (1, before)  # one question makes all of MPI's messages move
