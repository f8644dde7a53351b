"""Transfers between stages: the actions SEND_F, RECV_F, SEND_B, RECV_B.

Invariant: receives are posted early and in the program's order, sends never block, and a tag carries (direction, stage,
microbatch); so two messages can never be taken for each other, and every acyclic program is free of deadlock.  What crosses is
told once, in a header before its first message, and both sides remember it; a sender whose tensors have changed says so, since
a receiver is told of bytes alone.

A stage may have another number of replicas than its neighbour.  Then each replica sends every replica of the neighbour the
samples that the two share: a piece, which is a run of rows at both ends, so nothing is copied to scatter or to gather.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpitrain.arrays import Array, Arrays
from mpitrain.comm.communicator import Communicator, Request
from mpitrain.program.action import Action, Kind
from mpitrain.program.crossing import MAX_PARTS, Crossing, crossing_of, header, learnt, told

#: A stage and a microbatch.
Slot = tuple[int, int]

#: What crosses between two stages at once: one array, or as many as a layer's tuple of tensors has.
Parts = tuple[Array, ...]

#: For each slot that arrays cross into, what they are.
Crossings = dict[Slot, Crossing]

#: Each kind of transfer: its direction, and the offset of the stage that the message is for.
_MESSAGES = {Kind.SEND_F: (0, +1), Kind.RECV_F: (0, 0), Kind.SEND_B: (1, -1), Kind.RECV_B: (1, 0)}
#: ... and the offset of the stage at the other end.
_OTHER_END = {Kind.SEND_F: +1, Kind.RECV_F: -1, Kind.SEND_B: -1, Kind.RECV_B: +1}

#: The most of a rank's time that goes into asking for messages that have not come.
_SHARE = 0.02


def tag_of(action: Action, stages: int, part: int = MAX_PARTS) -> int:
    """The tag of a message of a transfer, one for each (direction, receiving stage, microbatch, part); of its header by
    default.
    """
    direction, offset = _MESSAGES[action.kind]
    assert action.microbatch is not None
    return ((action.microbatch * stages + action.stage + offset) * 2 + direction) * (MAX_PARTS + 1) + part


@dataclass(slots=True)
class Mail:
    """What lies ready for the stages of a rank: the inputs of each forward, the output gradients of each backward.

    Only real numbers have gradients: integers that cross with them have none.
    """

    inputs: dict[Slot, Parts] = field(default_factory=dict)
    grads: dict[Slot, Parts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `start .. stop` of this rank's part of a microbatch, which the rank `peer` has too."""

    peer: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Message:
    """A piece of a part, on its way under `tag`."""

    part: int
    piece: Piece
    tag: int


#: For a neighbouring stage and a microbatch, the pieces that this rank shares with that stage's replicas.
Route = Callable[[int, int], Sequence[Piece]]


