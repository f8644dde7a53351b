"""A folder of checkpoints: which is the newest, and which may go.

Invariant: only whole checkpoints count, so a damaged one is neither resumed from nor makes an older, good one go.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mpitrain.checkpoint.load import Checkpoint
from mpitrain.checkpoint.manifest import NAME


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a checkpoint, and not a folder of some."""
    return (path / NAME).exists()


def newest(folder: Path) -> Path | None:
    """The whole checkpoint of most steps in `folder`, if there is one; a `UserWarning` for each damaged one passed over."""
    return next((path for path, _ in _whole(folder)), None)


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove what is older than the newest `keep` whole checkpoints, and what unfinished saves left; the paths removed."""
    kept = [step for _, step in islice(_whole(folder), keep)]
    gone = [path for step, path in _steps(folder) if len(kept) == keep and step < kept[-1]]
    gone += folder.glob("step-*.partial")
    for path in gone:
        shutil.rmtree(path)
    return gone


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Everything in `folder` that is named like a checkpoint, the most steps first."""
    found = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _whole(folder: Path) -> Iterator[tuple[Path, int]]:
    for step, path in _steps(folder):
        try:
            Checkpoint.open(path)
        except ValueError as error:
            warnings.warn(f"passing over {path}: {error}", stacklevel=3)
        else:
            yield path, step
