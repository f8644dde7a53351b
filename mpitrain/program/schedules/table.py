"""The schedules by the names that a person writes.  Invariant: one line a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mpitrain.program.action import Schedule
from mpitrain.program.schedules.custom import custom
from mpitrain.program.schedules.dualpipe_v import dualpipe_v
from mpitrain.program.schedules.gpipe import gpipe
from mpitrain.program.schedules.interleaved import interleaved
from mpitrain.program.schedules.looped_bfs import looped_bfs
from mpitrain.program.schedules.one_f_one_b import one_f_one_b
from mpitrain.program.schedules.zb_h1 import zb_h1
from mpitrain.program.schedules.zb_v import zb_v

#: A pure function (ranks, microbatches) -> schedule.
ScheduleFunction = Callable[[int, int], Schedule]

#: Schedules that train ...
SCHEDULES: dict[str, ScheduleFunction] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
    "looped_bfs": looped_bfs,
    "zb_h1": zb_h1,
    "zb_v": zb_v,
    "dualpipe_v": dualpipe_v,
}
#: ... and those of them that a number of chunks a rank can be given for, as in `interleaved:4`; by default it is 2.
CHUNKED: dict[str, Callable[..., Schedule]] = {"interleaved": interleaved, "looped_bfs": looped_bfs}


#: The name of a search; one with the stages of another schedule than 1F1B is called as in `automatic:zb_v`.
AUTOMATIC = "automatic"


@dataclass(frozen=True, slots=True)
class Search:
    """A schedule that is found once costs are known, by `automatic`: with the stages of `base`, for which it stands till then.

    What a rank may hold follows from memory, by default from what the fullest rank of `base` holds.
    """

    base: ScheduleFunction

    def __call__(self, ranks: int, microbatches: int) -> Schedule:
        """As `base`."""
        return self.base(ranks, microbatches)


def schedule_named(name: str) -> ScheduleFunction:
    """The schedule called `name`, such as `1f1b`, `interleaved:4` or `automatic`, or that in the file of that name, a `.csv`.

    `ValueError` names the ones that there are.
    """
    first, _, rest = name.partition(":")
    if first == AUTOMATIC and rest != AUTOMATIC:
        return Search(schedule_named(rest) if rest else one_f_one_b)
    if name.endswith(".csv"):
        return partial(custom, file=name)
    if name in SCHEDULES:
        return SCHEDULES[name]
    if first in CHUNKED and rest.isdecimal() and int(rest) > 0:
        return partial(CHUNKED[first], chunks=int(rest))
    raise ValueError(
        f"schedule {name!r} is not known; expected one of {', '.join(SCHEDULES)}, the chunks a rank after "
        f"{' or '.join(CHUNKED)} as in interleaved:4, or a file that ends in .csv; {AUTOMATIC} for a search, {AUTOMATIC}:zb_v "
        "for one with the stages of another schedule than 1F1B"
    )