class Transfers:
    """The sends and receives of one rank of a pipeline."""

    def __init__(self, comm: Communicator, stages: int, mail: Mail, arrays: Arrays, ahead: int = 2) -> None:
        """`ahead` receives are posted early."""
        self.comm, self.stages, self.mail, self.arrays, self.ahead = comm, stages, mail, arrays, ahead
        self.coming: deque[Action] = deque()
        self.posted: dict[Action, tuple[list[Request], Parts]] = {}
        self.sending: deque[tuple[Request, Array]] = deque()
        #: Until when `advance` asks for nothing.
        self.resting = 0.0
        self.actions: Sequence[Action] = ()
        self.route: Route = lambda stage, microbatch: ()
        self.crossings: Crossings = {}
        self.receives: list[Action] = []
        #: What every step of a program repeats: an action's messages, and the shapes and dtypes of what it receives.
        self.messages: dict[Action, list[Message]] = {}
        self.arriving: dict[Action, list[tuple[tuple[int, ...], np.dtype]]] = {}

    def begin(self, actions: Sequence[Action], route: Route, crossings: Crossings) -> None:
        """Start a program.  `crossings` is what the ranks remember of one like it, or empty on all of them; it is filled in.

        Where all three are the same objects as in the step before, nothing is worked out again: ranks that forget what crosses
        pass a new, empty one.
        """
        assert not self.posted, "the step before has ended"
        if actions is not self.actions or route is not self.route or crossings is not self.crossings:
            self.actions, self.route, self.crossings = actions, route, crossings
            self.receives = [action for action in actions if action.kind in (Kind.RECV_F, Kind.RECV_B)]
            self.messages.clear()
            self.arriving.clear()
        every = len(self.arriving) == len(self.receives)
        self.coming = deque(self.receives if every else (a for a in self.receives if _crossed(a) in crossings))
        for _ in range(self.ahead):
            self._post()

    def receive(self, action: Action) -> None:
        """RECV_F, RECV_B: wait for the message, and post the next receive in its place."""
        if action in self.posted:
            requests, parts = self.posted.pop(action)
            self._post()
        else:
            # The gradient of a stage's output is known from that output, which was sent by now.
            if action.kind is Kind.RECV_F:
                self.crossings[_crossed(action)] = self._learn(action)
            requests, parts = self._start(action)
        for request in requests:
            request.wait()
        box = self.mail.inputs if action.kind is Kind.RECV_F else self.mail.grads
        box[_slot(action)] = parts

    def send(self, action: Action) -> None:
        """SEND_F, SEND_B: start the message; its array is kept until it has left."""
        forward = action.kind is Kind.SEND_F
        stage = action.stage + _OTHER_END[action.kind]
        slot = stage, _slot(action)[1]
        box = self.mail.inputs if forward else self.mail.grads
        parts = [self.arrays.xp.asarray(part, order="C") for part in box.pop(slot)]
        pieces = self._pieces(action)
        found = crossing_of(parts, sum(piece.stop - piece.start for piece in pieces), stage)
        if not forward:
            _check_grads(found, self.crossings[action.stage, slot[1]], action)
        elif slot not in self.crossings:
            self.crossings[slot] = found
            for piece in pieces:
                self._send(told(found), piece.peer, tag_of(action, self.stages))
        elif found != self.crossings[slot]:
            raise ValueError(
                f"{_shown(found)} for each sample crosses into stage {stage}, where {_shown(self.crossings[slot])} did before, "
                "from inputs of the same shape; expected that shapes follow from those of the inputs: pad, or cut the model "
                "elsewhere"
            )
        for message in self._messages(action, len(parts)):
            piece = message.piece
            self._send(parts[message.part][piece.start : piece.stop], piece.peer, message.tag)

    def advance(self) -> None:
        """Let messages move on, without waiting: MPI takes them further only while it is asked."""
        if time.perf_counter() < self.resting:
            return
        while self.sending and self._has(self.sending[0][0]):
            self.sending.popleft()
        if not self.sending:
            all(self._has(request) for requests, _ in self.posted.values() for request in requests)

    def end(self) -> None:
        """Wait until everything that was sent has left."""
        while self.sending:
            self.sending.popleft()[0].wait()

    def _has(self, request: Request) -> bool:
        """Whether `request` has completed.  If not, asking rests: the longer it took, since MPI may have given the core away,
        the longer.
        """
        begin = time.perf_counter()
        if request.done():
            return True
        end = time.perf_counter()
        self.resting = end + (end - begin) / _SHARE
        return False

    def _send(self, x: Array, peer: int, tag: int) -> None:
        self.sending.append((self.comm.isend(x, peer, tag), x))

    def _learn(self, action: Action) -> Crossing:
        """What is about to arrive, from the headers of those who send it."""
        pieces, tag = self._pieces(action), tag_of(action, self.stages)
        headers = [header() for _ in pieces]
        for request in [self.comm.irecv(found, piece.peer, tag) for found, piece in zip(headers, pieces, strict=True)]:
            request.wait()
        first, *others = map(learnt, headers)
        for piece, other in zip(pieces[1:], others, strict=True):
            if other != first:
                raise ValueError(
                    f"rank {pieces[0].peer} sends {_shown(first)} and rank {piece.peer} {_shown(other)} into {action}; "
                    "expected one shape: where replicas share a microbatch, its samples have to be alike"
                )
        return first

    def _post(self) -> None:
        if self.coming:
            action = self.coming.popleft()
            self.posted[action] = self._start(action)

    def _start(self, action: Action) -> tuple[list[Request], Parts]:
        """Start to receive, each piece to its rows."""
        if action not in self.arriving:
            rows = sum(piece.stop - piece.start for piece in self._pieces(action))
            self.arriving[action] = [
                ((rows, *part.shape), part.dtype)
                for part in self.crossings[_crossed(action)]
                if action.kind is Kind.RECV_F or part.has_grad
            ]
        parts = tuple(self.arrays.empty(shape, dtype) for shape, dtype in self.arriving[action])
        requests = [
            self.comm.irecv(parts[message.part][message.piece.start : message.piece.stop], message.piece.peer, message.tag)
            for message in self._messages(action, len(parts))
        ]
        return requests, parts

    def _messages(self, action: Action, parts: int) -> list[Message]:
        """The messages of an action, worked out once."""
        if action not in self.messages:
            self.messages[action] = [
                Message(part, piece, tag_of(action, self.stages, part))
                for part in range(parts)
                for piece in self._pieces(action)
            ]
        return self.messages[action]

    def _pieces(self, action: Action) -> Sequence[Piece]:
        """What this rank shares with each rank at the other end of a transfer."""
        return self.route(action.stage + _OTHER_END[action.kind], _slot(action)[1])


def _slot(action: Action) -> Slot:
    assert action.microbatch is not None
    return action.stage, action.microbatch


def _crossed(receive: Action) -> Slot:
    """The slot whose input `receive` brings, or that input's gradient: it has the shape of the next stage's input."""
    stage, i = _slot(receive)
    return (stage if receive.kind is Kind.RECV_F else stage + 1), i


def _check_grads(found: Crossing, crossing: Crossing, action: Action) -> None:
    """`ValueError` if gradients are not shaped as what they are of."""
    expected = tuple(part for part in crossing if part.has_grad)
    if found != expected:
        raise ValueError(
            f"the gradient of the input of stage {action.stage} is {_shown(found)} for each sample where the input is "
            f"{_shown(expected)}; expected the same: see the input_grad of the stage's ops"
        )


def _shown(crossing: Crossing) -> str:
    return ", ".join(f"{part.dtype} {part.shape}" for part in crossing)
