"""Stages that only sleep, and sleeping as long as was asked.

Invariant: a sleep ends at its deadline and not before, as nearly as the machine allows, for whoever sleeps.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mpitrain.arrays import Array
from mpitrain.autograd import Op, Tensor
from mpitrain.nn import Module, Parameter
from mpitrain.nn.init import ZEROS

#: Seconds of a layer: a stage that sleeps stands for as many as fit into it, and between two of them messages move on.  It is
#: a choice: waking more often lets messages move on sooner, and disturbs the other ranks of the core more.
LAYER_S = 2.5e-3

#: How much before its deadline a sleep ends, since the machine is about that late; the rest is spent looking at the clock.
_EARLY_S = 1e-4

#: Keeps a core busy for nobody: any other process takes it at once.  Ends with the process that started it.
_SPIN = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while True:
    pass
"""


@contextmanager
def awake() -> Iterator[None]:
    """Keep the cores from idling, by a process of the idle class on each.

    An idle core sleeps, and a virtual one is taken away: then it comes back late, by milliseconds where others want it, and
    with cold caches.  A core that computes, which these sleeps stand for, does not.
    """
    spinners = [subprocess.Popen([sys.executable, "-c", _SPIN, str(core)]) for core in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
        for spinner in spinners:
            spinner.wait()


def sleep(seconds: float, between: Callable[[], None] | None = None) -> None:
    """Sleep for `seconds`; where there is something to do between two layers, wake up for it.

    The process's timer slack stays as it is: with less, MPI's own naps between two looks become a spin that takes the cores.
    """
    begin = time.perf_counter()
    deadline = begin + seconds
    if between:
        layers = round(seconds / LAYER_S)
        for layer in range(1, layers):
            time.sleep(max(0.0, begin + seconds * layer / layers - time.perf_counter()))
            between()
    time.sleep(max(0.0, deadline - time.perf_counter() - _EARLY_S))
    while time.perf_counter() < deadline:
        pass


class Sleeping(Op):
    """Takes time and hands on what it was given."""

    def __init__(self, seconds: Sequence[float], scale: Sequence[float], between: Callable[[], None]) -> None:
        self.seconds, self.scale, self.between = seconds, scale, between

    def forward(self, x: Array, weight: Array) -> Array:
        """`x`, later."""
        self._sleep(0)
        return x

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        """`dy`, later."""
        self._sleep(1)
        return (dy,)

    def weight_grad(self, dy: Array, *out: Array) -> None:
        """Zero, later."""
        self._sleep(2)
        out[0].fill(0)

    def _sleep(self, part: int) -> None:
        sleep(self.seconds[part] * self.scale[0], self.between)


class SleepingLayer(Module):
    """A layer of one weight that sleeps in each of its passes, `scale[0]` times `seconds`."""

    def __init__(self, seconds: Sequence[float], scale: Sequence[float], between: Callable[[], None]) -> None:
        self.weight = Parameter((1,), ZEROS)
        self.seconds, self.scale, self.between = seconds, scale, between

    def forward(self, x: Tensor) -> Tensor:
        """`x`, later."""
        return Sleeping(self.seconds, self.scale, self.between)(x, weights=(self.weight,))
