"""Transfers between stages: the actions SEND_F, RECV_F, SEND_B, RECV_B.

Invariant: receives are posted early and in the program's order, sends never block, and a tag carries (direction, stage,
microbatch); so two messages can never be taken for each other, and every acyclic program is free of deadlock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.comm.communicator import Communicator, Request
from mpitrain.program.action import Action, Kind

#: A stage and a microbatch.
Slot = tuple[int, int]

#: What crosses between two stages at once: one array, or as many as a layer's tuple of tensors has.
Parts = tuple[Array, ...]
MAX_PARTS = 8

#: Each kind of transfer: its direction, and the offset of the stage that the message is for.
_MESSAGES = {Kind.SEND_F: (0, +1), Kind.RECV_F: (0, 0), Kind.SEND_B: (1, -1), Kind.RECV_B: (1, 0)}


def tag_of(action: Action, stages: int, part: int = 0) -> int:
    """The tag of a message of a transfer, one for each (direction, receiving stage, microbatch, part)."""
    direction, offset = _MESSAGES[action.kind]
    assert action.microbatch is not None
    return ((action.microbatch * stages + action.stage + offset) * 2 + direction) * MAX_PARTS + part


@dataclass(slots=True)
class Mail:
    """What lies ready for the stages of a rank: the inputs of each forward, the output gradients of each backward.

    Only real numbers have gradients: integers that cross with them have none.
    """

    inputs: dict[Slot, Parts] = field(default_factory=dict)
    grads: dict[Slot, Parts] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundary:
    """A part of what crosses from one stage to the next, for one sample: `shape` without the sample dim."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def has_grad(self) -> bool:
        """Whether a gradient comes back for it."""
        return self.dtype.kind not in "iub"


class Transfers:
    """The sends and receives of one rank of a pipeline."""

    def __init__(
        self,
        comm: Communicator,
        owner: Mapping[int, int],
        boundaries: Mapping[int, Sequence[Boundary]],
        mail: Mail,
        arrays: Arrays,
        ahead: int = 2,
    ) -> None:
        """`owner` maps a stage to its rank in `comm`, `boundaries` a stage to what enters it; `ahead` receives are early."""
        self.comm, self.owner, self.boundaries = comm, owner, boundaries
        self.mail, self.arrays, self.ahead = mail, arrays, ahead
        self.coming: deque[Action] = deque()
        self.posted: dict[Action, list[tuple[Request, Array]]] = {}
        self.sending: deque[tuple[Request, Array]] = deque()
        self.rows: Sequence[int] = ()

    def begin(self, actions: Sequence[Action], rows: Sequence[int]) -> None:
        """Start a program whose microbatch i has `rows[i]` samples."""
        assert not self.posted, "the step before has ended"
        self.rows = rows
        self.coming = deque(action for action in actions if action.kind in (Kind.RECV_F, Kind.RECV_B))
        for _ in range(self.ahead):
            self._post()

    def receive(self, action: Action) -> None:
        """RECV_F, RECV_B: wait for the message, and post the next receive in its place."""
        assert action.microbatch is not None
        posted = self.posted.pop(action)
        self._post()
        for request, _ in posted:
            request.wait()
        box = self.mail.inputs if action.kind is Kind.RECV_F else self.mail.grads
        box[action.stage, action.microbatch] = tuple(buffer for _, buffer in posted)

    def send(self, action: Action) -> None:
        """SEND_F, SEND_B: start the message; its array is kept until it has left."""
        while self.sending and self.sending[0][0].done():
            self.sending.popleft()
        _, offset = _MESSAGES[action.kind]
        assert action.microbatch is not None
        stage = action.stage + offset
        box = self.mail.inputs if action.kind is Kind.SEND_F else self.mail.grads
        for part, x in enumerate(map(self.arrays.xp.ascontiguousarray, box.pop((stage, action.microbatch)))):
            tag = tag_of(action, len(self.owner), part)
            self.sending.append((self.comm.isend(x, self.owner[stage], tag), x))

    def end(self) -> None:
        """Wait until everything that was sent has left."""
        while self.sending:
            self.sending.popleft()[0].wait()

    def _post(self) -> None:
        if not self.coming:
            return
        action = self.coming.popleft()
        assert action.microbatch is not None
        # The gradient of a stage's output has the shape of the next stage's input.
        forward = action.kind is Kind.RECV_F
        boundary = self.boundaries[action.stage if forward else action.stage + 1]
        source = self.owner[action.stage - 1 if forward else action.stage + 1]
        parts = boundary if forward else [part for part in boundary if part.has_grad]
        rows = self.rows[action.microbatch]
        buffers = [self.arrays.empty((rows, *part.shape), part.dtype) for part in parts]
        tags = (tag_of(action, len(self.owner), part) for part in range(len(buffers)))
        self.posted[action] = [
            (self.comm.irecv(buffer, source, tag), buffer) for buffer, tag in zip(buffers, tags, strict=False)
        ]
