"""`Record`: what a rank is doing, in memory that outlives it, since a rank that is killed can no longer say.

Invariant: a note is a copy of some bytes and no system call; only the launcher reads it, once the job has ended.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from mpitrain.comm.failure import report_file

_BYTES = 256


class Record:
    """The notes of this process; without a launcher that would read them, they go nowhere."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | bytearray = bytearray(_BYTES)
        if (report := report_file()) is not None:
            file = os.open(f"{report}.doing", os.O_RDWR | os.O_CREAT)
            os.truncate(file, _BYTES)
            self._memory = mmap.mmap(file, _BYTES)
            os.close(file)

    def note(self, what: str) -> None:
        """From now on the rank does `what`; nothing that is worth telling if it is empty."""
        self._memory[:] = what.encode()[:_BYTES].ljust(_BYTES, b"\0")


def last_notes(report: Path) -> str:
    """What the ranks of an ended job were doing, a line each; `report` is the path that `launch` gave them."""
    found = {}
    for file in report.parent.glob(f"{report.name}.*.doing"):
        rank = int(file.name.split(".")[-2])
        found[rank] = file.read_bytes().rstrip(b"\0").decode(errors="replace")
    return "".join(f"[rank {rank}] was in {what}\n" for rank, what in sorted(found.items()) if what)
