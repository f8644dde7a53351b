"""A collective as a generator of requests, so that one description serves to run it at once or a little at a time.

Invariant: a collective yields each request that it has to wait for, and goes on once that is done; between two yields it only
computes.  So it makes progress whenever someone asks, and needs no thread, although MPI makes none by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Generator

from mpitrain.comm.communicator import Request

#: Yields what it waits for.  Composes by `yield from`.
Collective = Generator[Request, None, None]


class InFlight:
    """A collective under way.  Several threads may ask it to go on: one at a time does, and what fails fails for all."""

    def __init__(self, collective: Collective) -> None:
        self._collective = collective
        self._turn = threading.Lock()
        self._error: BaseException | None = None
        self._waits_for = next(collective, None)

    def advance(self) -> bool:
        """Go as far as messages have arrived, without waiting, nor for another thread that is at it; whether it has ended."""
        if self._turn.acquire(blocking=False):
            try:
                self._go(wait=False)
            finally:
                self._turn.release()
        return self._waits_for is None

    def wait(self) -> bool:
        """Wait for one message and go as far as others have arrived; whether it has ended."""
        with self._turn:
            self._go(wait=True)
        return self._waits_for is None

    def _go(self, *, wait: bool) -> None:
        if self._error is not None:
            raise self._error
        try:
            if wait and self._waits_for is not None:
                self._waits_for.wait()
            while self._waits_for is not None and self._waits_for.done():
                self._waits_for = next(self._collective, None)
        except BaseException as error:
            self._error = error
            raise

    def finish(self) -> None:
        """Run it to its end."""
        while not self.wait():
            pass


def finish(collective: Collective) -> None:
    """Run a collective to its end."""
    for request in collective:
        request.wait()
