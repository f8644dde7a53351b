"""Schedules: pure functions (stages, microbatches) -> actions of each rank."""

from mpitrain.program.schedules.gpipe import gpipe
from mpitrain.program.schedules.inference import inference
from mpitrain.program.schedules.one_f_one_b import one_f_one_b
from mpitrain.program.schedules.table import SCHEDULES, ScheduleFunction, schedule_named

__all__ = ["SCHEDULES", "ScheduleFunction", "gpipe", "inference", "one_f_one_b", "schedule_named"]
