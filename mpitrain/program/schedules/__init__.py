"""Schedules: pure functions (ranks, microbatches) -> actions of each rank."""

from mpitrain.program.schedules.automatic import automatic
from mpitrain.program.schedules.custom import custom
from mpitrain.program.schedules.dualpipe_v import dualpipe_v
from mpitrain.program.schedules.gpipe import gpipe
from mpitrain.program.schedules.inference import inference
from mpitrain.program.schedules.interleaved import interleaved
from mpitrain.program.schedules.looped_bfs import looped_bfs
from mpitrain.program.schedules.one_f_one_b import one_f_one_b
from mpitrain.program.schedules.table import SCHEDULES, ScheduleFunction, Search, schedule_named
from mpitrain.program.schedules.zb_h1 import zb_h1
from mpitrain.program.schedules.zb_v import zb_v

__all__ = [
    "SCHEDULES",
    "ScheduleFunction",
    "Search",
    "automatic",
    "custom",
    "dualpipe_v",
    "gpipe",
    "inference",
    "interleaved",
    "looped_bfs",
    "one_f_one_b",
    "schedule_named",
    "zb_h1",
    "zb_v",
]
