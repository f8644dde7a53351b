"""A schedule that a person writes, or that torch dumps: a CSV file with one row a rank.

Invariant: what comes back has passed `validate`; an error says the line and the cell.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from mpitrain.program.action import Action, Kind, Schedule
from mpitrain.program.lower import add_transfers
from mpitrain.program.validate import ProgramError, validate
from mpitrain.text import read_text

_COMPUTE = (Kind.F, Kind.B, Kind.I, Kind.W)

#: What torch.distributed.pipelining writes for two actions that its runtime may overlap, such as `(0F4;3B0)OVERLAP_F_B`.
_OVERLAP = re.compile(r"\((.*)\)OVERLAP_F_B")
#: What it writes into a schedule, or we into an order of our own, that lowering adds: transfers and the exchange of weights.
_ADDED = re.compile(r"\d+(((SEND|RECV)_[FB]\d+)|UNSHARD|RESHARD|REDUCE_GRAD)")


def custom(ranks: int, microbatches: int, *, file: str | Path) -> Schedule:
    """Read a schedule: cells such as `2F0`, `2I0`, `2W0`, `2B0` (stage, kind, microbatch); empty cells are passed over.

    Transfers, and torch's `UNSHARD`, `RESHARD` and `REDUCE_GRAD`, are passed over too: what has to be sent and summed follows
    from the order.  Two actions that torch overlaps come one after the other.  A stage lives on the rank whose row has it.
    `ValueError` with line and cell if a cell cannot be read, if there are not `ranks` rows or not `microbatches` microbatches,
    or if the rows cannot be run together.
    """
    reader = csv.reader(read_text(file).splitlines(keepends=True))
    rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    schedule = [
        [
            _action(word, f"{file}, line {line}, cell {column}")
            for column, cell in enumerate(row, 1)
            for word in _words(cell.strip())
        ]
        for line, row in rows
    ]
    if len(schedule) != ranks:
        raise ValueError(f"{file} has {len(schedule)} rows and the pipeline has {ranks} ranks; expected one row a rank")
    found = sorted({action.microbatch for actions in schedule for action in actions if action.microbatch is not None})
    if found != list(range(microbatches)):
        shown = f"{len(found)} microbatches, {found[0]} to {found[-1]}" if found else "no microbatch"
        raise ValueError(f"{file} runs {shown}; expected the step's {microbatches}, 0 to {microbatches - 1}")
    try:
        validate(add_transfers(schedule))
    except ProgramError as error:
        raise ValueError(f"{file}: {error}") from error
    return schedule


def _words(cell: str) -> list[str]:
    """The actions in a cell that are to be computed."""
    if not cell or _ADDED.fullmatch(cell):
        return []
    overlap = _OVERLAP.fullmatch(cell)
    return [word for part in overlap[1].split(";") for word in _words(part.strip())] if overlap else [cell]


def _action(cell: str, where: str) -> Action:
    try:
        action = Action.parse(cell)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if action.kind not in _COMPUTE or action.microbatch is None:
        kinds = ", ".join(kind.value for kind in _COMPUTE)
        raise ValueError(f"{where}: {cell.strip()!r} is not for a schedule; expected stage, one of {kinds}, and microbatch")
    return action
