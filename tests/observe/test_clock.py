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


@pytest.mark.mpi(3, local=True)
def test_offsets_undo_the_skew_within_their_error(comm):
    clock = skewed(comm.rank)
    begin = clock()
    offset = offset_to_first(comm, rounds=20, clock=clock)
    took = clock() - begin
    assert abs(offset.seconds + _skew(comm.rank)) <= offset.error + 1e-9
    assert offset.error <= took / 20 / 2 + 1e-9  # half of the shortest round
    assert (offset == Offset()) == (comm.rank == 0)


def test_the_shortest_round_counts():
    """The first round takes 10 s on the clock of rank 1, the second half a second, the third 20 s."""
    readings = iter([0.0, 10.0, 20.0, 20.5, 30.0, 50.0])
    clocks = {0: iter([105.0, 120.25, 140.0]).__next__, 1: lambda: next(readings)}
    found = local(2).run(lambda comm: offset_to_first(comm, rounds=3, clock=clocks[comm.rank]))
    assert found[1] == Offset(100.0, 0.25)
