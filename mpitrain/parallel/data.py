"""Data parallelism: the action REDUCE, the sum of a stage's gradients over its replicas.

Invariant: a stage's gradients are views into one flat buffer that is kept for the whole run, so they are reduced in one message
and never packed; the sum is over replicas only, what it is divided by is decided once, in the tally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpitrain.arrays import Array, Arrays
from mpitrain.comm.communicator import Communicator
from mpitrain.nn import Parameter
from mpitrain.program.action import Action


class GradientBuffer:
    """The gradients of `parameters`, end to end in one array."""

    def __init__(self, parameters: Sequence[Parameter], arrays: Arrays) -> None:
        self.parameters = list(parameters)
        dtype = self.parameters[0].data.dtype if self.parameters else "float32"
        self.flat: Array = arrays.zeros((sum(p.data.size for p in self.parameters),), dtype)
        start = 0
        for parameter in self.parameters:
            parameter.grad = self.flat[start : start + parameter.data.size].reshape(parameter.data.shape)
            start += parameter.data.size

    def settle(self) -> None:
        """Zero the gradients that no op contributed to in this step."""
        for parameter in self.parameters:
            parameter.settled_grad()


class DataParallel:
    """REDUCE for the stages of a rank, over its group along dp."""

    def __init__(self, comm: Communicator, buffers: Mapping[int, GradientBuffer]) -> None:
        self.comm, self.buffers = comm, buffers

    def reduce(self, action: Action) -> None:
        """REDUCE: sum the stage's gradients over its replicas."""
        buffer = self.buffers[action.stage]
        buffer.settle()
        if self.comm.size > 1 and buffer.flat.size:
            self.comm.allreduce(buffer.flat)
