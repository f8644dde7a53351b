"""`execute`: run a rank's actions, in order.  The one loop that every way to train goes through.

Invariant: what an action does is the entry of its kind in a table, and nothing here knows any kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from mpitrain.program.action import Action, Kind

#: What each kind of action does.
Handlers = Mapping[Kind, Callable[[Action], None]]

#: Called with a label around each action; names it if it never returns.
Watch = Callable[[str], AbstractContextManager[object]]


class Measured(NamedTuple):
    """An action with the seconds at which it began and ended, on the clock of `time.perf_counter`."""

    action: Action
    begin: float
    end: float


def execute(actions: Sequence[Action], handlers: Handlers, watch: Watch, between: Callable[[], None]) -> list[Measured]:
    """Do `actions`, calling `between` after each to move on what is under way; an exception says which one it came from."""
    measured = []
    for action in actions:
        begin = time.perf_counter()
        try:
            with watch(action.sentence):
                handlers[action.kind](action)
            measured.append(Measured(action, begin, time.perf_counter()))
            between()
        except Exception as error:
            error.add_note(f"in action {action.sentence}")
            raise
    return measured
