"""Files of a JSON object a line, which a run adds to while it goes on.

Invariant: a line is on its way to the disk when `write` returns; a process that ends at any moment leaves the lines before it,
and at most one that is cut, which readers leave out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mpitrain.text import read_text


class JsonLines:
    """Adds to the file `path`, which begins with the objects `first` and holds nothing else of what it held."""

    def __init__(self, path: Path, first: Iterable[dict[str, Any]]) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text("".join(f"{json.dumps(line)}\n" for line in first), encoding="utf-8")
        os.replace(partial, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line.  `OSError` names the file."""
        try:
            print(json.dumps(line), file=self._file, flush=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(self._path)) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file, none if there is no file.  `ValueError` names one that is no JSON object."""
    lines = read_text(path).splitlines(keepends=True) if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):
            try:
                found.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is no JSON object ({error}); remove the line") from error
    return found
