"""A schedule that a person writes: a CSV file with one row a rank.

Invariant: what comes back has passed `validate`; an error says the line and the cell.
"""

from __future__ import annotations

import csv
from pathlib import Path

from mpitrain.program.action import Action, Kind, Schedule
from mpitrain.program.lower import add_transfers
from mpitrain.program.validate import ProgramError, validate
from mpitrain.text import read_text

_COMPUTE = (Kind.F, Kind.B, Kind.I, Kind.W)


def custom(ranks: int, microbatches: int, *, file: str | Path) -> Schedule:
    """Read a schedule: cells such as `2F0`, `2I0`, `2W0`, `2B0` (stage, kind, microbatch); empty cells are passed over.

    A stage lives on the rank whose row has it.  `ValueError` with line and cell if a cell cannot be read, if there are not
    `ranks` rows or not `microbatches` microbatches, or if the rows cannot be run together.
    """
    reader = csv.reader(read_text(file).splitlines(keepends=True))
    rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    schedule = [
        [_action(cell, f"{file}, line {line}, cell {column}") for column, cell in enumerate(row, 1) if cell.strip()]
        for line, row in rows
    ]
    if len(schedule) != ranks:
        raise ValueError(f"{file} has {len(schedule)} rows and the pipeline has {ranks} ranks; expected one row a rank")
    found = sorted({action.microbatch for actions in schedule for action in actions if action.microbatch is not None})
    if found != list(range(microbatches)):
        raise ValueError(
            f"{file} runs {len(found)} microbatches, {found[0]} to {found[-1]}; expected the step's {microbatches}, "
            f"0 to {microbatches - 1}"
        )
    try:
        validate(add_transfers(schedule))
    except ProgramError as error:
        raise ValueError(f"{file}: {error}") from error
    return schedule


def _action(cell: str, where: str) -> Action:
    try:
        action = Action.parse(cell)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if action.kind not in _COMPUTE or action.microbatch is None:
        kinds = ", ".join(kind.value for kind in _COMPUTE)
        raise ValueError(f"{where}: {cell.strip()!r} is not for a schedule; expected stage, one of {kinds}, and microbatch")
    return action
