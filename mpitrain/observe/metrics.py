"""The metrics file: one JSON object a line for each step of a job.

Invariant: a step has one line, also in a job that was resumed from before its last one.  A number that is not finite, such as
the loss of a skipped step, is null: JSON has no other word for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpitrain.observe.json_lines import JsonLines, read_json_lines
from mpitrain.observe.report import StepReport


class MetricsFile:
    """Appends reports to the file `path`, dropping first what it holds of steps later than `after`."""

    def __init__(self, path: Path, *, after: int = 0) -> None:
        self._lines = JsonLines(path, [_finite(line) for line in read_json_lines(path) if line["step"] <= after])

    def step(self, report: StepReport) -> None:
        """Write one line, at once."""
        self._lines.write(_finite(asdict(report)))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; the last is left out if the job died while it was written.

    `ValueError` if there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"there are no metrics in {path.parent}; expected {path.name}, which a run writes there")
    return read_json_lines(path)


def _finite(line: Mapping[str, Any]) -> dict[str, Any]:
    """`line` with `None` for each number that is not finite."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()}
