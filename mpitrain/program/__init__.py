"""Actions, schedules, lowering, proof, simulation, execution."""

from mpitrain.program.action import Action, B, F, Kind, Program, Schedule, owners, stages_of
from mpitrain.program.compute import Compute, Microbatch
from mpitrain.program.execute import Handlers, Measured, Watch, execute
from mpitrain.program.lower import (
    add_tally,
    add_transfers,
    add_update,
    arm_reduction,
    gather_after_update,
    gather_around,
    refine,
)
from mpitrain.program.schedules import SCHEDULES, ScheduleFunction, gpipe, inference, one_f_one_b, schedule_named
from mpitrain.program.simulate import Costs, Timeline, peak_activations, simulate
from mpitrain.program.transfer import Boundary, Mail, Transfers, tag_of
from mpitrain.program.update import Metrics, Sums, Update, plain_sums
from mpitrain.program.validate import ProgramError, validate

__all__ = [
    "SCHEDULES",
    "Action",
    "B",
    "Boundary",
    "Compute",
    "Costs",
    "F",
    "Handlers",
    "Kind",
    "Mail",
    "Measured",
    "Metrics",
    "Microbatch",
    "Program",
    "ProgramError",
    "Schedule",
    "ScheduleFunction",
    "Sums",
    "Timeline",
    "Transfers",
    "Update",
    "Watch",
    "add_tally",
    "add_transfers",
    "add_update",
    "arm_reduction",
    "execute",
    "gather_after_update",
    "gather_around",
    "gpipe",
    "inference",
    "one_f_one_b",
    "owners",
    "peak_activations",
    "plain_sums",
    "refine",
    "schedule_named",
    "simulate",
    "stages_of",
    "tag_of",
    "validate",
]
