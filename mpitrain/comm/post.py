"""`Post`: the messages under way between ranks that are threads of one process, and who of them is still there.

Invariant: messages match receives by channel, in the order in which each side started them; no wait outlives the rank that it
is for, nor the time limit; one lock guards it all.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

#: A stream of messages: (group, source in the world, destination in the world, tag); `None` is the collectives' tag.
Channel = tuple[str, int, int, int | None]


class RankDiedError(RuntimeError):
    """The rank was killed, by `LocalWorld.kill` or by `deaths`."""


class PeerGoneError(RuntimeError):
    """A rank that this one waits for died, failed or returned; `peer` is its number in the world."""

    def __init__(self, message: str, peer: int) -> None:
        super().__init__(message)
        self.peer = peer


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message that was sent."""

    array: np.ndarray
    #: Which operation sent it: "send", or the collective's name.
    kind: str
    visible_at: float


@dataclass(kw_only=True, slots=True)
class Post:
    """The post office of one world."""

    size: int
    latency: float
    limit_s: float
    deaths: dict[int, int]
    gone: dict[int, str] = field(default_factory=dict)
    failures: list[tuple[int, BaseException]] = field(default_factory=list)
    started: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    sent: defaultdict[Channel, int] = field(default_factory=lambda: defaultdict(int))
    asked: defaultdict[Channel, int] = field(default_factory=lambda: defaultdict(int))
    mail: dict[tuple[Channel, int], Message] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def leave(self, rank: int, why: str) -> None:
        """Nothing more comes from `rank`, which "has returned", say."""
        with self.changed:
            self.gone[rank] = why
            self.changed.notify_all()

    def fail(self, rank: int, error: BaseException) -> None:
        """`rank` ends with `error`."""
        with self.changed:
            self.failures.append((rank, error))
        self.leave(rank, "has died" if isinstance(error, RankDiedError) else f"has failed with {type(error).__name__}: {error}")

    def start_operation(self, rank: int) -> None:
        """`rank` starts a send, a receive or a collective, unless it was told to die before that."""
        with self.changed:
            self._die_if_due(rank)
            self.started[rank] += 1

    def put(self, channel: Channel, array: np.ndarray, kind: str) -> None:
        """Send `array`, which nobody will write to."""
        with self.changed:
            number = self.sent[channel]
            self.sent[channel] += 1
            self.mail[channel, number] = Message(array=array, kind=kind, visible_at=time.monotonic() + self.latency)
            self.changed.notify_all()

    def ask(self, channel: Channel) -> int:
        """The number of the next message of `channel` to be received: receives match sends in the order of their start."""
        with self.changed:
            number = self.asked[channel]
            self.asked[channel] += 1
            return number

    def arrived(self, channel: Channel, number: int) -> bool:
        """Whether the message is there; raises if its receiver is dead or it can never come."""
        _, source, rank, _ = channel
        self._die_if_due(rank)
        message = self.mail.get((channel, number))
        if message is None and source in self.gone:
            raise PeerGoneError(f"{_waiting(channel)}, but rank {source} {self.gone[source]}", source)
        return message is not None and message.visible_at <= time.monotonic()

    def take(self, channel: Channel, number: int) -> Message:
        """Wait for the message and remove it."""
        deadline = time.monotonic() + self.limit_s
        with self.changed:
            while not self.arrived(channel, number):
                now = time.monotonic()
                if now > deadline:
                    raise TimeoutError(f"{_waiting(channel)} for more than {self.limit_s:g} s")
                message = self.mail.get((channel, number))
                self.changed.wait(min(deadline, message.visible_at if message else deadline) - now + 1e-4)
            return self.mail.pop((channel, number))

    def _die_if_due(self, rank: int) -> None:
        if self.started[rank] >= self.deaths.get(rank, self.started[rank] + 1):
            raise RankDiedError(f"rank {rank} died after {self.started[rank]} operations, as it was told to")


def _waiting(channel: Channel) -> str:
    group, source, rank, tag = channel
    return f"rank {rank} waits in group {group} for {'a collective' if tag is None else f'tag {tag}'} from rank {source}"
