"""A pass of a pipeline by our executor, each stage of one layer: what the pipeline benchmarks measure.

Invariant: it goes through what training goes through (`Compute`, `Transfers`, `execute`), and the loss takes no time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.autograd import Context, Op, Tensor
from mpitrain.comm import Communicator
from mpitrain.nn import Module, Stage
from mpitrain.program import (
    Compute,
    Crossings,
    Kind,
    Mail,
    Microbatch,
    Piece,
    Schedule,
    Transfers,
    add_transfers,
    execute,
    owners,
)


class First(Op):
    """The first element, for a loss that takes no time: its gradient is at hand."""

    def __init__(self, gradient: Array) -> None:
        self.gradient = gradient

    def forward(self, x: Array) -> Array:
        """Of shape ()."""
        return x.reshape(-1)[0]

    def input_grad(self, dy: Array) -> tuple[Array | None, ...]:
        """Zeros but for one."""
        return (self.gradient,)


class FirstLoss:
    """The first element of the output as the loss."""

    def __init__(self, payload: int) -> None:
        self.gradient = np.zeros((1, payload), np.float32)
        self.gradient[0, 0] = 1

    def __call__(self, y: Tensor, targets: Array) -> Tensor:
        """Of shape ()."""
        return First(self.gradient)(y)

    def count(self, targets: Array) -> float:
        """One a microbatch."""
        return 1.0


def executor(
    comm: Communicator, order: Schedule, count: int, layer: Callable[[Callable[[], None]], Module], payload: int
) -> Callable[[], None]:
    """A pass of `count` microbatches in that order, each stage of one `layer`, as training does it; nothing is updated.

    A layer that stands for several is given what `Compute` calls between layers.
    """
    arrays, dtype, mail, owner = Arrays(), np.dtype(np.float32), Mail(), owners(order)
    actions, last = add_transfers(order)[comm.rank], len(owner) - 1
    transfers = Transfers(comm, len(owner), mail, arrays)
    stages = {stage: Stage([layer(transfers.advance)], first=stage) for stage, rank in owner.items() if rank == comm.rank}
    for stage in stages.values():
        stage.materialize(arrays, dtype)
    compute = Compute(stages, FirstLoss(payload), last, mail, arrays, dtype, transfers.advance)
    inputs = (np.ones((1, payload), dtype),) if 0 in stages else ()
    targets = np.zeros(1) if last in stages else None
    microbatches = [Microbatch(samples=(i,), inputs=inputs, targets=targets) for i in range(count)]
    handlers = {
        Kind.F: compute.forward,
        Kind.B: compute.backward,
        Kind.I: compute.input_grad,
        Kind.W: compute.weight_grad,
        Kind.RECV_F: transfers.receive,
        Kind.SEND_F: transfers.send,
        Kind.RECV_B: transfers.receive,
        Kind.SEND_B: transfers.send,
    }

    ways = {stage: [Piece(rank, 0, 1)] for stage, rank in owner.items()}
    crossings: Crossings = {}

    def route(stage: int, microbatch: int) -> list[Piece]:
        return ways[stage]

    def run() -> None:
        compute.begin(microbatches, Context())
        transfers.begin(actions, route, crossings)
        execute(actions, handlers, nullcontext, lambda: None)
        transfers.end()

    return run
