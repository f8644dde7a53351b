"""What every benchmark prints and writes: a table, and a JSON file with the headline, the rows, the machine and the command.

Invariant: a JSON file holds all that is needed to read its numbers without this repository's history.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

#: Packages whose versions a result depends on.
PACKAGES = ("mpitrain", "numpy", "cupy", "mpi4py", "torch")


def report(headline: Mapping[str, float], rows: Sequence[Row], *, json_path: Path | None) -> None:
    """Print `rows` as a table and the headline under it, and write both as JSON if there is a path."""
    print(table(rows))
    print("  ".join(f"{key} {_shown(value)}" for key, value in headline.items()))
    if json_path is not None:
        found = {"headline": headline, "rows": rows, "machine": machine(), "command": command()}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(found, indent=2) + "\n")


def table(rows: Sequence[Row]) -> str:
    """The rows under their keys, in columns; numbers to the right."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys, *([_shown(row.get(key, "")) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    right = [isinstance(rows[0].get(key), (int, float)) for key in keys]
    return "\n".join(
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in cells
    )


def machine() -> dict[str, Any]:
    """The processor, how many of it this process may use, the load, its priority, and the versions of what matters."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "nice": os.nice(0),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "threads": {key: value for key, value in sorted(os.environ.items()) if key.endswith("_NUM_THREADS")},
    }


def command() -> str:
    """The line that repeats this run from the root of the repository."""
    script = Path(sys.argv[0]).resolve()
    root = script.parent.parent
    arguments = [str(Path(a).relative_to(root)) if Path(a).is_relative_to(root) else a for a in sys.argv[1:]]
    return shlex.join(["python", str(script.relative_to(root)), *arguments])


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
