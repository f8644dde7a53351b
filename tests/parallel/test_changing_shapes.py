"""Batches of other shapes from step to step: what crosses between stages is told anew where it changes, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from layout_cases import Case, check, gpt

import mpitrain as mt
from mpitrain.program import transfer


class Padded:
    """Texts of one of some lengths, a batch as long as its longest."""

    def __init__(self, *lengths):
        random = np.random.default_rng(6)
        self.lengths = random.choice(lengths or range(3, 13), 40)
        self.tokens = random.integers(0, 61, (40, 13))

    def __len__(self):
        return len(self.lengths)

    def batch(self, numbers):
        longest = self.lengths[numbers].max()
        return self.tokens[numbers, :longest], self.tokens[numbers, 1 : longest + 1]


@pytest.mark.parametrize(("dp", "pp", "schedule"), [(1, 2, "1f1b"), (2, 2, "zb_h1"), (1, 3, "gpipe"), (2, 2, "interleaved")])
def test_equals_one_rank(dp, pp, schedule):
    case = Case(gpt(), Padded, dp, pp, 2, schedule, 5 * dp, "float64", alone=2 * dp)
    check(mt.comm.local(case.size), case)


@pytest.mark.mpi(2)
def test_equals_one_rank_over_mpi(world):
    check(world, Case(gpt(), Padded, 1, 2, 2, "1f1b", 5, "float64", alone=2))


def trainer(data):
    mesh = mt.Mesh(mt.comm.local(2), mt.Layout(pp=2))
    return mt.Trainer(gpt()(), mt.optim.SGD(lr=0.1), data, mesh=mesh, microbatches=3, batch=6, arrays="numpy")


def quiet(step):
    """Print nothing."""


def test_headers_are_sent_in_the_first_step_only(monkeypatch):
    sent, told = [], transfer.told
    monkeypatch.setattr(transfer, "told", lambda crossing: sent.append(crossing) or told(crossing))
    job = trainer(Padded(7))
    job.fit(5, report=quiet)
    assert len(sent) == 3  # one for each microbatch
    job.evaluate(Padded(9), 1)  # of another length
    assert len(sent) == 6
    job.fit(5, report=quiet)
    assert len(sent) == 6


def test_an_evaluation_tells_shapes_once_too(monkeypatch):
    sent, told = [], transfer.told
    monkeypatch.setattr(transfer, "told", lambda crossing: sent.append(crossing) or told(crossing))
    trainer(Padded(7)).evaluate(Padded(9))
    assert len(sent) == 3 + 3  # six batches of 6 samples, and one of the 4 that are left


def test_an_evaluation_of_changing_shapes_equals_one_rank():
    mesh = mt.Mesh(mt.comm.local(1), mt.Layout())
    alone = mt.Trainer(gpt()(), mt.optim.SGD(lr=0.1), Padded(), mesh=mesh, microbatches=3, batch=6, arrays="numpy")
    found, expected = trainer(Padded()).evaluate(Padded()), alone.evaluate(Padded())
    assert found.count == expected.count
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def test_going_back_to_a_checkpoint_is_a_change(tmp_path):
    job = trainer(Padded(5, 9))
    job.fit(3, report=quiet, folder=tmp_path)
    losses = [m.loss for m in job.fit(6, report=quiet)]  # it ends among batches of one length, and the fourth is another
    job.resume(tmp_path / "step-00000003")
    assert [m.loss for m in job.fit(6, report=quiet)] == losses


def test_replicas_that_share_a_microbatch_need_one_shape():
    mesh = mt.Mesh(mt.comm.local(3), mt.Layout(dp=(2, 1), pp=2))
    job = mt.Trainer(gpt()(), mt.optim.SGD(lr=0.1), Padded(), mesh=mesh, batch=6, arrays="numpy")
    with pytest.raises(ValueError, match=r"rank 0 sends .* and rank 1 .* into 1RECV_F0; expected one shape"):
        job.fit(10, report=quiet)
