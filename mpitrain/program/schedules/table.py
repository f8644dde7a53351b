"""The schedules by the names that a person writes.  Invariant: one line a schedule."""

from __future__ import annotations

from collections.abc import Callable

from mpitrain.program.action import Schedule
from mpitrain.program.schedules.gpipe import gpipe
from mpitrain.program.schedules.inference import inference
from mpitrain.program.schedules.one_f_one_b import one_f_one_b

#: A pure function (stages, microbatches) -> schedule.
ScheduleFunction = Callable[[int, int], Schedule]

#: Schedules that train.
SCHEDULES: dict[str, ScheduleFunction] = {"gpipe": gpipe, "1f1b": one_f_one_b}


def schedule_named(name: str) -> ScheduleFunction:
    """The schedule called `name`; `ValueError` names the ones that there are."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is not known; expected one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


__all__ = ["SCHEDULES", "ScheduleFunction", "inference", "schedule_named"]
