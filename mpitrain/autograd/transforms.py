"""`checkpoint` and `no_grad`: run a function of a tensor so that it keeps less, or nothing, for backward.

Invariant: the numbers are those of the function itself; randomness is keyed by the context, calls included, so a second run
from the same counts repeats the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mpitrain.arrays import Array
from mpitrain.autograd.backward import WeightWork, backward, run_weights
from mpitrain.autograd.tensor import Op, Tensor

Function = Callable[[Tensor], Tensor]


def no_grad(function: Function) -> Function:
    """`function`, run without recording: its result is a constant for backward."""

    def run(x: Tensor) -> Tensor:
        y = function(Tensor(x.data, context=replace(x.context, record=False)))
        return Tensor(y.data, context=x.context)

    return run


def checkpoint(function: Function) -> Function:
    """`function`, keeping only its input for backward and computing the rest again there (Chen et al. 2016, section 3)."""

    def run(x: Tensor) -> Tensor:
        return _Recompute(function)(x)

    return run


class _Recompute(Op):
    def __init__(self, function: Function) -> None:
        self.function = function
        self.work: WeightWork = []

    def forward(self, x: Array) -> Array:
        self.x, self.calls = x, self.context.calls.copy()
        y = self.function(Tensor(x, context=replace(self.context, record=False)))
        self.trains = y.needs_grad  # x is a constant here
        return y.data

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        x = Tensor(self.x, context=replace(self.context, calls=self.calls), needs_grad=self.wanted[0])
        (dx,) = backward([self.function(x)], [dy], leaves=[x], put_off=self.work)
        return (dx,)

    def has_weights(self) -> bool:
        return self.trains

    def accumulate(self, dy: Array) -> None:
        run_weights(self.work)
