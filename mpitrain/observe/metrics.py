"""The metrics file: one JSON object a line for each step of a job.

Invariant: a step has one line, also in a job that was resumed from before its last one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpitrain.observe.report import StepReport
from mpitrain.text import read_text


class MetricsFile:
    """Appends reports to the file `path`, dropping first what it holds of steps later than `after`."""

    def __init__(self, path: Path, *, after: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(path) if line["step"] <= after] if path.exists() else []
        self._file = path.open("w", encoding="utf-8")
        for line in kept:
            print(json.dumps(line), file=self._file, flush=True)

    def step(self, report: StepReport) -> None:
        """Write one line, at once."""
        print(json.dumps(asdict(report)), file=self._file, flush=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; the last is left out if the job died while it was written.

    `ValueError` if there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"there are no metrics in {path.parent}; expected {path.name}, which a run writes there")
    lines = read_text(path).splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
