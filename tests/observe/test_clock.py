"""Offsets between clocks are found within the error that is stated with them, whatever the clocks show."""

from __future__ import annotations

import time

import pytest

from mpitrain.comm import local
from mpitrain.observe.clock import Offset, offset_to_first


def skewed(rank):
    """The clock of a rank: all of one test's run on one host, so the true skew is what is added here."""
    return lambda: time.perf_counter() + _skew(rank)


def _skew(rank):
    return [0.0, 7.25, -3600.0, 1e-3][rank]


@pytest.mark.mpi(3, timeout=30, local=True)
def test_offsets_undo_the_skew_within_their_error(comm):
    offset = offset_to_first(comm, clock=skewed(comm.rank))
    assert abs(offset.seconds + _skew(comm.rank)) <= offset.error + 1e-9
    assert offset.error < 0.05  # the best of 20 rounds, also on a busy machine
    assert (offset == Offset()) == (comm.rank == 0)


def test_the_shortest_round_counts():
    """The first round takes 10 s on the clock of rank 1, the second half a second, the third 20 s."""
    readings = iter([0.0, 10.0, 20.0, 20.5, 30.0, 50.0])
    clocks = {0: iter([105.0, 120.25, 140.0]).__next__, 1: lambda: next(readings)}
    found = local(2).run(lambda comm: offset_to_first(comm, rounds=3, clock=clocks[comm.rank]))
    assert found[1] == Offset(100.0, 0.25)
